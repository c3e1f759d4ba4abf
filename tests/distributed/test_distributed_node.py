"""What a machine gets once, however many processes want it at a time."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from competing import VERSIONS, build_for_ever, compete, fetch_beside, note

from zero1toa import assets
from zero1toa.config import load
from zero1toa.distributed import node
from zero1toa.distributed.node import fetch_weights, prepare_node, use_caches
from zero1toa.distributed.once import once
from zero1toa.errors import AssetError, ConfigError, OutputError, StorageError
from zero1toa.storage import Storage

SPAWN = multiprocessing.get_context("spawn")


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().split() if (folder / "log").exists() else []


def test_of_many_processes_one_builds(tmp_path: Path):
    barrier, answers = SPAWN.Barrier(4), SPAWN.Queue()
    workers = [SPAWN.Process(target=compete, args=(tmp_path, barrier, answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    built = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(built) == [False, False, False, True]
    assert log(tmp_path) == ["build"]


def test_when_the_builder_is_killed_the_next_one_builds(tmp_path: Path):
    begun, barrier, answers = SPAWN.Event(), SPAWN.Barrier(2), SPAWN.Queue()
    builder = SPAWN.Process(target=build_for_ever, args=(tmp_path, begun))
    builder.start()
    assert begun.wait(60)
    waiting = [SPAWN.Process(target=compete, args=(tmp_path, barrier, answers)) for _ in range(2)]
    for worker in waiting:
        worker.start()
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert sorted(answers.get(timeout=60) for _ in waiting) == [False, True]
    for worker in waiting:
        worker.join()
    assert log(tmp_path) == ["build", "build"]
    assert (tmp_path / "product").read_text() == "x"


def test_it_is_built_again_for_other_versions_or_when_it_is_gone(tmp_path: Path):
    def build():
        note(tmp_path, "build")
        (tmp_path / "product").write_text("x")
        return [tmp_path / "product"]

    assert once(tmp_path, "thing", VERSIONS, build)
    assert not once(tmp_path, "thing", VERSIONS, build)
    assert once(tmp_path, "thing", {"torch": "2"}, build)
    (tmp_path / "product").unlink()
    assert once(tmp_path, "thing", {"torch": "2"}, build)
    (tmp_path / "thing.json").write_text("{")
    assert once(tmp_path, "thing", {"torch": "2"}, build)
    assert not once(tmp_path, "thing", {"torch": "2"}, build)
    assert len(log(tmp_path)) == 4


def test_a_build_that_fails_leaves_no_mark(tmp_path: Path):
    def fail():
        raise ConfigError("no compiler")

    with pytest.raises(ConfigError):
        once(tmp_path, "thing", VERSIONS, fail)
    assert once(tmp_path, "thing", VERSIONS, lambda: [])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path / "home"))
    for name in ("U2NET_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path: Path) -> Storage:
    """Two weights of unknown checksum, one of them in a folder, and a file that is none."""
    storage = Storage(f"memory://{tmp_path.name}/weights")
    storage.write("sd-vae-ft-mse/diffusion_pytorch_model.safetensors", b"vae")
    storage.write("flame2020.npz", b"flame")
    storage.write("readme.txt", b"hello")
    return storage


def patch_checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    checked: list[str] = []
    monkeypatch.setattr(assets, "check", lambda asset, file: checked.append(f"{asset.name}:{file.read_bytes()!r}"))
    return checked


def test_weights_that_are_missing_are_copied_once(home: Path, source: Storage, monkeypatch: pytest.MonkeyPatch):
    checked = patch_checks(monkeypatch)
    config = load([f"distributed.weights={source.url}"])
    prepare_node(config, torch.device("cpu"))
    assert {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()} == {
        ".weights.lock",
        "flame2020.npz",
        "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
    }
    assert (home / "flame2020.npz").read_bytes() == b"flame"
    assert checked == ["sd-vae:b'vae'"]  # flame2020.npz is converted; nobody knows its checksum
    assert fetch_weights(source) == []
    # One that comes later is fetched too, and what is here is not touched.
    (home / "flame2020.npz").write_bytes(b"mine")
    source.write("follow_your_emoji/unet.pth", b"unet")
    assert fetch_weights(source) == [home / "follow_your_emoji" / "unet.pth"]
    assert (home / "flame2020.npz").read_bytes() == b"mine"


def test_processes_that_start_together_copy_each_file_once(home: Path, tmp_path: Path):
    storage = Storage(tmp_path / "share")
    for name in ("flame2020.npz", "flame2023.npz"):
        storage.write(name, b"\x00" * 2**20)
    barrier, counts = SPAWN.Barrier(3), SPAWN.Queue()
    workers = [SPAWN.Process(target=fetch_beside, args=(storage.url, home, barrier, counts)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert sorted(counts.get(timeout=60) for _ in workers) == [0, 0, 2]
    for worker in workers:
        worker.join()


def test_damaged_weights_are_refused_and_leave_nothing(home: Path, tmp_path: Path):
    storage = Storage(tmp_path / "share")
    storage.write("u2net.onnx", b"\x08 far too short")
    with pytest.raises(AssetError, match="incomplete"):
        fetch_weights(storage)
    assert [path.name for path in home.rglob("*")] == [".weights.lock"]


def test_a_folder_without_weights_is_refused(home: Path, tmp_path: Path):
    (tmp_path / "share").mkdir()
    with pytest.raises(AssetError, match=r"share holds no weights that this version reads.*u2net\.onnx"):
        fetch_weights(Storage(tmp_path / "share"))


def test_an_asset_folder_that_cannot_be_written_is_named(home: Path, source: Storage):
    home.write_text("a file")
    with pytest.raises(OutputError, match="home"):
        fetch_weights(source)


def test_storage_fetches_a_file_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zero1toa.storage._PIECE", 1000)
    content = bytes(range(256)) * 10
    storage = Storage(f"memory://{tmp_path.name}/pieces")
    storage.write("a/b", content)
    storage.fetch("a/b", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        storage.fetch("a/c", tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(StorageError, match="cannot write"):
        storage.fetch("a/b", tmp_path / "deep" / "b" / "c")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """A GPU that is not there."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40S")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    return torch.device("cuda", 0)


def test_caches_are_those_of_the_gpu_and_the_version(home: Path, gpu, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "__version__", "2.15.0+cu130")
    folder = use_caches(gpu)
    assert folder == home / "compiled" / "nvidia-l40s-sm89-torch-2.15.0-cu130"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder / "inductor")
    assert os.environ["TRITON_CACHE_DIR"] == str(folder / "triton")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    assert use_caches(gpu) != folder
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"


def test_gsplat_is_built_where_it_is_used(home: Path, gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library = tmp_path / "gsplat_cuda.so"
    calls = []

    def build():
        calls.append(1)
        library.touch()
        return [library]

    monkeypatch.setattr(node, "build_gsplat", build)
    prepare_node(load(["render.backend=torch"]), gpu)
    assert calls == []
    for _ in range(3):
        prepare_node(load(), gpu)
    assert calls == [1]
    (marker,) = home.rglob("gsplat.json")
    assert json.loads(marker.read_text())["versions"].keys() == {"torch", "gsplat"}


def test_lpips_is_compiled_once_for_each_size_where_avatars_train(home: Path, gpu, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def build(size, batches, device):
        calls.append((size, tuple(batches)))
        return [home]

    monkeypatch.setattr(node, "build_lpips", build)
    settings = ["render.backend=torch", "render.size=256", "loop.batch_frames=8", "curriculum.frames=4"]
    prepare_node(load(settings), gpu, training=True)
    assert calls == []  # LPIPS has no weights here, so that something else stands in for it
    vgg = assets.get("vgg16")
    vgg.places[0].parent.mkdir(parents=True, exist_ok=True)
    vgg.places[0].touch()
    os.truncate(vgg.places[0], vgg.size or 0)  # what is looked for has this size; nothing reads it here
    prepare_node(load(settings), gpu)  # a refiner
    prepare_node(load([*settings, "loss.perceptual=0"]), gpu, training=True)
    prepare_node(load([*settings, "loss.perceptual_kind=structure"]), gpu, training=True)
    assert calls == []
    for _ in range(2):
        prepare_node(load(settings), gpu, training=True)
    prepare_node(load([*settings, "render.size=512"]), gpu, training=True)
    assert calls == [(256, (1, 4)), (512, (1, 4))]


def test_a_machine_without_a_compiler_is_told_so(home: Path, gpu, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=None))
    with pytest.raises(ConfigError, match="finds no nvcc"):
        prepare_node(load(), gpu)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", None)  # importing it fails, as when the compiler does
    with pytest.raises(ConfigError, match=r"cannot be compiled on this machine .*; install the CUDA toolkit"):
        prepare_node(load(), gpu)
    assert not list(home.rglob("gsplat.json"))


@pytest.mark.gpu
def test_a_real_gpu_is_prepared(home: Path, monkeypatch: pytest.MonkeyPatch):
    prepare_node(load(), torch.device("cuda", 0))
    (marker,) = home.rglob("gsplat.json")
    (library,) = json.loads(marker.read_text())["files"]
    assert Path(library).suffix == ".so"
    monkeypatch.setattr(node, "build_gsplat", lambda: pytest.fail("built twice"))
    prepare_node(load(), torch.device("cuda", 0))
