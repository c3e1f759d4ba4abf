from __future__ import annotations

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from tests.diffusion.gaussian_mixture import UNIT_MIXTURE
from zero1toa.diffusion.inversion import invert
from zero1toa.diffusion.sampling import denoise
from zero1toa.diffusion.schedule import CLEAN, Level, NoiseSchedule
from zero1toa.errors import ConfigError

ZERO_SNR = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}
LINEAR = {**ZERO_SNR, "beta_schedule": "linear"}  # AniPortrait's and EchoMimic's
EPSILON = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
    "clip_sample": False,
}


def _round_trip(steps: int, strength: float = 1.0, iterations: int = 0, config: dict = ZERO_SNR) -> float:
    schedule = NoiseSchedule.from_config(config)
    data = UNIT_MIXTURE.sample(4096, 0)
    timesteps = schedule.timesteps(steps, strength)

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        return UNIT_MIXTURE.predict(schedule, x, t)

    noise = invert(predict, schedule, data, timesteps, iterations)
    back = denoise(predict, schedule, noise, timesteps)
    return float((back - data).abs().mean())


@pytest.mark.parametrize(("steps", "limit"), [(25, 0.06), (50, 0.035), (100, 0.02)])
def test_round_trip_on_an_exact_model(steps: int, limit: float) -> None:
    assert _round_trip(steps) < limit


@pytest.mark.parametrize("config", [ZERO_SNR, LINEAR], ids=["scaled", "linear"])
@pytest.mark.parametrize("steps", [25, 50, 100])
@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_fixed_point_iterations_make_the_inverse_exact(strength: float, steps: int, config: dict) -> None:
    assert _round_trip(steps, strength, 8, config) < 0.1 * _round_trip(steps, strength, config=config)


@pytest.mark.parametrize(("steps", "limit"), [(25, 0.07), (50, 0.04), (100, 0.02)])
def test_models_of_linear_betas_round_trip_too(steps: int, limit: float) -> None:
    assert _round_trip(steps, config=LINEAR) < limit


def test_epsilon_models_round_trip_too() -> None:
    assert _round_trip(100, config=EPSILON) < 0.02
    assert _round_trip(100, iterations=8, config=EPSILON) < 0.002


def test_inverted_noise_of_the_mixture_is_nearly_unit_gaussian() -> None:
    schedule = NoiseSchedule.from_config(ZERO_SNR)
    data = UNIT_MIXTURE.sample(4096, 1)
    noise = invert(lambda x, t: UNIT_MIXTURE.predict(schedule, x, t), schedule, data, schedule.timesteps(100))
    assert 0.95 < float(noise.std()) < 1.01


def test_sampling_from_noise_finds_both_modes() -> None:
    schedule = NoiseSchedule.from_config(ZERO_SNR)
    noise = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    drawn = denoise(lambda x, t: UNIT_MIXTURE.predict(schedule, x, t), schedule, noise, schedule.timesteps(50))
    assert abs(float(drawn.mean())) < 0.06
    assert abs(float(drawn[drawn > 0].mean()) - 0.97) < 0.06
    assert abs(float(drawn.std()) - 1) < 0.06


@pytest.mark.parametrize("config", [ZERO_SNR, EPSILON], ids=["v", "epsilon"])
@pytest.mark.parametrize("steps", [10, 25, 50])
def test_steps_equal_diffusers(config: dict, steps: int) -> None:
    schedule = NoiseSchedule.from_config(config)
    generator = torch.Generator().manual_seed(steps)
    outputs = [torch.randn(8, generator=generator) for _ in range(steps)]
    start = torch.randn(8, generator=generator)

    forward = DDIMScheduler(**config)
    forward.set_timesteps(steps)
    timesteps = schedule.timesteps(steps)
    assert timesteps == forward.timesteps.tolist()
    expected = start
    for output, t in zip(outputs, forward.timesteps, strict=True):
        expected = forward.step(output, t, expected).prev_sample
    answers = iter(outputs)
    torch.testing.assert_close(denoise(lambda x, t: next(answers), schedule, start, timesteps), expected)

    # The inverse scheduler counts down from the target level; its first source is the clean one.
    inverse = DDIMInverseScheduler(**config)
    inverse.set_timesteps(steps)
    assert inverse.timesteps.tolist() == timesteps[::-1]
    expected = start
    for output, t in zip(outputs, inverse.timesteps, strict=True):
        expected = inverse.step(output, t, expected).prev_sample
    answers = iter(outputs)
    torch.testing.assert_close(invert(lambda x, t: next(answers), schedule, start, timesteps), expected)


@pytest.mark.parametrize("config", [ZERO_SNR, EPSILON], ids=["v", "epsilon"])
def test_unmove_inverts_move(config: dict) -> None:
    schedule = NoiseSchedule.from_config(config)
    generator = torch.Generator().manual_seed(0)
    x, output = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    source, target = schedule.level(799), schedule.level(759)
    moved = schedule.move(x, output, source, target)
    torch.testing.assert_close(schedule.unmove(moved, output, source, target), x)


def test_terminal_level_has_no_signal_and_no_infinity() -> None:
    schedule = NoiseSchedule.from_config(ZERO_SNR)
    assert schedule.level(999) == Level(0.0, 1.0)
    assert schedule.level(CLEAN) == Level(1.0, 0.0)
    x = torch.randn(4, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(schedule.move(x, x, schedule.level(999), schedule.level(959))).all()


def test_strength_uses_the_low_noise_end() -> None:
    schedule = NoiseSchedule.from_config(ZERO_SNR)
    assert schedule.timesteps(10, 0.3) == [299, 199, 99]
    assert schedule.timesteps(10, 0.0) == []
    assert schedule.timesteps(10, 0.01) == [99]


@pytest.mark.parametrize(
    ("steps", "strength", "word"),
    [(0, 1.0, "steps"), (1001, 1.0, "steps"), (10, 1.1, "strength"), (10, -1, "strength")],
)
def test_impossible_settings_are_refused(steps: int, strength: float, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        NoiseSchedule.from_config(ZERO_SNR).timesteps(steps, strength)


def test_epsilon_with_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        NoiseSchedule.from_config({**ZERO_SNR, "prediction_type": "epsilon"})
    with pytest.raises(ConfigError, match="sample"):
        NoiseSchedule.from_config({**ZERO_SNR, "prediction_type": "sample"})
