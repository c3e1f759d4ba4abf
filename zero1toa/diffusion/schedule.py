"""Noise levels as (alpha, sigma) pairs, and moves between them.

A latent at a noise level is ``x = alpha * x0 + sigma * e`` with ``alpha^2 + sigma^2 = 1``; ``alpha`` is the square root
of what diffusers calls ``alphas_cumprod``. In this form the v-prediction never divides, so a schedule with zero
terminal SNR (``alpha = 0`` at the last training timestep) is harmless in both directions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.errors import ConfigError

Prediction = Literal["v_prediction", "epsilon"]


class Level(NamedTuple):
    """A noise level: signal and noise amplitude, in float64."""

    alpha: float
    sigma: float


LINEAR_ZERO_SNR: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}
"""Scheduler settings of the portrait animators with linear betas: v-prediction, zero terminal SNR, trailing steps."""

CLEAN = -1  # the "timestep" of a latent without noise


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """The discrete noise levels of a trained model.

    Attributes:
        alphas: signal amplitude at each training timestep ``[N]`` float64.
        sigmas: noise amplitude at each training timestep ``[N]`` float64.
        final: level of a finished latent, (1, 0) unless the model was trained otherwise.
        prediction: what the model puts out: ``v = alpha * e - sigma * x0``, or the noise ``e``.
        config: keyword arguments of ``diffusers.DDIMScheduler`` that this schedule was made from.
    """

    alphas: NDArray[np.float64]
    sigmas: NDArray[np.float64]
    final: Level
    prediction: Prediction
    config: Mapping[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Build the tables of ``diffusers.DDIMScheduler(**config)``.

        Args:
            config: keyword arguments of the scheduler (betas, spacing, prediction type).

        Raises:
            ConfigError: for a prediction type other than v or epsilon, or epsilon with zero terminal SNR, which leaves
                the clean latent undetermined at the first denoising step.
        """
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        scheduler = DDIMScheduler(**config)
        squared = scheduler.alphas_cumprod.double().numpy()
        prediction = scheduler.config["prediction_type"]
        if prediction not in ("v_prediction", "epsilon"):
            raise ConfigError(f"prediction type '{prediction}' is not supported; use v_prediction or epsilon")
        if prediction == "epsilon" and squared[-1] <= 0:
            raise ConfigError("zero terminal SNR needs v_prediction: noise alone does not determine the clean latent")
        last = float(scheduler.final_alpha_cumprod)
        return cls(
            alphas=np.sqrt(squared),
            sigmas=np.sqrt(1.0 - squared),
            final=Level(math.sqrt(last), math.sqrt(1.0 - last)),
            prediction=prediction,
            config=dict(config),
        )

    def __len__(self) -> int:
        return len(self.alphas)

    def level(self, timestep: int) -> Level:
        """Noise level of a training timestep, or of a finished latent for :data:`CLEAN`."""
        if timestep == CLEAN:
            return self.final
        return Level(float(self.alphas[timestep]), float(self.sigmas[timestep]))

    def timesteps(self, steps: int, strength: float = 1.0) -> list[int]:
        """Timesteps of a denoising run, noisiest first; inversion walks the same list backwards.

        The model's own spacing (``trailing`` for zero-SNR models) is kept. Consecutive entries are what a step moves
        between, so that also step counts that do not divide the training range fit together.

        Args:
            steps: steps over the whole noise range.
            strength: share of the range that is used, its low-noise end; 0 gives no steps.

        Raises:
            ConfigError: if ``steps`` is not in 1..N or ``strength`` not in [0, 1].
        """
        if not 1 <= steps <= len(self):
            raise ConfigError(f"diffusion.steps must be between 1 and {len(self)}, not {steps}")
        if not 0.0 <= strength <= 1.0:
            raise ConfigError(f"diffusion.strength must be between 0 and 1, not {strength}")
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        scheduler = DDIMScheduler(**self.config)
        scheduler.set_timesteps(steps)
        every = [int(t) for t in scheduler.timesteps]
        used = 0 if strength == 0 else max(1, round(strength * len(every)))
        return every[len(every) - used :]

    def split(self, latents: Tensor, output: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Clean latent and noise that a model output stands for.

        Args:
            latents: noisy latents, any shape, float32.
            output: model output, same shape.
            level: noise level that the latents have.
        """
        alpha, sigma = level
        if self.prediction == "v_prediction":
            return alpha * latents - sigma * output, sigma * latents + alpha * output
        return (latents - sigma * output) / alpha, output

    def move(self, latents: Tensor, output: Tensor, source: Level, target: Level) -> Tensor:
        """Deterministic DDIM step (eta 0) from one noise level to another, in either direction."""
        clean, noise = self.split(latents, output, source)
        return target.alpha * clean + target.sigma * noise

    def unmove(self, latents: Tensor, output: Tensor, source: Level, target: Level) -> Tensor:
        """The latents that :meth:`move` takes from ``source`` to ``target`` with this ``output``: its exact inverse.

        In the v form a move is a rotation by the angle between the two levels; its cosine is the divisor here.

        Raises:
            ConfigError: if the levels are a right angle apart (a single step over the whole range).
        """
        if self.prediction == "v_prediction":
            cosine = source.alpha * target.alpha + source.sigma * target.sigma
            sine = target.alpha * source.sigma - target.sigma * source.alpha
            if cosine < 0.1:
                raise ConfigError("a fixed-point inversion step cannot span the whole noise range; use more steps")
            return (latents + sine * output) / cosine
        ratio = target.alpha / source.alpha
        return (latents - (target.sigma - ratio * source.sigma) * output) / ratio

    def tables(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """``alphas`` and ``sigmas`` as float32 tensors ``[N]`` on ``device``, for training."""
        return (
            torch.as_tensor(self.alphas, dtype=torch.float32, device=device),
            torch.as_tensor(self.sigmas, dtype=torch.float32, device=device),
        )
