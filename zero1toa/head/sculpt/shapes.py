"""The authored tables: which landmarks each ARKit shape moves, and how far.

A handle is ``(outwards, up, forward)`` in millimetres for a landmark on the subject's right (the side with the well
known ids); the other side takes its mirror image.
"""

from __future__ import annotations

import dataclasses

import numpy as np

Handles = dict[int, tuple[float, float, float]]

UPPER_OUTER = (185, 40, 39, 37, 0)  # from the right corner to the midline
UPPER_INNER = (191, 80, 81, 82, 13)
LOWER_OUTER = (146, 91, 181, 84, 17)
LOWER_INNER = (95, 88, 178, 87, 14)
CORNERS = (61, 76, 62, 78)
UPPER_LID = (246, 161, 160, 159, 158, 157, 173)  # from the outer corner
LOWER_LID = (7, 163, 144, 145, 153, 154, 155)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One authored shape.

    Attributes:
        handles: landmark displacements on the right side and the midline.
        reach: distance along the skin in millimetres beyond which nothing moves.
    """

    handles: Handles
    reach: float


def _row(ids: tuple[int, ...], *moves: tuple[float, float, float]) -> Handles:
    """Give the ids displacements interpolated along ``moves`` (first id first)."""
    at = np.linspace(0, len(moves) - 1, len(ids))
    columns = np.array(moves)
    out = np.stack([np.interp(at, np.arange(len(moves)), columns[:, i]) for i in range(3)], axis=1)
    return {i: (float(m[0]), float(m[1]), float(m[2])) for i, m in zip(ids, out, strict=True)}


def _lips(
    corner: tuple[float, float, float],
    upper: tuple[tuple[float, float, float], ...],
    lower: tuple[tuple[float, float, float], ...],
) -> Handles:
    """Displace corner, upper lip and lower lip; the outer border follows the free edge."""
    out: Handles = dict.fromkeys(CORNERS, corner)
    for ids in (UPPER_OUTER, UPPER_INNER):
        out |= _row(ids, *upper)
    for ids in (LOWER_OUTER, LOWER_INNER):
        out |= _row(ids, *lower)
    return out


def _brow(*moves: tuple[float, float, float]) -> Handles:
    """Displace the brow from its inner to its outer end."""
    return _row((107, 66, 105, 63, 70), *moves) | _row((55, 65, 52, 53, 46), *moves)


def _lids(upper: float, lower: float) -> Handles:
    """Raise the lid edges by so many millimetres at their middle."""
    profile = np.sin(np.pi * np.arange(1, 8) / 8) ** 0.8
    out = {i: (0.0, float(upper * w), 0.0) for i, w in zip(UPPER_LID, profile, strict=True)}
    return out | {i: (0.0, float(lower * w), 0.0) for i, w in zip(LOWER_LID, profile, strict=True)}


#: Shapes that exist once per side.
SIDED: dict[str, Shape] = {
    "browDown": Shape(
        _brow((-2.2, -5.5, 1.2), (-1, -4.5, 0.8), (0, -2.0, 0)) | {9: (0, -2.0, 0.4), 108: (-1.2, -2.5, 0.5)}, 34
    ),
    "browOuterUp": Shape(_brow((0, 0.8, 0), (0, 5.0, 0), (0.8, 5.5, 0)) | {104: (0, 3.0, 0), 68: (0, 3.0, 0)}, 40),
    "cheekSquint": Shape(
        {
            117: (0, 2.8, 1.0),
            118: (0, 3.2, 1.4),
            119: (0, 2.6, 1.2),
            50: (0.5, 3.0, 1.6),
            101: (0, 3.0, 1.6),
            36: (0.3, 2.4, 1.2),
        }
        | _lids(0, 0.9),
        32,
    ),
    "eyeSquint": Shape(_lids(-1.0, 2.4) | {119: (0, 1.4, 0.8), 118: (0, 1.6, 0.8), 117: (-0.4, 1.4, 0.6)}, 26),
    "eyeWide": Shape(_lids(2.3, -0.6), 16),
    "mouthDimple": Shape(
        {
            **dict.fromkeys(CORNERS, (3.0, 0.6, -3.0)),
            185: (2, 0.4, -1.5),
            146: (2, 0.4, -1.5),
            191: (2, 0.4, -1.5),
            95: (2, 0.4, -1.5),
            57: (2.6, 0.5, -1.8),
            40: (0.8, 0.1, -0.4),
            91: (0.8, 0.1, -0.4),
            80: (0.8, 0.1, -0.4),
            88: (0.8, 0.1, -0.4),
        },
        30,
    ),
    "mouthFrown": Shape(
        {
            **dict.fromkeys(CORNERS, (0.5, -6.0, -1.0)),
            185: (0.3, -3.8, -0.5),
            191: (0.3, -3.8, -0.5),
            146: (0.5, -4.6, -0.5),
            95: (0.5, -4.6, -0.5),
            57: (0.5, -5.0, -1.0),
            40: (0, -1.5, 0),
            80: (0, -1.5, 0),
            91: (0, -2.2, 0),
            88: (0, -2.2, 0),
            216: (0.3, -2.4, 0),
            212: (0.5, -3.5, 0),
        },
        36,
    ),
    "mouthLowerDown": Shape(
        _row(LOWER_OUTER, (0.4, -3.0, 0), (0.5, -5.8, -0.6), (0.2, -6.0, -0.6), (0, -4.6, -0.4), (0, -2.6, 0))
        | _row(LOWER_INNER, (0.4, -3.0, 0), (0.5, -5.8, -0.6), (0.2, -6.0, -0.6), (0, -4.6, -0.4), (0, -2.6, 0))
        | {**dict.fromkeys(CORNERS, (0.6, -0.8, 0))},
        30,
    ),
    "mouthPress": Shape(
        {**dict.fromkeys(CORNERS, (1.0, 0.4, -1.0))}
        | _row(UPPER_OUTER, (0.5, -0.3, -0.8), (0, -1.2, -1.2), (0, -0.4, -0.3))
        | _row(LOWER_OUTER, (0.5, 0.5, -0.8), (0, 1.5, -1.2), (0, 0.5, -0.3))
        | _row(UPPER_INNER, (0.3, 0, -1.2), (0, 0.0, -1.8), (0, 0, -0.5))
        | _row(LOWER_INNER, (0.3, 0, -1.2), (0, 0.0, -1.8), (0, 0, -0.5)),
        26,
    ),
    "mouthSmile": Shape(
        {**dict.fromkeys(CORNERS, (7.5, 6.9, -6.9)), 57: (6.9, 6.4, -5.3)}
        | _row(UPPER_OUTER, (6.2, 4.9, -5.3), (4.4, 3.0, -3.2), (2.8, 1.8, -1.8), (1.4, 1.1, -0.8), (0.3, 0.8, -0.3))
        | _row(UPPER_INNER, (6.2, 4.9, -5.3), (4.4, 3.0, -3.2), (2.8, 1.8, -1.8), (1.4, 1.1, -0.8), (0.3, 0.8, -0.3))
        | _row(LOWER_OUTER, (5.8, 4.6, -5.1), (3.9, 2.3, -3.0), (2.3, 0.9, -1.6), (1.0, 0.3, -0.7), (0.2, 0.1, -0.2))
        | _row(LOWER_INNER, (6.0, 4.8, -5.1), (4.1, 2.5, -3.0), (2.3, 1.0, -1.6), (1.0, 0.5, -0.7), (0.2, 0.2, -0.2))
        | {
            216: (4.8, 4.8, -0.7),
            206: (2.8, 3.7, 0.5),
            205: (2.5, 3.9, 2.5),
            50: (1.4, 3.0, 2.3),
            207: (3.9, 4.1, 0.9),
            187: (2.5, 3.4, 1.6),
            212: (4.1, 3.4, -1.8),
            36: (1.6, 3.0, 1.8),
            101: (0.7, 2.1, 1.4),
        },
        44,
    ),
    "mouthStretch": Shape(
        {**dict.fromkeys(CORNERS, (6.0, -2.0, -5.2)), 57: (5.4, -2.0, -3.8)}
        | _row(UPPER_OUTER, (4.6, -1.2, -3.6), (3.0, -0.5, -2.0), (1.6, -0.2, -1.0), (0.7, 0, -0.3), (0, 0, 0))
        | _row(UPPER_INNER, (4.6, -1.2, -3.6), (3.0, -0.5, -2.0), (1.6, -0.2, -1.0), (0.7, 0, -0.3), (0, 0, 0))
        | _row(LOWER_OUTER, (4.8, -2.0, -3.6), (3.2, -2.0, -2.2), (1.8, -1.6, -1.2), (0.7, -1.0, -0.5), (0, -0.6, 0))
        | _row(LOWER_INNER, (4.8, -1.8, -3.6), (3.2, -1.6, -2.2), (1.8, -1.2, -1.2), (0.7, -0.8, -0.5), (0, -0.4, 0))
        | {212: (4.0, -2.2, -1.6), 216: (3.0, -1.0, -1.0)},
        40,
    ),
    "mouthUpperUp": Shape(
        _row(UPPER_OUTER, (0.2, 2.0, 0), (0.3, 4.4, 0.2), (0.1, 5.2, 0.3), (0, 4.2, 0.2), (0, 2.2, 0))
        | _row(UPPER_INNER, (0.2, 2.0, 0), (0.3, 4.4, 0.2), (0.1, 5.2, 0.3), (0, 4.2, 0.2), (0, 2.2, 0))
        | {
            **dict.fromkeys(CORNERS, (0.3, 0.8, 0)),
            206: (0.5, 3.0, 0.6),
            203: (0.3, 2.4, 0.6),
            98: (0.5, 1.6, 0.2),
            64: (0.7, 1.5, 0.2),
        },
        30,
    ),
    "noseSneer": Shape(
        {
            64: (0.8, 3.4, 0.2),
            48: (0.9, 3.4, 0.2),
            98: (0.6, 3.0, 0.2),
            129: (0.6, 3.6, 0.4),
            203: (0.3, 3.2, 0.8),
            206: (0.3, 2.6, 0.6),
            126: (0, 2.0, 0.8),
            39: (0, 1.8, 0.2),
            40: (0, 1.5, 0.1),
            37: (0, 1.2, 0.1),
            81: (0, 1.8, 0.2),
            80: (0, 1.5, 0.1),
            82: (0, 1.2, 0.1),
            55: (-0.6, -1.6, 0.4),
            107: (-0.5, -1.2, 0.3),
            193: (-0.2, -0.6, 0.6),
            1: (0, 0.8, 0),
        },
        30,
    ),
}

#: Shapes that move both sides alike.
CENTRED: dict[str, Shape] = {
    "browInnerUp": Shape(
        _brow((0.4, 7.0, 0.2), (0.4, 4.5, 0), (0.2, 1.0, 0), (0, 0, 0), (0, 0, 0))
        | {9: (0, 5.0, 0.2), 151: (0, 3.0, 0), 108: (0, 4.0, 0)},
        42,
    ),
    "cheekPuff": Shape(
        {
            205: (4.0, 0, 5.5),
            207: (6.0, -0.5, 5.5),
            187: (6.5, 0, 4.5),
            216: (3.0, 0, 4.0),
            212: (3.5, -0.5, 4.0),
            214: (6.5, -1.0, 4.0),
            192: (5.5, -0.5, 2.5),
            50: (2.5, 0.5, 3.0),
            206: (1.5, 0.3, 3.5),
            202: (3.0, -0.5, 3.5),
            **dict.fromkeys(CORNERS, (0.5, 0, 1.0)),
        }
        | _row(UPPER_OUTER, (0, 0, 1.4), (0, 0.3, 1.4))
        | _row(LOWER_OUTER, (0, 0, 1.4), (0, -0.3, 1.4))
        | _row(UPPER_INNER, (0, 0, 1.0), (0, 0, 0.8))
        | _row(LOWER_INNER, (0, 0, 1.0), (0, 0, 0.8)),
        46,
    ),
    "mouthFunnel": Shape(
        _lips(
            (-7.0, 0, 3.0),
            ((-5.0, 1.6, 4.2), (-2.6, 3.2, 5.2), (-1.0, 3.6, 5.4), (0, 3.4, 5.2)),
            ((-5.0, -1.6, 4.0), (-2.6, -3.2, 5.0), (-1.0, -3.6, 5.2), (0, -3.4, 5.0)),
        )
        | {57: (-5.0, 0, 2.4)},
        40,
    ),
    "mouthPucker": Shape(
        _lips(
            (-8.5, 0, 5.0),
            ((-6.6, 0.0, 5.4), (-4.0, 0.0, 6.0), (-1.6, 0.0, 6.2), (0, 0.0, 6.2)),
            ((-6.6, 0.0, 5.2), (-4.0, 0.0, 5.8), (-1.6, 0.0, 6.0), (0, 0.0, 6.0)),
        )
        | {57: (-6.5, 0, 4.0), 216: (-3.0, 0, 2.2), 212: (-3.5, 0, 2.4)},
        44,
    ),
    "mouthRollLower": Shape(
        _row(LOWER_OUTER, (0, 1.0, -1.2), (0, 2.6, -2.6), (0, 3.2, -3.2))
        | _row(LOWER_INNER, (0, 0.2, -1.5), (0, 0.4, -3.6), (0, 0.5, -4.2)),
        22,
    ),
    "mouthRollUpper": Shape(
        _row(UPPER_OUTER, (0, -0.6, -0.6), (0, -2.2, -2.6), (0, -2.6, -3.2))
        | _row(UPPER_INNER, (0, -0.1, -0.7), (0, -0.2, -3.6), (0, -0.3, -4.2)),
        22,
    ),
    "mouthShrugLower": Shape(
        _row(LOWER_OUTER, (0, 1.6, 0.5), (0, 3.6, 1.8), (0, 4.2, 2.2))
        | _row(LOWER_INNER, (0, 0.8, 0.3), (0, 2.2, 1.4), (0, 2.6, 1.8))
        | _row(UPPER_INNER, (0, 0.7, 0.3), (0, 2.1, 0.8), (0, 2.5, 0.9))
        | _row(UPPER_OUTER, (0, 0.6, 0.2), (0, 1.6, 0.6), (0, 1.9, 0.7))
        | {175: (0, 3.0, 0.8), 199: (0, 3.6, 0.4), 200: (0, 3.8, 0.4)},
        34,
    ),
    "mouthShrugUpper": Shape(
        _row(UPPER_OUTER, (0, 0.8, 0.4), (0, 2.4, 1.6), (0, 2.8, 2.0))
        | _row(UPPER_INNER, (0, 0.6, 0.4), (0, 2.2, 1.8), (0, 2.6, 2.2))
        | _row(LOWER_INNER, (0, 0.4, 0.2), (0, 1.4, 0.6), (0, 1.7, 0.8)),
        28,
    ),
}
