"""Damage to whole pictures: blur, noise and block compression, differentiable by nobody and fast on a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.draw import Draw


def blur(pictures: Tensor, sigma: Tensor, radius: int = 4) -> Tensor:
    """Gaussian blur with one strength per picture.

    Args:
        pictures: ``[M, H, W, 3]``.
        sigma: standard deviation in pixels ``[M]``; 0 leaves a picture alone.
        radius: half width of the kernel in pixels.
    """
    offset = torch.arange(-radius, radius + 1, device=pictures.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None].clamp_min(1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = pictures.permute(0, 3, 1, 2).flatten(0, 1)[None]
    groups = flat.shape[1]
    flat = torch.nn.functional.pad(flat, (radius, radius, radius, radius), mode="replicate")
    flat = torch.nn.functional.conv2d(flat, kernel[:, None, :, None], groups=groups)
    flat = torch.nn.functional.conv2d(flat, kernel[:, None, None, :], groups=groups)
    return flat[0].unflatten(0, (len(pictures), 3)).permute(0, 2, 3, 1)


def block_compress(pictures: Tensor, step: Tensor) -> Tensor:
    """Round the cosine coefficients of 8 x 8 blocks, coarser for higher frequencies, as JPEG does.

    Args:
        pictures: ``[M, H, W, 3]`` with H and W multiples of 8.
        step: quantisation step of the lowest frequency ``[M]``; 0 leaves a picture alone.
    """
    m, h, w, _ = pictures.shape
    basis = _cosines().to(pictures.device)
    blocks = pictures.reshape(m, h // 8, 8, w // 8, 8, 3)
    coefficients = torch.einsum("ui,mricjz,vj->mrucvz", basis, blocks, basis)
    index = torch.arange(8, device=pictures.device, dtype=torch.float32)
    coarse = (1.0 + 0.5 * (index[:, None] + index[None, :]))[:, None, :, None]
    q = step[:, None, None, None, None, None] * coarse
    rounded = torch.where(q > 0, torch.round(coefficients / q.clamp_min(1e-6)) * q, coefficients)
    return torch.einsum("ui,mrucvz,vj->mricjz", basis, rounded, basis).reshape(m, h, w, 3)


def _cosines() -> Tensor:
    """Orthonormal 8-point cosine transform ``[8, 8]``."""
    k = torch.arange(8, dtype=torch.float32)
    basis = torch.cos(math.pi * (2.0 * k[None, :] + 1.0) * k[:, None] / 16.0) * 0.5
    basis[0] /= math.sqrt(2.0)
    return basis


def damage(pictures: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Blur, compress and add noise to clips, each at random.

    Args:
        pictures: ``[B, T, H, W, 3]`` in [0, 1].
        severity: 0 to 1 ``[B]``; all frames of a clip get the same kind of damage.
        draw: random stream.
    """
    batch, frames = pictures.shape[:2]
    sigma = draw.chance(0.5, batch) * draw.uniform(0.2, 1.4, batch) * severity
    step = draw.chance(0.3, batch) * draw.uniform(0.02, 0.16, batch) * severity
    level = draw.chance(0.3, batch) * draw.uniform(0.005, 0.04, batch) * severity
    flat = blur(pictures.flatten(0, 1), sigma.repeat_interleave(frames))
    if pictures.shape[2] % 8 == 0 and pictures.shape[3] % 8 == 0:
        flat = block_compress(flat, step.repeat_interleave(frames))
    out = flat.unflatten(0, (batch, frames))
    out = out + level[:, None, None, None, None] * draw.normal(*pictures.shape)
    return out.clamp(0.0, 1.0)
