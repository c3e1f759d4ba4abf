"""A diffusion model whose score is known in closed form, in float64: the reference for inversion and sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.diffusion.schedule import NoiseSchedule


class GaussianMixture:
    """Scalars drawn from ``sum_k w_k N(m_k, s_k^2)``; every tensor element is one independent scalar."""

    def __init__(self, means: list[float], stds: list[float], weights: list[float]) -> None:
        self.means = torch.tensor(means, dtype=torch.float64)
        self.stds = torch.tensor(stds, dtype=torch.float64)
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def sample(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, generator=generator, dtype=torch.float64)
        return self.means[component] + self.stds[component] * noise

    def clean(self, noisy: Tensor, alpha: float, sigma: float) -> Tensor:
        """Posterior mean of the clean scalar."""
        variance = (alpha * self.stds) ** 2 + sigma**2
        off = noisy.double()[..., None] - alpha * self.means
        weight = torch.softmax(self.weights.log() - 0.5 * off**2 / variance - 0.5 * variance.log(), -1)
        return (weight * (self.means + alpha * self.stds**2 / variance * off)).sum(-1)

    def predict(self, schedule: NoiseSchedule, noisy: Tensor, timestep: int) -> Tensor:
        """Model output of the schedule's prediction type."""
        alpha, sigma = schedule.level(timestep)
        noise = (noisy.double() - alpha * self.clean(noisy, alpha, sigma)) / sigma
        if schedule.prediction == "epsilon":
            return noise
        return alpha * noise - sigma * self.clean(noisy, alpha, sigma)


UNIT_MIXTURE = GaussianMixture([-0.97, 0.97], [0.2431, 0.2431], [0.5, 0.5])  # standard deviation 1
