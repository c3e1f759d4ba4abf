"""Storage on a file system, on a remote one without atomic uploads, and on an object store."""

import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zero1toa.errors import OutputError
from zero1toa.storage import Storage


@pytest.fixture(params=["path", "remote", "objects"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    urls = {
        "path": str(tmp_path / "out"),
        "remote": f"dir::file://{tmp_path}/out",  # fsspec's wrapper stands for a file system that is not this machine's
        "objects": f"memory://{tmp_path.name}/out",
    }
    return Storage(urls[request.param])


def test_files_come_back(storage: Storage):
    assert not storage.exists("a/b.txt")
    assert storage.files("a") == storage.folders() == []
    storage.write("a/b.txt", "früh")
    storage.write("a/b.txt", "spät")
    storage.write("a/c.bin", lambda file: file.write(b"\x00\x01"))
    storage.write("a/.hidden.txt", b"")
    storage.write("a/d/e.txt", b"deep")
    assert storage.read_text("a/b.txt") == "spät"
    assert storage.read("a/c.bin") == b"\x00\x01"
    assert storage.files("a") == ["b.txt", "c.bin"]
    assert storage.files("a", ".txt") == ["b.txt"]
    assert storage.folders("a") == ["d"]
    assert (storage / "a").files() == ["b.txt", "c.bin"]
    assert (storage / "a" / "d").name == "d"
    storage.delete("a/b.txt")
    storage.delete("a/b.txt")
    storage.delete("a/d")
    assert storage.files("a") == ["c.bin"]
    assert storage.folders("a") == []
    with pytest.raises(FileNotFoundError):
        storage.read("a/b.txt")


def test_files_can_be_streamed(storage: Storage):
    storage.write("a.bin", bytes(range(200)))
    with storage.open("a.bin") as stream:
        assert stream.read(3) == b"\x00\x01\x02"
        assert stream.read() == bytes(range(3, 200))
    with pytest.raises(FileNotFoundError):
        storage.open("b.bin")


def test_a_storage_is_pickled_by_its_url(storage: Storage):
    storage.write("x", b"1")
    again = pickle.loads(pickle.dumps(storage))
    assert again == storage
    assert again.read("x") == b"1"


def test_folders_are_copied_with_the_last_file_last(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for name in ("a.json", "b.bin", "sub/c.bin"):
        (source / name).write_text(name)
    order = []
    write = Storage.write
    monkeypatch.setattr(Storage, "write", lambda self, name, content: (order.append(name), write(self, name, content)))
    storage.upload(source, "bundle", last="a.json")
    assert order[-1] == "bundle/a.json"
    assert len(order) == 3
    storage.download("bundle", tmp_path / "back")
    assert {p.relative_to(tmp_path / "back").as_posix() for p in (tmp_path / "back").rglob("*") if p.is_file()} == {
        "a.json", "b.bin", "sub/c.bin",
    }  # fmt: skip


def test_a_writer_that_fails_leaves_the_old_file(storage: Storage):
    def broken(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    storage.write("x", b"old")
    with pytest.raises(OutputError, match=r"cannot write .*x: No space left on device"):
        storage.write("x", broken)
    assert storage.read("x") == b"old"
    assert storage.files() == ["x"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # zipfile tries once more to close
@pytest.mark.parametrize("room", [100, 70_000, 399_000])
def test_a_writer_whose_format_fails_again_as_it_closes_is_explained_by_the_system(room: int, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    storage = Storage(tmp_path)
    for write in (
        lambda file: torch.save({"a": torch.zeros(50_000), "b": torch.zeros(50_000)}, file),
        lambda file: np.savez(file, a=np.zeros(50_000, np.float32), b=np.zeros(50_000, np.float32)),
    ):
        storage.write("x", b"old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # as a disk that is full after so many bytes
        try:
            with pytest.raises(OutputError, match=r"cannot write .*x: File too large"):
                storage.write("x", write)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert storage.read("x") == b"old"
        assert storage.files() == ["x"]


@pytest.mark.parametrize("remote", [False, True])
def test_a_killed_writer_leaves_no_torn_file(remote: bool, tmp_path: Path):
    url = f"dir::file://{tmp_path}" if remote else str(tmp_path)
    script = (
        "import sys; from zero1toa.storage import Storage\n"
        "storage, count = Storage(sys.argv[1]), 0\n"
        "while True:\n"
        "    storage.write('x', bytes([count % 256]) * 3_000_000); count += 1\n"
        "    print(count, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= 3:
            break
    writer.kill()
    writer.wait()
    writer.stdout.close()
    data = Storage(url).read("x")
    assert len(data) == 3_000_000
    assert len(set(data)) == 1


def test_mistakes_are_named(tmp_path: Path):
    with pytest.raises(OutputError, match="cannot open bucket://x"):
        Storage("bucket://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        Storage(tmp_path / "file").write("x", b"")
    with pytest.raises(FileNotFoundError):
        Storage(tmp_path / "file").read("x")


def test_files_have_the_rights_of_any_new_file(tmp_path: Path):
    (tmp_path / "plain").write_bytes(b"")
    Storage(tmp_path).write("written", b"")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode
