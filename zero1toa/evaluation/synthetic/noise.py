"""Smooth noise in space: sums of plane waves, so that it needs no texture coordinates and no grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.draw import Draw


def wave_noise(points: Tensor, draw: Draw, batch: int, wavelength: float, waves: int = 10) -> Tensor:
    """A batch of noise fields with about unit variance.

    ``n(x) = sqrt(2 / W) * sum_w cos(2 pi k_w . x + phi_w)`` with random directions and wavelengths within half an
    octave of ``wavelength``. The waves are added one by one: a batch of points times waves would not fit in memory.

    Args:
        points: ``[N, 3]`` shared by the batch, or ``[B, N, 3]``, in metres.
        draw: random stream.
        batch: number of fields B.
        wavelength: typical wavelength in metres.
        waves: number of plane waves W.

    Returns:
        ``[B, N]`` float32.
    """
    shared = points if points.dim() == 3 else points[None]
    stretch = 2.0 ** draw.uniform(-0.5, 0.5, batch, waves)
    k = draw.direction(batch, waves) * (2.0 * math.pi / wavelength * stretch)[..., None]
    phase = draw.uniform(0.0, 2.0 * math.pi, batch, waves)
    total = torch.zeros(batch, shared.shape[1], device=points.device)
    for w in range(waves):
        total += torch.cos((shared @ k[:, w, :, None])[..., 0] + phase[:, w, None])
    return total * math.sqrt(2.0 / waves)


def layered_noise(points: Tensor, draw: Draw, batch: int, wavelength: float, octaves: int = 3) -> Tensor:
    """Noise of octaves that halve the wavelength and take 0.6 of the amplitude; about unit variance ``[B, N]``."""
    amplitudes = [0.6**o for o in range(octaves)]
    total = torch.zeros(batch, points.shape[-2], device=points.device)
    for octave, amplitude in enumerate(amplitudes):
        total += amplitude * wave_noise(points, draw, batch, wavelength * 0.5**octave, waves=8)
    return total / math.sqrt(sum(a * a for a in amplitudes))


def smoothstep(low: float | Tensor, high: float | Tensor, value: Tensor) -> Tensor:
    """Hermite step: 0 below ``low``, 1 above ``high``."""
    t = ((value - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
