"""``zero1toa generate`` from outside: bad input leaves nothing, a killed run continues, every promised file is made."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zero1toa.cli import app
from zero1toa.commands.photo import open_photo
from zero1toa.errors import PortraitError
from zero1toa.head.protocol import HeadParams
from zero1toa.portrait.keeping import keep_portrait, kept_portrait
from zero1toa.storage import Storage
from zero1toa.types import Portrait

SMALL = (
    "loop.iterations=12",
    "loop.update_interval=4",
    "loop.checkpoint_every=4",
    "loop.preview_every=6",
    "loop.batch_frames=1",
    "render.size=64",
    "avatar.gaussians_per_triangle=1",
    "curriculum.frames=2",
    "curriculum.temporal_start=4",
    "curriculum.real_start=8",
    "diffusion.backbone=fake",
    "diffusion.steps=2",
    "tracking.wandb=disabled",
)


def _refused(photo: str, output: Path, *more: str) -> str:
    result = CliRunner().invoke(app, ["generate", photo, "--output", str(output), *SMALL, *more])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert not output.exists()
    return lines[0]


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path):
    out = tmp_path / "out"
    text = tmp_path / "notes.jpg"
    text.write_text("no image at all")
    plain = tmp_path / "plain.png"
    Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(plain)
    assert "notes.jpg" in _refused(str(text), out)
    assert "no face" in _refused(str(plain), out)
    assert "absent.jpg" in _refused(str(tmp_path / "absent.jpg"), out)
    assert "did you mean 'astronaut'" in _refused("sample:astronout", out)
    assert "did you mean 'loop.iterations'" in _refused("sample:astronaut", out, "loop.iteration=3")
    assert "portrait.face=4" in _refused("sample:astronaut", out, "--face", "4")
    if sys.platform == "linux":
        assert "give another --output" in _refused("sample:astronaut", Path("/proc/zero1toa"))


def test_a_kept_portrait_is_the_same(tmp_path: Path):
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = {"shape": (4,), "expression": (5,), "jaw": (3,), "neck": (3,), "eyes": (2, 3), "lids": (2,)}
    params = HeadParams(**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
    rng = np.random.default_rng(0)
    portrait = Portrait(
        image=rng.integers(0, 255, (8, 8, 4), np.uint8),
        landmarks=rng.random((478, 2), np.float32),
        viewmat=rng.random((4, 4), np.float32),
        K=rng.random((3, 3), np.float32),
        params=params,
        arkit=rng.random(52, np.float32),
        residual=0.005,
        yaw=-3.25,
        notes=("first, with a comma", "second"),
    )
    folder = Storage(tmp_path)
    keep_portrait(folder, portrait, "abc")
    kept = kept_portrait(folder, "abc")
    assert kept is not None
    assert (kept.residual, kept.yaw, kept.notes) == (0.005, -3.25, portrait.notes)
    for name in ("image", "landmarks", "viewmat", "K", "arkit"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(portrait, name))
    for name in shapes:
        assert torch.equal(getattr(kept.params, name), getattr(params, name))
    assert kept.params.offset is None
    assert kept_portrait(folder, "of another photo") is None
    (tmp_path / "portrait" / "portrait.npz").write_bytes(b"half")
    assert kept_portrait(folder) is None


def test_unknown_samples_are_named():
    with pytest.raises(PortraitError, match="samples: astronaut"), open_photo("sample:mona"):
        pass


def _command(output: Path, *more: str) -> list[str]:
    photo = ["sample:astronaut", "--output", str(output)]
    return [sys.executable, "-m", "zero1toa.cli", "generate", *photo, *more, *SMALL]


def _wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 240.0) -> None:
    """Until another process has written ``path``; looking is all that one can do from outside."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the run ended before it wrote what was waited for"
        assert time.monotonic() < end
        os.sched_yield()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--serial", ""])
def test_a_backbone_without_weights_is_one_line(tmp_path: Path, mode: str):
    command = [*_command(tmp_path / "out", *([mode] if mode else [])), "diffusion.backbone=echomimic"]
    environment = {**os.environ, "ZERO1TOA_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the backbone 'echomimic' lacks 5 of its 5 files in ")
    assert "raylet" not in done.stdout  # what Ray says of actors that are sent home before they have begun
    assert not (tmp_path / "out" / "avatar").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["--serial", ""])
def test_a_killed_run_continues_and_ends_with_everything(tmp_path: Path, mode: str):
    output = tmp_path / "out"
    modes = [mode] if mode else []
    process = subprocess.Popen(_command(output, *modes), stdout=subprocess.DEVNULL, start_new_session=True)
    _wait_for(output / "checkpoint" / "state.pt", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "avatar").exists()

    done = subprocess.run(_command(output, *modes), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "continuing at iteration" in done.stdout
    for name in ("avatar/avatar.json", "preview.mp4", "preview.png", "contact_sheet.png", "report.html", "log.jsonl"):
        assert (output / name).stat().st_size > 0, name
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["generation"]["iterations"] == 12
    assert not [path for path in output.rglob("*") if path.name.startswith(".") and path.name != ".lock"]

    again = subprocess.run(_command(output, *modes), capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "is complete" in again.stdout
    other = subprocess.run(_command(output, *modes, "seed=9"), capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "seed was 0 and is 9" in other.stderr

    picture = tmp_path / "x.png"
    shown = CliRunner().invoke(
        app, ["render", str(output), "--expression", "jawOpen=0.8", "--size", "64", "--transparent", "-o", str(picture)]
    )
    assert shown.exit_code == 0, shown.output
    assert Image.open(picture).size == (64, 64)
    assert Image.open(picture).mode == "RGBA"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("modes", "number"), [(("--serial",), signal.SIGINT), ((), signal.SIGTERM)])
def test_a_stopped_command_says_so_and_the_same_one_continues(
    modes: tuple[str, ...], number: signal.Signals, tmp_path: Path
):
    output = tmp_path / "out"
    process = subprocess.Popen(
        _command(output, *modes),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A test run that was started in the background ignores the signal, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _wait_for(output / "checkpoint" / "state.pt", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1] == "stopped; the same command continues"
    done = subprocess.run(_command(output, *modes), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (output / "metrics.json").is_file()
