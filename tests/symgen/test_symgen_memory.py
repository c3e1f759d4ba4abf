"""Running out of GPU memory in training: what is said is measured, what is offered fits, and the run can go on.

No GPU: its memory is made up, and a stand-in runs out of it.
"""

import re
from pathlib import Path

import pytest
import torch
from tiny import tiny_config, tiny_portrait
from typer.testing import CliRunner

from zero1toa import assets
from zero1toa.cli import app
from zero1toa.commands import generate
from zero1toa.config import load
from zero1toa.errors import DeviceMemoryError
from zero1toa.symgen.loop import generate_serial
from zero1toa.symgen.memory import training_explained, training_gib, training_settings_that_fit
from zero1toa.symgen.reconstruct import Reconstruction

CUDA = torch.device("cuda")
FACES = 12_056  # of the embedded head
GIB = 2**30


def paper(*overrides):
    return load(["preset=paper", *overrides])


def dataset_gib(config):
    return 3 * 40 * 16 * config.render.size**2 / GIB  # 40 clips of 16 frames


@pytest.fixture
def vgg(monkeypatch):
    monkeypatch.setattr(assets, "find", lambda name: Path("vgg16.pth"))


@pytest.fixture
def no_vgg(monkeypatch):
    monkeypatch.setattr(assets, "find", lambda name: None)


def gpu(monkeypatch, free, total=24.0, allocated=0.0):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), int(total * GIB)))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: int(allocated * GIB))


@pytest.mark.parametrize(("size", "peak"), [(512, 2.57), (1024, 9.50)])
def test_it_agrees_with_the_peaks_of_another_measurement(vgg, size, peak):
    """docs/performance.md: in GB, everything since the start counted."""
    config = paper(f"render.size={size}")
    taken = (training_gib(config, FACES) - dataset_gib(config)) * GIB / 1e9
    assert taken == pytest.approx(peak, rel=0.08)


def test_it_grows_with_pixels_frames_and_gaussians(no_vgg):
    def taken(*overrides):
        config = paper(*overrides)
        return (training_gib(config, FACES) - dataset_gib(config)) * GIB

    assert taken() == pytest.approx(0.9277e9, rel=1e-6)  # measured
    assert taken("loop.batch_frames=2") == pytest.approx(0.2854e9, rel=1e-6)  # measured
    # Linear in frames: twice the step from 2 to 8 frames beyond 8.
    assert taken("loop.batch_frames=14") == pytest.approx((2 * 0.9277 - 0.2854) * 1e9, rel=1e-6)
    assert taken("loop.batch_frames=64") == taken("loop.batch_frames=16")  # no clip has more
    per_gaussian = (0.9277e9 - 0.8504e9) / (120_560 - 36_168)  # in 8 frames, measured
    assert taken() - taken("avatar.gaussians_per_triangle=6") == pytest.approx(4 * FACES * per_gaussian, rel=1e-3)


def test_only_what_fits_is_offered(vgg):
    config = paper()
    offered = training_settings_that_fit(config, FACES, 1.5)
    assert [text.split("=")[0] for text in offered] == ["loop.batch_frames", "render.size", "loss.perceptual_kind"]
    for text in offered:
        change, said = re.fullmatch(r"(\S+) \(about ([\d.]+) GiB\)", text).groups()
        taken = training_gib(paper(change), FACES)
        assert taken == pytest.approx(float(said), abs=0.005)
        assert taken <= 1.5
    frames = int(offered[0].split("=")[1].split()[0])
    assert training_gib(paper(f"loop.batch_frames={frames + 1}"), FACES) > 1.5
    # Gaussians are a small part: fewer of them suffice only where little is missing.
    assert any("gaussians_per_triangle=6" in text for text in training_settings_that_fit(config, FACES, 2.66))
    both = training_settings_that_fit(paper("loss.perceptual_kind=structure", "render.size=1024"), FACES, 0.18)
    assert len(both) == 1
    assert both[0].startswith("loop.batch_frames=1 render.size=")
    assert training_settings_that_fit(config, FACES, 0.01) == []
    assert training_settings_that_fit(paper("distillation.method=sds"), FACES, 100.0) == []


def test_what_is_said(vgg, monkeypatch):
    gpu(monkeypatch, free=0.5, allocated=1.0)
    with pytest.raises(DeviceMemoryError) as caught, training_explained(paper(), FACES, CUDA):  # noqa: PT012
        gpu(monkeypatch, free=0.5, allocated=4.0)  # of which 1 GiB is not the trainer's
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    text = str(caught.value)
    assert text.startswith("too little GPU memory to train the avatar: of its 24.0 GiB ")
    assert "and 4.0 held by this process" in text
    assert "training takes about 2.7 GiB with 8 frames of 512 pixels, 120560 Gaussians and LPIPS" in text
    assert "\n" not in text
    budget = 0.5 + 4.0 - 1.0
    for taken in re.findall(r"\(about ([\d.]+) GiB\)", text):
        assert float(taken) <= budget


def test_score_distillation_was_not_measured(monkeypatch):
    gpu(monkeypatch, free=0.5)
    config = paper("distillation.method=sds")
    with pytest.raises(DeviceMemoryError, match="was not measured"), training_explained(config, FACES, CUDA):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="a bug"), training_explained(paper(), FACES, CUDA):
        raise RuntimeError("a bug")


def test_a_serial_run_ends_with_one_line_and_exit_code_2_and_can_go_on(monkeypatch, tmp_path):
    gpu(monkeypatch, free=1.0, total=8.0)
    config = tiny_config()
    step = Reconstruction.step

    def hungry(trainer):
        if trainer.step_count == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(trainer)

    monkeypatch.setattr(
        generate, "generate_avatar", lambda *_, **__: generate_serial(tiny_portrait(), config, tmp_path)
    )
    with monkeypatch.context() as patched:
        patched.setattr(Reconstruction, "step", hungry)
        result = CliRunner().invoke(app, ["generate", "photo.jpg", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: too little GPU memory to train the avatar: of its 8.0 GiB 1.0 are free; ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "avatar").exists()
    assert generate_serial(tiny_portrait(), config, tmp_path).continued_from == 4
