"""Upper lids are skin: what a portrait has on them that is not theirs stays behind when they close.

An open eye's upper lid carries what lies in front of it or falls on it, the rim of glasses and its reflection, the
brow's shadow, a drawing's contours, and the fold where it turns. When the lid comes down, it would all come along,
stretched to several times its height, and closed eyes would look as if they were half open.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.avatar.eye_region import MOVES
from zero1toa.avatar.features import IRIS, UPPER_LASHES, distance_to_polyline, with_lids
from zero1toa.avatar.picture_sampling import smooth_step
from zero1toa.head.protocol import HeadModel

REACH = 0.003
"""Metres on the closed lid over which its skin is one colour: less than makeup, more than a fold."""
TOLERANCE = 0.15
"""Difference from that colour (norm of sRGB) up to which a lid keeps what a portrait shows."""
LASHES = (0.0015, 0.0035)
"""Metres from the lash line of the closed lid up to which lashes, and from which on only skin, is expected."""
PLATE = 0.009
"""Metres from the lash line up to which a closed lid shows what an open one shows; beyond, it unfolds."""
DARKEST = 0.6
"""Least brightness of a lid over the skin's around the eye: where it is darker, a low brow lies on it."""
DARKER = 0.15
"""How much darker than the middle colour of the plate (norm of sRGB) the rest of a lid's skin is: brows are darker."""
_AROUND = 0.03  # metres from the iris: where the eye's skin is
_EXPECTED = 0.02  # weight of the plate's colour beside one for each neighbour, for where no skin is near
_ROUNDS = 4


class LidSkin:
    """Evens the upper lids' colours; prepared once for a layout of Gaussians.

    Args:
        head: head model.
        binding: triangle of each Gaussian ``[N]``.
        weights: its barycentric coordinates there ``[N, 3]``.
    """

    def __init__(self, head: HeadModel, binding: Tensor, weights: Tensor) -> None:
        _, opened = with_lids(head, binding, weights, 0.0)
        marks, closed = with_lids(head, binding, weights, 1.0)
        self._lids: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        for side, (iris, _) in IRIS.items():
            around = head.regions["face"][binding] & ((closed - marks[iris])[:, :2].norm(dim=-1) < _AROUND)
            lashes = distance_to_polyline(closed, marks[list(UPPER_LASHES[side])])
            lid = (around & (opened[:, 1] - closed[:, 1] > MOVES)).nonzero().squeeze(1)
            skin = (around & (lashes > LASHES[1])).nonzero().squeeze(1)
            plate = skin[torch.isin(skin, lid) & (lashes[skin] < PLATE)]
            if not len(plate):
                continue
            bare = smooth_step((lashes[lid] - LASHES[0]) / (LASHES[1] - LASHES[0]))
            nearness = torch.exp(-(torch.cdist(closed[skin], closed[skin]) / REACH).square() / 2)
            to_lid = torch.exp(-(torch.cdist(closed[lid], closed[skin]) / REACH).square() / 2)
            self._lids.append((lid, skin, plate, bare, torch.cat([nearness, to_lid])))

    def __call__(self, colors: Tensor) -> Tensor:
        """Colours ``[I, N, 3]`` with even upper lids: their skin, robustly averaged where they lie closed."""
        result = colors.clone()
        for lid, skin, plate, bare, nearness in self._lids:
            around = colors[:, skin].median(1, keepdim=True).values
            expected = torch.maximum(colors[:, plate].median(1, keepdim=True).values, DARKEST * around)
            likely = own = _likeness(torch.minimum(colors[:, skin], expected), expected, DARKER)
            doubt = _EXPECTED * nearness.sum(1, keepdim=True)
            for _ in range(_ROUNDS):
                total = nearness @ torch.cat([own * colors[:, skin], own], -1)
                even = (total[..., :3] + doubt * expected) / (total[..., 3:] + doubt)
                own = likely * _likeness(colors[:, skin], even[:, : len(skin)], TOLERANCE)
            even = even[:, len(skin) :]
            kept = 1 - bare[:, None] * (1 - _likeness(colors[:, lid], even, TOLERANCE))
            result[:, lid] = torch.lerp(even, colors[:, lid], kept)
        return result


def _likeness(colors: Tensor, expected: Tensor, tolerance: float) -> Tensor:
    """How far colours ``[..., 3]`` are those expected, ``[..., 1]`` from 0 to 1."""
    return torch.exp(-((colors - expected).norm(dim=-1, keepdim=True) / tolerance).square())
