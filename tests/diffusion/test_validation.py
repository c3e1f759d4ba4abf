from __future__ import annotations

import numpy as np
import torch

from tests.diffusion.ellipse_clips import EllipseClips
from zero1toa.diffusion.compact import CompactBackbone
from zero1toa.diffusion.training.natural import NaturalImages, held_out
from zero1toa.diffusion.training.validate import (
    Setting,
    autoencoder_ceiling,
    evaluate,
    held_out_clips,
    psnr,
    sharpness,
    summarize,
    table_line,
)


class _Perfect(CompactBackbone):
    """Codec without loss, and a v that always points at one fixed picture."""

    def __init__(self, target: torch.Tensor) -> None:
        from tests.diffusion.test_compact import tiny_model

        super().__init__(tiny_model())
        self.target = target

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_unshuffle(frames.flatten(0, 1).movedim(-1, 1), 4).unflatten(
            0, frames.shape[:2]
        )

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        images = torch.nn.functional.pixel_shuffle(latents.flatten(0, 1), 4).movedim(1, -1)
        return images.unflatten(0, latents.shape[:2]).clamp(0, 1)

    def prepare_control(self, maps: torch.Tensor, source: torch.Tensor | None = None) -> None:  # type: ignore[override]
        return None

    def run(self, latents, timestep, reference, control, halves):
        from zero1toa.diffusion.schedule import NoiseSchedule

        alpha, sigma = NoiseSchedule.from_config(self.spec.scheduler).level(timestep)
        return (alpha * latents - self.encode(self.target)) / sigma


def test_masked_psnr_and_sharpness_equal_their_definitions() -> None:
    rng = np.random.default_rng(0)
    truth, image = rng.random((2, 2, 3, 8, 8, 3))
    mask = (rng.random((2, 3, 8, 8, 1)) > 0.4).astype(float)
    found = psnr(*(torch.from_numpy(a) for a in (image, truth, mask)))
    for clip in range(2):
        inside = np.broadcast_to(mask[clip] > 0, truth[clip].shape)
        mse = np.mean((image[clip] - truth[clip])[inside] ** 2)
        np.testing.assert_allclose(float(found[clip]), -10 * np.log10(mse), rtol=1e-5)
    halved = torch.from_numpy(0.5 + (truth - 0.5) * 0.5)
    ratio = sharpness(halved, torch.from_numpy(truth), torch.from_numpy(mask))
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.25))


def test_a_perfect_model_reaches_the_truth_and_is_reported_so() -> None:
    clips = held_out_clips(EllipseClips(5), 3, 2, 32, seed=1)
    clips["kind"] = ["front", "side", "front"]
    backbone = _Perfect(clips["truth"])
    assert autoencoder_ceiling(backbone, clips) > 60
    results = evaluate(backbone, clips, Setting(steps=10, strength=0.3, guidance=1.0))
    assert results["after"].min() > 45
    assert results["detail"].min() > 45
    summary = summarize(results, clips["kind"])
    assert summary["worse"] == 0
    assert set(summary["gain_by_kind"]) == {"front", "side"}
    np.testing.assert_allclose(summary["gain"], summary["after"] - summary["before"])
    assert "gain +" in table_line("default", summary)


def test_held_out_clips_repeat_by_seed() -> None:
    first, again, other = (held_out_clips(EllipseClips(5), 2, 2, 32, seed=s) for s in (1, 1, 2))
    assert torch.equal(first["truth"], again["truth"])
    assert not torch.equal(first["truth"], other["truth"])
    assert first["maps"].shape == (2, 2, 32, 32, 3)


def test_natural_crops_are_pictures_and_repeat_by_seed() -> None:
    natural = NaturalImages()
    assert len(natural.names) >= 5
    assert not any("astronaut" in name for name in natural.names)
    crops = [natural.sample(torch.Generator().manual_seed(s), 6, 64) for s in (0, 0, 1)]
    assert crops[0].shape == (6, 3, 64, 64)
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])
    assert 0 <= float(crops[0].min()) <= float(crops[0].max()) <= 1
    assert float(crops[0].std((1, 2, 3)).min()) > 0.005
    portrait = held_out(128)
    assert portrait is not None
    assert portrait.shape == (16, 3, 128, 128)
