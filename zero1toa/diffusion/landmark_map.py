"""The compact backbone's landmark map: MediaPipe's contours as soft lines, drawn by one torch function everywhere.

Training draws hundreds of maps per step on a GPU and inference a few on a CPU; both must see the same picture, so there
is one way to draw. A line leaves on each pixel it passes the bilinear weight of its nearest point. At 128 pixels an eye
is four pixels high, and these weights are what tells half-closed lids from open ones. Where lines meet, each channel
keeps the larger value, so the order of drawing does not matter and the result is deterministic on every device.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.head.protocol import N_LANDMARKS
from zero1toa.types import LandmarkTrack

Color = tuple[int, int, int]

# Contours as chains of MediaPipe's landmark indices; "left" is the subject's left.
CONTOURS: dict[str, tuple[Color, tuple[tuple[int, ...], ...]]] = {
    "oval": (
        (0, 128, 0),
        (
            (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
            (152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10),
        ),
    ),
    "left_eye": (
        (255, 0, 0),
        ((263, 249, 390, 373, 374, 380, 381, 382, 362), (263, 466, 388, 387, 386, 385, 384, 398, 362)),
    ),
    "right_eye": (
        (255, 96, 0),
        ((33, 7, 163, 144, 145, 153, 154, 155, 133), (33, 246, 161, 160, 159, 158, 157, 173, 133)),
    ),
    "left_brow": ((160, 0, 96), ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336))),
    "right_brow": ((160, 96, 96), ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107))),
    "left_iris": ((255, 255, 0), ((474, 475, 476, 477, 474),)),
    "right_iris": ((255, 255, 0), ((469, 470, 471, 472, 469),)),
    "nose": (
        (0, 255, 0),
        (
            (168, 6, 197, 195, 5, 4, 1, 19, 94, 2),
            (98, 97, 2, 326, 327, 294, 278, 344, 440, 275, 4, 45, 220, 115, 48, 64, 98),
        ),
    ),
    "outer_lips": (
        (0, 64, 160),
        (
            (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
            (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
        ),
    ),
    "inner_lips": (
        (0, 0, 255),
        (
            (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
            (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
        ),
    ),
}


@functools.cache
def _segments() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Start and end landmarks ``[S, 2]`` and colours in [0, 1] ``[S, 3]`` of all lines."""
    pairs: list[tuple[int, int]] = []
    colors: list[Color] = []
    for color, chains in CONTOURS.values():
        for chain in chains:
            pairs += itertools.pairwise(chain)
            colors += [color] * (len(chain) - 1)
    return np.asarray(pairs, np.int64), np.asarray(colors, np.float32) / 255


def draw_landmarks(points: Tensor, size: int, valid: Tensor | None = None) -> Tensor:
    """Draw landmark maps.

    Args:
        points: MediaPipe landmarks ``[N, 478, 2]``, x and y as fractions of width and height; lines may leave the
            picture. A line longer than an eighth of the picture becomes dotted.
        size: side of the square map in pixels.
        valid: ``[N]`` bool; maps of other frames stay black. None draws all.

    Returns:
        Maps ``[N, size, size, 3]`` uint8 on the device of ``points``.

    Raises:
        ValueError: if ``points`` has another shape.
    """
    if points.ndim != 3 or points.shape[1:] != (N_LANDMARKS, 2):
        raise ValueError(f"landmarks must be [N, {N_LANDMARKS}, 2], not {list(points.shape)}")
    pair_table, color_table = _segments()
    pairs = torch.as_tensor(pair_table, device=points.device)
    colors = torch.as_tensor(color_table, device=points.device)
    # Pixel centres lie at +0.5.
    pixels = points.float() * size - 0.5
    start, end = pixels[:, pairs[:, 0]], pixels[:, pairs[:, 1]]
    along = torch.linspace(0, 1, math.ceil(size / 8) + 1, device=points.device)[:, None]
    dots = (start[:, :, None] + along * (end - start)[:, :, None]).flatten(1, 2)  # [N, S * K, 2]
    ink = colors.repeat_interleave(len(along), 0)  # [S * K, 3]
    if valid is not None:
        dots = torch.where(valid[:, None, None], dots, -2.0)
    dots = torch.nan_to_num(dots, nan=-2.0).clamp(-2, size + 0.5)

    low = dots.floor()
    fraction = dots - low
    # A border of two pixels takes what lies outside the picture.
    side = size + 4
    canvas = torch.zeros(len(points), side * side, 3, device=points.device)
    corner = low.long() + 2
    for down in (0, 1):
        for right in (0, 1):
            weight_x = fraction[..., 0] if right else 1 - fraction[..., 0]
            weight_y = fraction[..., 1] if down else 1 - fraction[..., 1]
            index = (corner[..., 1] + down) * side + corner[..., 0] + right
            value = (weight_x * weight_y)[..., None] * ink
            canvas.scatter_reduce_(1, index[..., None].expand_as(value), value, "amax")
    picture = canvas.unflatten(1, (side, side))[:, 2:-2, 2:-2]
    return (picture * 255).round().to(torch.uint8)


def draw_control(landmarks: LandmarkTrack, size: int) -> NDArray[np.uint8]:
    """Landmark maps ``[T, size, size, 3]`` uint8 of a clip."""
    points = torch.from_numpy(np.ascontiguousarray(landmarks.points, np.float32))
    return draw_landmarks(points, size, torch.from_numpy(np.ascontiguousarray(landmarks.valid))).numpy()
