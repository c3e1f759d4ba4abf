"""Made-up strands of hair: noise that runs from the crown downwards."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from zero1toa.avatar.surface import Array

FINEST, WAVES = 110, 40
"""Most strands around a head, and number of waves that make them up."""


def crown_of(hair: Tensor) -> Array:
    """Where strands begin ``[3]`` on a scalp of points ``[M, 3]``."""
    points = hair.double().cpu().numpy()
    low, high = points.min(0), points.max(0)
    return np.array([0.0, high[1] - 0.25 * (high[1] - low[1]), 0.65 * low[2] + 0.35 * high[2]])


def strands_at(points: Tensor, crown: Array) -> Tensor:
    """Noise ``[M]`` of unit deviation at ``[M, 3]`` along strands that run from the crown downwards."""
    x, y, z = (points.double().cpu().numpy() - crown).T
    around, down = np.arctan2(x, -z), np.arctan2(np.hypot(x, z), y)
    generator = np.random.default_rng(0)
    noise = np.zeros(len(points))
    for frequency in generator.permutation(np.arange(9, FINEST))[:WAVES]:
        # Strands waver a little on their way down, and none is seen along its whole length.
        drift = sum(generator.normal(0, 0.05) * np.sin(k * down + generator.uniform(0, 2 * math.pi)) for k in (1, 2, 4))
        fading = np.cos(generator.uniform(0.5, 3) * down + generator.uniform(0, 2 * math.pi))
        noise += np.sin(frequency * (around + drift) + generator.uniform(0, 2 * math.pi)) * fading / frequency**0.3
    return torch.from_numpy(noise / noise.std()).float().to(points.device)
