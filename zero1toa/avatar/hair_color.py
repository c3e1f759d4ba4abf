"""What colour the hair is that a portrait does not show, and whether there is any.

A portrait shows forehead on the scalp as well, and a bald or shiny top. Hair at the back of a head is what is seen
nearest to it, and rather what skin does not look like: what is darker, or paler without being skin's shine.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zero1toa.avatar.picture_sampling import smooth_step

NEAR = 0.02
"""Metres backwards over which what is seen weighs e times as much."""
DARKER = (0.55, 0.8)
"""Brightness over the skin's up to which a sample is hair, and from which on it may be skin."""
PALER = (0.5, 0.75)
"""The same of saturation."""
ENOUGH = (0.1, 0.3)
"""Share of hair in what is seen farthest back, from which skin there counts less, and not at all."""
OWN_TONE = 0.02
"""Difference of tone (sRGB over its sum) between what is seen farthest back and skin that speaks for hair as well:
blond hair is neither dark nor pale.
"""
_SPREAD = 0.2  # norm of sRGB within which a face's samples agree on its skin
_ROUNDS = 4


class UnseenHair(NamedTuple):
    """Of some portraits.

    Attributes:
        color: ``[I, 3]`` sRGB.
        presence: how sure it is that there is hair and no bare skin ``[I]``, 0 to 1.
    """

    color: Tensor
    presence: Tensor


class HairColor:
    """Tells hair from skin on a layout of Gaussians, any number of pictures at once.

    Args:
        points: the Gaussians on the neutral head ``[N, 3]``, metres.
        on_scalp: which of them lie where hair may be ``[N]`` bool.
        on_face: which of them lie on the face ``[N]`` bool.
    """

    def __init__(self, points: Tensor, on_scalp: Tensor, on_face: Tensor) -> None:
        self.on_scalp, self.on_face = on_scalp, on_face
        self._behind = -points[on_scalp, 2] / NEAR

    def __call__(self, colors: Tensor, confidence: Tensor, otherwise: Tensor) -> UnseenHair:
        """Colour and presence.

        Args:
            colors: what is known of the Gaussians ``[I, N, 3]`` sRGB.
            confidence: how well ``[I, N]``, 0 to 1.
            otherwise: colour where nothing is known ``[I, 3]`` or broadcastable, counted as half a sample.
        """
        if not len(self._behind):
            return UnseenHair(otherwise.expand(len(colors), 3), colors.new_zeros(len(colors)))
        skin = self._skin(colors[:, self.on_face], confidence[:, self.on_face])
        seen, known = colors[:, self.on_scalp], confidence[:, self.on_scalp]
        # The exponent is relative to the farthest sample that is seen, whose weight is 1.
        farthest = torch.where(known > 0.5, self._behind, -torch.inf).amax(1, keepdim=True)
        weight = known * (self._behind - farthest.nan_to_num(neginf=0.0)).clamp_max(0).exp()
        hair = _unlike(seen, skin[:, None])
        total = weight.sum(1).clamp_min(1e-6)
        share = (weight * hair).sum(1) / total
        enough = smooth_step((share - ENOUGH[0]) / (ENOUGH[1] - ENOUGH[0]))
        weight = weight * (hair + (1 - hair) * (1 - enough)[:, None])
        summed = (weight[..., None] * seen).sum(1)
        color = (summed + 0.5 * otherwise) / (weight.sum(1)[:, None] + 0.5)
        tone = (_tone(color) - _tone(skin)).norm(dim=-1)
        presence = torch.maximum(smooth_step(share / ENOUGH[0]), smooth_step(tone / OWN_TONE))
        return UnseenHair(color, presence)

    def _skin(self, colors: Tensor, confidence: Tensor) -> Tensor:
        """The face's most frequent colour ``[I, 3]``: without brows, eyes and lips."""
        weight = confidence
        for _ in range(_ROUNDS):
            skin = (weight[..., None] * colors).sum(1) / weight.sum(1)[:, None].clamp_min(1e-6)
            weight = confidence * torch.exp(-(((colors - skin[:, None]).norm(dim=-1) / _SPREAD) ** 2))
        return skin


def _unlike(colors: Tensor, skin: Tensor) -> Tensor:
    """How far colours ``[..., 3]`` are hair's and not the skin's, 0 to 1 ``[...]``."""
    brightness = colors.mean(-1) / skin.mean(-1).clamp_min(0.05)
    dark = smooth_step((DARKER[1] - brightness) / (DARKER[1] - DARKER[0]))
    # Of a picture without colours, and of a face without, paleness tells nothing.
    own = _saturation(skin)
    pale = smooth_step((PALER[1] - _saturation(colors) / own.clamp_min(0.05)) / (PALER[1] - PALER[0]))
    return torch.maximum(dark, pale * smooth_step((own - 0.05) / 0.1))


def _saturation(colors: Tensor) -> Tensor:
    return (colors.amax(-1) - colors.amin(-1)) / colors.amax(-1).clamp_min(0.05)


def _tone(colors: Tensor) -> Tensor:
    return colors / colors.sum(-1, keepdim=True).clamp_min(0.05)
