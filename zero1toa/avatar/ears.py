"""Where a portrait's ears are: ears that show are moved and scaled to the skin that the matte has beside the head.

No landmark lies on an ear, and how far it stands off and how high it sits differs between people, so that a head
model's own ears seldom lie on the portrait's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

SCALES = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
"""Sizes that are tried, over the model's."""
REACH = 0.016
"""Largest shift in the picture, metres."""
INWARD = 0.25
"""Share of it that is allowed towards the head, which would bury the ear where hair covers a part of it."""
SHIFT_COST = 0.3
"""Pixels of agreement that a pixel of shift has to bring."""
LEAST = 12
"""Pixels of an ear beside the head's outline from which it can be placed."""


def place_ear(
    draw: Callable[[float], Mask], head: Mask, skin: Mask, metre: float
) -> tuple[float, tuple[int, int]] | None:
    """Scale and shift of one ear in a picture.

    Args:
        draw: the ear's mask ``[H, W]`` at a scale about its middle.
        head: the mask of the head without it ``[H, W]``.
        skin: where the portrait shows skin ``[H, W]``.
        metre: pixels per metre at the ear.

    Returns:
        The scale and the shift in pixels (x, y) at which it agrees best with the skin beside the head; None where too
        little of the ear is to be seen.
    """
    reach = max(1, round(REACH * metre))
    own = draw(1.0)
    near = ndimage.binary_dilation(own, np.ones((3, 3)), iterations=reach)
    if not near.any():
        return None
    # Every shift of the ear stays within twice the reach.
    (top, bottom), (left, right) = ((index.min() - reach, index.max() + reach + 1) for index in np.nonzero(near))
    place = np.s_[max(top, 0) : bottom, max(left, 0) : right]
    beside = ~head[place]
    wanted = skin[place] & near[place] & beside
    if wanted.sum() < LEAST or (own[place] & beside).sum() < LEAST:
        return None
    outward = np.sign(np.nonzero(own)[1].mean() - np.nonzero(head)[1].mean())
    best, found = np.inf, (1.0, (0, 0))
    for scale in SCALES:
        ear = draw(scale)[place]
        for y in range(-reach, reach + 1):
            for x in range(-reach, reach + 1):
                if x * outward < -INWARD * reach:
                    continue
                moved = np.roll(ear, (y, x), (0, 1)) & beside
                cost = float((moved ^ wanted).sum()) + SHIFT_COST * float(np.hypot(x, y))
                if cost < best:
                    best, found = cost, (scale, (x, y))
    return found
