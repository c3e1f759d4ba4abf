"""How much an expression strains skin."""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-12
"""Squared height over squared length up to which a triangle has no area, only rounding errors."""


def strain(faces: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """How far triangles keep their lengths between two poses of a head.

    Args:
        faces: triangles ``[F, 3]``.
        before: vertices ``[V, 3]``.
        after: vertices ``[V, 3]``.

    Returns:
        ``[F]`` in [0, 1]: 1 where a triangle only moves and turns; else the length to which the direction that changes
        most shrinks from 1, or the inverse of that to which it grows; 0 for a triangle that had no area before.
    """
    first, second = (_metric(vertices[faces].double()) for vertices in (before, after))
    # Squared stretches are the eigenvalues of first^-1 second; both are 2 x 2.
    area = _determinant(first)
    flat = area <= FLAT * first.diagonal(dim1=1, dim2=2).sum(1).square()
    area = torch.where(flat, 1.0, area)
    adjugate = torch.stack([first[:, 1, 1], -first[:, 0, 1], -first[:, 1, 0], first[:, 0, 0]], -1).unflatten(-1, (2, 2))
    half = (adjugate * second.transpose(1, 2)).sum((1, 2)) / area / 2
    apart = (half.square() - _determinant(second) / area).clamp_min(0).sqrt()
    shortest, longest = (half - apart).clamp_min(0).sqrt(), (half + apart).sqrt()
    kept = torch.minimum(shortest, 1 / longest.clamp_min(1e-12)).clamp(0, 1)
    return torch.where(flat, 0.0, kept).to(before.dtype)


def _metric(corners: Tensor) -> Tensor:
    """Products of the two edges from the first corner ``[F, 2, 2]``."""
    edges = corners[:, 1:] - corners[:, :1]
    return edges @ edges.transpose(1, 2)


def _determinant(matrices: Tensor) -> Tensor:
    """Of 2 x 2 matrices ``[..., 2, 2]``."""
    return matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]
