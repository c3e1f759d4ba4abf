"""Frontal portraits of an ellipsoid head whose picture and matte are drawn by formula."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import intrinsics, orbit
from zero1toa.types import Portrait

SIZE = 256
DISTANCE = 1.2
FOCAL = float(intrinsics(18.0, SIZE)[1, 1])
HAIR = (60, 40, 20)
SKIN = (220, 180, 160)


def plane() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metres to the right and up, in the plane through the head's centre, of every pixel of a frontal portrait."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    return (x - SIZE / 2) * DISTANCE / FOCAL, (SIZE / 2 - y) * DISTANCE / FOCAL


def skull() -> NDArray[np.bool_]:
    """Pixels that the bare head covers ``[SIZE, SIZE]``."""
    x, y = plane()
    return (x / 0.0752) ** 2 + (y / 0.1105) ** 2 <= 1


def portrait(
    head: HeadModel,
    alpha: NDArray[np.floating] | NDArray[np.bool_],
    hair: tuple[int, int, int] = HAIR,
    skin: NDArray[np.bool_] | None = None,
) -> Portrait:
    """A neutral portrait with matte ``alpha``; what ``skin`` (the bare head when None) leaves is hair."""
    image = np.zeros((SIZE, SIZE, 4), np.uint8)
    image[..., :3] = np.where((skull() if skin is None else skin)[..., None], SKIN, hair)
    image[..., 3] = np.round(255 * alpha.astype(np.float64))
    return Portrait(
        image=image,
        landmarks=np.zeros((478, 2), np.float32),
        viewmat=orbit(0.0, 0.0, DISTANCE).numpy(),
        K=intrinsics(18.0, SIZE).numpy(),
        params=head.neutral(),
        arkit=np.zeros(52, np.float32),
        residual=0.0,
        yaw=0.0,
    )
