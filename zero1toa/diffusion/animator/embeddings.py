"""Numbers as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoid(values: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding ``[..., dim]`` of scalars ``[...]``: cosines, then sines."""
    half = dim // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=values.device, dtype=torch.float32) / half)
    angles = values.float()[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)
