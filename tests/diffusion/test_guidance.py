"""Rescaled guidance against the formula of Lin et al. 2023, sec. 3.4, written out in numpy's float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from zero1toa.config import load
from zero1toa.diffusion.fake import FakeBackbone
from zero1toa.diffusion.guidance import guide
from zero1toa.diffusion.sampling import refine_latents
from zero1toa.diffusion.windows import plan_windows, windowed
from zero1toa.errors import ConfigError
from zero1toa.symgen.refine import load_refiner


def _rescaled(conditional: torch.Tensor, null: torch.Tensor, guidance: float, phi: float) -> torch.Tensor:
    results = []
    for positive, negative in zip(conditional.double().numpy(), null.double().numpy(), strict=True):
        mixed = negative + guidance * (positive - negative)
        rescaled = mixed * np.sqrt(np.var(positive) / np.var(mixed))
        results.append(phi * rescaled + (1 - phi) * mixed)
    return torch.from_numpy(np.stack(results))


def _outputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips of unlike spread, so that a standard deviation over the batch would be another one."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.3, 2.0])[:, None, None, None, None]
    conditional, null = spread * torch.randn(2, 2, 5, 4, 8, 8, generator=generator) + 0.2
    return conditional, null


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.5, 7.5])
def test_rescaling_is_its_formula(guidance: float, phi: float) -> None:
    conditional, null = _outputs()
    expected = _rescaled(conditional, null, guidance, phi)
    torch.testing.assert_close(guide(conditional, null, guidance, phi).double(), expected, atol=1e-5, rtol=1e-5)


def test_a_full_rescaling_has_the_conditional_spread_and_half_precision_stays() -> None:
    conditional, null = _outputs()
    whole = guide(conditional, null, 7.5, 1.0)
    torch.testing.assert_close(whole.std((1, 2, 3, 4)), conditional.std((1, 2, 3, 4)))
    assert float(guide(conditional, null, 7.5).std()) > 3 * float(conditional.std())
    half = guide(conditional.bfloat16(), null.bfloat16(), 3.5, 0.7)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), _rescaled(conditional, null, 3.5, 0.7), atol=0.1, rtol=0.02)


def test_a_prediction_without_spread_stays_finite() -> None:
    flat = torch.full((1, 2, 4, 2, 2), 0.3)
    assert torch.equal(guide(flat, flat, 3.5, 1.0), flat)


def _world(frames: int, length: int) -> tuple[FakeBackbone, torch.Tensor, torch.Tensor, torch.Tensor]:
    backbone = FakeBackbone()
    backbone.spec = dataclasses.replace(backbone.spec, max_frames=length, window_overlap=1)
    generator = torch.Generator().manual_seed(1)
    clip, maps = (torch.rand(1, frames, 32, 32, 3, generator=generator) for _ in range(2))
    image = torch.rand(1, 32, 32, 3, generator=generator)
    return backbone, backbone.encode(clip), backbone.prepare_reference(image, image), backbone.prepare_control(maps)


def test_each_window_has_its_own_spread() -> None:
    backbone, latents, reference, control = _world(6, 4)
    output = windowed(backbone, reference, control, 3.5, 6, [499], 0.7)(latents, 499)
    total, count = torch.zeros(latents.shape, dtype=torch.float64), torch.zeros(6)
    for window in plan_windows(6, 4, 1):
        conditional, null = (
            backbone.predict(latents[:, window], 499, reference, control[:, window], conditional=c)
            for c in (True, False)
        )
        total[:, window] += _rescaled(conditional, null, 3.5, 0.7)
        count[window] += 1
    torch.testing.assert_close(output.double(), total / count[:, None, None, None], atol=1e-5, rtol=1e-5)


def test_a_refinement_is_rescaled_in_both_directions() -> None:
    """A run over two levels, moved by hand: up under guidance 1.5, down under 3.5."""
    from zero1toa.diffusion.schedule import CLEAN, NoiseSchedule

    backbone, latents, reference, control = _world(3, 8)
    schedule = NoiseSchedule.from_config(backbone.spec.scheduler)

    def output(x: torch.Tensor, t: int, guidance: float) -> torch.Tensor:
        conditional, null = (backbone.predict(x, t, reference, control, conditional=c) for c in (True, False))
        return _rescaled(conditional, null, guidance, 0.7)

    low, high = schedule.timesteps(10, 0.2)[::-1]
    levels = [schedule.level(t) for t in (CLEAN, low, high)]
    x = latents.double()
    x = schedule.move(x, output(x.float(), low, 1.5), levels[0], levels[1])
    x = schedule.move(x, output(x.float(), high, 1.5), levels[1], levels[2])
    x = schedule.move(x, output(x.float(), high, 3.5), levels[2], levels[1])
    x = schedule.move(x, output(x.float(), low, 3.5), levels[1], levels[0])
    settings = {"steps": 10, "strength": 0.2, "guidance": 3.5, "inversion_guidance": 1.5}
    refined = refine_latents(backbone, latents, reference, control, **settings, guidance_rescale=0.7)
    torch.testing.assert_close(refined.double(), x, atol=1e-4, rtol=1e-4)
    plain = refine_latents(backbone, latents, reference, control, **settings)
    assert float((refined - plain).abs().max()) > 0.05


@pytest.mark.parametrize("rescale", [-0.1, 1.5])
def test_a_share_outside_its_range_is_refused_before_a_run(rescale: float) -> None:
    config = load(["preset=paper", "diffusion.backbone=fake", f"diffusion.guidance_rescale={rescale}"])
    with pytest.raises(ConfigError, match="guidance_rescale must be between 0"):
        load_refiner(config, torch.device("cpu"))
