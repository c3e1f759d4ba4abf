"""Too little GPU memory: what is needed by hand, what is said, and how a run ends. No GPU: its memory is made up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zero1toa.cli import app
from zero1toa.config import Config, load
from zero1toa.diffusion import registry
from zero1toa.diffusion.animator.blocks import ResnetBlock
from zero1toa.diffusion.animator.networks import build_networks
from zero1toa.diffusion.facts import parameter_counts
from zero1toa.diffusion.fake import FakeBackbone
from zero1toa.diffusion.memory import PEAKS, check_memory, explained, needed_gib, settings_that_fit
from zero1toa.errors import DeviceMemoryError
from zero1toa.symgen.refine import load_refiner

sys.path.insert(0, str(Path(__file__).parent.parent / "symgen"))
CUDA = torch.device("cuda")
EMOJI = "diffusion.backbone=follow_your_emoji"


def _paper(*overrides: str) -> Config:
    return load(["preset=paper", *overrides])


def _gpu(monkeypatch: pytest.MonkeyPatch, free: float, total: float = 24.0) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * 2**30), int(total * 2**30)))


def _complaint(config: Config) -> str:
    with pytest.raises(DeviceMemoryError) as caught:
        check_memory(config, CUDA)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("frames", "peak"), [(16, 10.76e9), (24, 11.145e9), (8, 10.375e9), (32, 11.145e9), (100, 11.145e9)]
)  # measured, between one clip and two, below; longer clips go through in windows of 24
def test_the_need_is_the_measured_peak(frames: int, peak: float) -> None:
    assert needed_gib(_paper(EMOJI, f"curriculum.frames={frames}")) == pytest.approx(peak / 2**30)


def test_other_types_and_backbones_by_hand() -> None:
    emoji = sum(parameter_counts("follow_your_emoji").values())
    whole = needed_gib(_paper(EMOJI, "diffusion.dtype=float32"))
    # Twice the weights, of which no kernels hold a form of their own; activations at least as in bfloat16.
    assert whole == pytest.approx((10.76e9 - 1.737e9 + 2 * emoji) / 2**30)
    assert needed_gib(_paper("diffusion.backbone=aniportrait")) == pytest.approx(11.45e9 / 2**30)
    plain = needed_gib(_paper("diffusion.backbone=aniportrait", "diffusion.options.compiled=false"))
    assert plain == pytest.approx((11.45e9 - 1.737e9) / 2**30)
    assert needed_gib(_paper("diffusion.backbone=echomimic")) == pytest.approx(9.95e9 / 2**30)  # windows of 12
    fewer = needed_gib(_paper("diffusion.backbone=echomimic", "curriculum.frames=6"))
    assert fewer == pytest.approx(9.65e9 / 2**30)
    assert needed_gib(_paper(EMOJI, "distillation.method=sds")) == pytest.approx(2 * emoji / 2**30)
    assert needed_gib(_paper("diffusion.backbone=mine")) is None


@pytest.mark.parametrize("name", ["follow_your_emoji", "aniportrait", "echomimic"])
def test_what_kernels_hold_of_the_weights_by_hand(name: str) -> None:
    with torch.device("meta"):
        denoiser = build_networks(importlib.import_module(f"zero1toa.diffusion.{name}").CONFIG).denoiser
    convolutions = [layer for block in denoiser.modules() if isinstance(block, ResnetBlock)
                    for layer in (block.conv1, block.conv2)]  # fmt: skip
    pairs = sum(layer.in_channels * layer.out_channels for layer in convolutions)
    assert PEAKS[name].prepared == pytest.approx(16 * 2 * pairs, rel=1e-3)


def test_a_backbone_that_cannot_fit_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpu(monkeypatch, 6.0)
    monkeypatch.setattr(registry, "load_backbone", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(
        DeviceMemoryError, match="too little GPU memory to load the backbone 'follow_your_emoji'"
    ) as error:
        load_refiner(_paper(EMOJI), CUDA)
    weights = 2 * sum(parameter_counts("follow_your_emoji").values()) / 2**30
    more = 10.76e9 / 2**30 - weights
    for words in (
        "of its 24.0 GiB 6.0 are free",
        f"at least 10.0 GiB: {weights:.1f} for weights and {more:.1f} to refine a clip of 16 frames",
        "one NVIDIA H200",
        "diffusion.backbone=compact (weights alone 0.02 GiB)",
    ):
        assert words in str(error.value)
    assert "curriculum.frames" not in str(error.value)  # a single frame needs 9.3 GiB
    assert "bfloat16" not in str(error.value)  # it is that already


def test_what_fits_is_offered_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.048125e9 bytes a frame below 10.76e9 at 16: 9.5 GiB hold (9.5 * 2**30 - 9.99e9) / 0.048125e9 = 4.4 frames.
    _gpu(monkeypatch, 9.5)
    text = _complaint(_paper(EMOJI))
    assert "curriculum.frames=4 (at least 9.48 GiB)" in text
    assert "diffusion.options.compiled=false (at least 8.40 GiB)" in text
    _gpu(monkeypatch, 11.0)
    text = _complaint(_paper(EMOJI, "diffusion.dtype=float32"))
    assert "diffusion.dtype=bfloat16 (at least 10.02 GiB)" in text
    assert "compiled" not in text  # float32 has none of them
    assert "curriculum.frames" not in text
    _gpu(monkeypatch, 3.0)
    text = _complaint(_paper(EMOJI, "distillation.method=sds"))
    assert "the weights of 'follow_your_emoji' alone need" in text
    assert "these settings fit: diffusion.backbone=compact" in text
    _gpu(monkeypatch, 0.01)
    assert "no setting is known to fit" in _complaint(_paper(EMOJI))
    assert settings_that_fit(_paper(), 100.0) == []  # compact needs the least


def test_what_can_fit_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpu(monkeypatch, 10.1)
    check_memory(_paper(EMOJI), CUDA)
    _gpu(monkeypatch, 0.0)
    check_memory(_paper("diffusion.backbone=mine"), CUDA)  # nothing is known of it
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: pytest.fail("a CPU was asked"))
    check_memory(_paper(EMOJI), torch.device("cpu"))


def test_memory_that_torch_keeps_for_this_process_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpu(monkeypatch, 7.0)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * 2**30)
    check_memory(_paper(EMOJI), CUDA)
    with (
        pytest.raises(DeviceMemoryError, match=r"of its 24.0 GiB 11.0 are free and 2.0 held by this process"),
        explained(_paper(EMOJI), CUDA, "to refine a clip"),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="a bug"), explained(_paper(), CUDA, "to refine a clip"):
        raise RuntimeError("a bug")


class _Hungry(FakeBackbone):
    calls = 0

    def predict(self, *arguments, **keywords):
        _Hungry.calls += 1
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_running_out_while_refining_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tiny import tiny_config, tiny_portrait

    from zero1toa.commands import generate
    from zero1toa.symgen.loop import generate_serial

    _gpu(monkeypatch, 1.0, 8.0)
    monkeypatch.setitem(registry._LOADERS, "hungry", lambda device, dtype: _Hungry(device))
    config = tiny_config("diffusion.backbone=hungry")
    monkeypatch.setattr(
        generate, "generate_avatar", lambda *_, **__: generate_serial(tiny_portrait(), config, tmp_path)
    )
    _Hungry.calls = 0
    result = CliRunner().invoke(app, ["generate", "photo.jpg", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: too little GPU memory to refine a clip: of its 8.0 GiB 1.0 are free; ")
    assert "what 'hungry' needs is not known" in result.stderr
    assert "these settings fit: diffusion.backbone=compact" in result.stderr
    assert result.stderr.count("\n") == 1
    assert _Hungry.calls == 1  # trying again would not help
