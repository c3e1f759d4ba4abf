"""Landmark maps as the animators were trained on: lines of OpenCV on black, pixel for pixel."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.errors import AssetError
from zero1toa.types import LandmarkTrack

Color = tuple[int, int, int]
"""In the order in which the network sees the channels."""
Chain = tuple[int, ...]

# MediaPipe's contours; "left" is the subject's left. A line's pixels depend on its direction: no chain may be turned.
OVAL: Chain = (251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152)
OVAL += (148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21)  # the forehead is left open
LEFT_EYE: tuple[Chain, ...] = (
    (263, 249, 390, 373, 374, 380, 381, 382, 362),
    (263, 466, 388, 387, 386, 385, 384, 398, 362),
)
RIGHT_EYE: tuple[Chain, ...] = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133),
    (33, 246, 161, 160, 159, 158, 157, 173, 133),
)
LEFT_BROW: tuple[Chain, ...] = ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336))
RIGHT_BROW: tuple[Chain, ...] = ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107))
NOSE_TIP, RIGHT_IRIS, LEFT_IRIS = 4, 468, 473


@dataclasses.dataclass(frozen=True)
class Line:
    """Chains of landmarks in one colour."""

    color: Color
    chains: tuple[Chain, ...]


LEFT_EYE_LINE, RIGHT_EYE_LINE = Line((180, 200, 10), LEFT_EYE), Line((10, 200, 180), RIGHT_EYE)
LEFT_BROW_LINE, RIGHT_BROW_LINE = Line((180, 220, 10), LEFT_BROW), Line((10, 220, 180), RIGHT_BROW)
OVAL_LINE = Line((10, 200, 10), (OVAL,))
# Lips: each of the four lines is of one colour on the right and another on the left half.
OUTER_LOWER_LIP = (
    Line((10, 180, 20), ((61, 146, 91, 181, 84, 17),)),
    Line((20, 10, 180), ((17, 314, 405, 321, 375, 291),)),
)
INNER_LOWER_LIP = (
    Line((100, 100, 30), ((78, 95, 88, 178, 87, 14),)),
    Line((100, 150, 50), ((14, 317, 402, 318, 324, 308),)),
)
OUTER_UPPER_LIP = (
    Line((20, 80, 100), ((61, 185, 40, 39, 37, 0),)),
    Line((80, 100, 20), ((0, 267, 269, 270, 409, 291),)),
)
INNER_UPPER_LIP = (
    Line((120, 100, 200), ((78, 191, 80, 81, 82, 13),)),
    Line((150, 120, 100), ((13, 312, 311, 310, 415, 308),)),
)


@dataclasses.dataclass(frozen=True)
class DrawingStyle:
    """How an animator draws landmarks.

    Attributes:
        lines: in drawing order.
        squares: landmarks marked by a square of six pixels, drawn after the lines, and their colours.
        thickness: of the lines in pixels.
        canvas: side of the square canvas that is drawn on and then resized; None draws at the size asked for.
    """

    lines: tuple[Line, ...]
    squares: tuple[tuple[int, Color], ...] = ()
    thickness: int = 1
    canvas: int | None = None

    def edges(self) -> list[tuple[int, int, Color]]:
        """Every line segment with its landmarks and colour, in drawing order."""
        return [
            (start, end, line.color)
            for line in self.lines
            for chain in line.chains
            for start, end in itertools.pairwise(chain)
        ]


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise AssetError("landmark maps need OpenCV here: pip install opencv-python-headless") from error
    return cv2


def draw_frame(points: NDArray[np.floating], style: DrawingStyle, width: int, height: int) -> NDArray[np.uint8]:
    """Draw one frame's landmarks.

    Lines with an end outside the picture are left out, as are squares around a point outside it.

    Args:
        points: ``[478, 2 or more]``, x and y as fractions of width and height.
        style: what to draw.
        width: of the picture in pixels.
        height: of the picture in pixels.

    Returns:
        ``[height, width, 3]`` uint8.

    Raises:
        AssetError: if OpenCV is not installed.
    """
    cv2 = _opencv()
    across, down = (width, height) if style.canvas is None else (style.canvas, style.canvas)
    picture = np.zeros((down, across, 3), np.uint8)
    place = points[:, :2].astype(np.float32).astype(np.float64)
    usable = ((place >= 0) & (place <= 1)).all(-1)
    pixels = np.floor(np.where(usable[:, None], place, 0) * (across, down)).astype(int)
    ends = np.minimum(pixels, (across - 1, down - 1))
    for start, end, color in style.edges():
        if usable[start] and usable[end]:
            cv2.line(picture, ends[start].tolist(), ends[end].tolist(), color, style.thickness)
    for landmark, color in style.squares:
        x, y = pixels[landmark]
        if usable[landmark] and x < across and y < down:
            # Nearer than three pixels to the upper or left border the originals' slices are empty too.
            picture[y - 3 : y + 3, x - 3 : x + 3] = color
    if (across, down) != (width, height):
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture


def draw_track(landmarks: LandmarkTrack, style: DrawingStyle, size: int) -> NDArray[np.uint8]:
    """Landmark maps ``[T, size, size, 3]`` uint8 of a clip; frames without landmarks stay black."""
    maps = np.zeros((len(landmarks.points), size, size, 3), np.uint8)
    for frame, points in enumerate(landmarks.points):
        if landmarks.valid[frame]:
            maps[frame] = draw_frame(points, style, size, size)
    return maps
