"""The part of a head that training leaves as the portrait gave it."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.head.protocol import HeadModel

MOVES = 0.0004
"""Metres by which skin moves at least that follows a closing lid."""
_REGIONS = ("lids_left", "lids_right", "eye_left", "eye_right")


def eye_triangles(head: HeadModel) -> Tensor:
    """Triangles ``[F]`` bool of eyeballs and lids, and of the skin around them that follows the lids."""
    region = torch.stack([head.regions[name] for name in _REGIONS]).any(0)
    return torch.isin(head.faces, torch.unique(head.faces[region])).any(1)


@torch.no_grad()
def unfolding_triangles(head: HeadModel) -> Tensor:
    """Triangles ``[F]`` bool that closing lids move or stretch: what lies in the fold of an open eye."""
    neutral = head.neutral().to(head.faces.device)
    opened, closed = (head.vertices(neutral.replace(lids=torch.full_like(neutral.lids, value))) for value in (0, 1))
    return ((closed - opened).norm(dim=-1) > MOVES)[head.faces].any(1)
