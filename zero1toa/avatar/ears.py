"""Where an ear is: one that shows is moved, scaled and tilted to the skin that the matte has beside the head.

No landmark lies on an ear, and how far it stands off and how high it sits differs between people, so that a head
model's own ears seldom lie on the portrait's.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

WIDTHS = (0.8, 1.0, 1.25, 1.5)
HEIGHTS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
"""Sizes that are tried, over the model's."""
TILTS = (-20.0, -10.0, 0.0, 10.0, 20.0)
"""Turns in the picture's plane that are tried, degrees."""
REACH = 0.016
"""Largest shift in the picture, metres."""
INWARD = 0.25
"""Share of it that is allowed towards the head, which would bury the ear where hair covers a part of it."""
SHIFT_COST = 0.3
"""Pixels of agreement that a pixel of shift has to bring."""
CHANGE_COST = 0.15
"""Share of the ear's pixels that agreement has to bring for a size e times the model's, and for a turn by a radian."""
UNDER_HAIR = 0.15
"""What a pixel of the ear under hair costs over one where the portrait shows nothing at all."""
SHOWN = 0.4
"""Skin beside the head from which an ear shows, as a share of the ear's own pixels there ..."""
LEAST = 0.3
"""... which are at least this share of the whole ear: a head may hide nearly all of one."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """How an ear of a picture differs from the drawn one, about the drawn one's middle.

    Attributes:
        linear: size and tilt ``[2, 2]``, of pixels (x, y).
        shift: pixels (x, y).
    """

    linear: NDArray[np.float64]
    shift: tuple[int, int]


def place_ear(ear: Mask, head: Mask, skin: Mask, matte: Mask, metre: float) -> Placement | None:
    """Size, tilt and shift of one ear in a picture.

    Args:
        ear: the mask of the model's ear ``[H, W]``, parts that its head hides included.
        head: the mask of the head without it ``[H, W]``.
        skin: where the portrait shows skin ``[H, W]``.
        matte: where the portrait shows anything ``[H, W]``.
        metre: pixels per metre at the ear.

    Returns:
        What agrees best with the skin beside the head, hair covering what it may; None where too little of an ear is
        to be seen.
    """
    from scipy.signal import correlate  # here, because it takes longer to import than the rest of a trainer

    reach = max(1, round(REACH * metre))
    near = ndimage.binary_dilation(ear, np.ones((3, 3)), iterations=reach)
    beside = near & ~head
    stands_out = max((ear & beside).sum(), LEAST * ear.sum())
    if not ear.any() or (skin & beside).sum() < SHOWN * stands_out:
        return None
    rows, columns = (np.flatnonzero(ear.any(axis)) for axis in (1, 0))
    # Room for the largest ear around the model's, and around that for the shifts.
    room = round(0.5 * (max(WIDTHS) * len(columns) + max(HEIGHTS) * len(rows)))
    frame = np.s_[rows[0] : rows[-1] + 2 * room + 1, columns[0] : columns[-1] + 2 * room + 1]
    model = np.pad(ear, room)[frame].astype(float)
    value = np.where(skin, np.where(near, 1.0, 0.0), np.where(matte, -UNDER_HAIR, -1.0)) * ~head
    value = np.pad(value, room, constant_values=-1.0)
    value = np.pad(value, reach, constant_values=-1.0)[
        frame[0].start : frame[0].stop + 2 * reach, frame[1].start : frame[1].stop + 2 * reach
    ]
    outward = np.sign(np.nonzero(ear)[1].mean() - np.nonzero(head)[1].mean())
    shifts = np.arange(-reach, reach + 1)
    cost = SHIFT_COST * np.hypot(*np.meshgrid(shifts, shifts, indexing="ij"))
    cost[:, shifts * outward < -INWARD * reach] = np.inf
    middle = np.array(ndimage.center_of_mass(model))
    best, found = -np.inf, Placement(np.eye(2), (0, 0))
    for wide, high, tilt in itertools.product(WIDTHS, HEIGHTS, np.radians(TILTS)):
        turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        linear = turn @ np.diag([wide, high])
        back = np.linalg.inv(linear)[::-1, ::-1]  # of rows and columns
        drawn = ndimage.affine_transform(model, back, middle - back @ middle, order=1) > 0.5
        changed = abs(np.log(wide)) + abs(np.log(high)) + abs(tilt)
        gain = correlate(value, drawn.astype(float), "valid") - cost - CHANGE_COST * ear.sum() * changed
        y, x = np.unravel_index(gain.argmax(), gain.shape)
        if gain[y, x] > best:
            best, found = float(gain[y, x]), Placement(linear, (int(shifts[x]), int(shifts[y])))
    return found
