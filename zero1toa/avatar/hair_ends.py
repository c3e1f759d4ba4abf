"""Where the hair that a portrait does not show ends: above the nape."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from zero1toa.avatar.hair_strands import crown_of, strands_at

ENDS = (0.002, 0.022)
"""Least and greatest length by which hair hangs beyond the scalp's rim, metres."""
FADE = 0.004
"""Metres over which an end fades."""
BEHIND = 0.02
"""Metres behind the scalp's middle from which ends are whole: before it hair ends at temples and ears."""


class HairEnds:
    """The rim of the scalp above the nape, where hair ends in tufts of many lengths instead of along triangles.

    Args:
        points: Gaussians on the neutral head ``[N, 3]``, metres.
        on_scalp: which of them are hair ``[N]`` bool.
        below: on what hair may hang down ``[N]`` bool.

    Attributes:
        covered: Gaussians on which hair lies ``[P]`` int64.
        hair: one of the scalp's for each of them, whose colour they take ``[P]`` int64.
        share: how much of it ``[P]``.
    """

    def __init__(self, points: Tensor, on_scalp: Tensor, below: Tensor) -> None:
        scalp, skin = (mask.nonzero().squeeze(1) for mask in (on_scalp, below))
        self.covered = self.hair = skin[:0]
        self.share = points.new_zeros(0)
        if not len(scalp) or not len(skin):
            return
        distance, nearest = cKDTree(points[scalp].double().cpu().numpy()).query(points[skin].double().cpu().numpy())
        noise = strands_at(points[skin], crown_of(points[scalp]))
        reach = ENDS[0] + (ENDS[1] - ENDS[0]) * (0.5 + 0.35 * noise).clamp(0, 1)
        share = ((reach - torch.from_numpy(distance).to(points)) / FADE).clamp(0, 1)
        behind = ((points[scalp][:, 2].mean() - points[skin][:, 2]) / BEHIND).clamp(0, 1)
        chosen = share * behind > 0
        self.covered, self.share = skin[chosen], (share * behind)[chosen]
        self.hair = scalp[torch.from_numpy(nearest).to(scalp.device)[chosen]]
