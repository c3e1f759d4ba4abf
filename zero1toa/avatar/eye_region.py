"""The part of a head that training leaves as the portrait gave it."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.head.protocol import HeadModel

_REGIONS = ("lids_left", "lids_right", "eye_left", "eye_right")


def eye_triangles(head: HeadModel) -> Tensor:
    """Triangles ``[F]`` bool of eyeballs and lids, and of the skin around them that follows the lids."""
    region = torch.stack([head.regions[name] for name in _REGIONS]).any(0)
    return torch.isin(head.faces, torch.unique(head.faces[region])).any(1)
