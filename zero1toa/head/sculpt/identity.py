"""The identity basis: about forty authored anthropometric warps, one standard deviation each.

A warp is a smooth displacement field of space around the mean head, so skin, skull, eyes, teeth and ears follow it
together. Millimetres, origin at the centroid of the face, +x subject's left, +y up, +z forward.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Warp = Callable[[Array], Array]

EYE, BROW, TIP, NASION, ALA = (
    (31.5, 34.0, -5.0),
    (32.0, 54.0, 2.0),
    (0.0, -8.0, 30.0),
    (0.0, 38.0, 8.0),
    (16.0, -14.0, 14.0),
)
MOUTH, CORNER, CHIN, GONION = (0.0, -36.0, 8.0), (23.0, -36.0, -2.0), (0.0, -76.0, -4.0), (54.0, -48.0, -50.0)
MALAR, ZYGION, BUCCAL, TEMPLE = (44.0, 8.0, -16.0), (68.0, 14.0, -56.0), (44.0, -28.0, -26.0), (66.0, 58.0, -36.0)


def _bell(p: Array, centre: tuple[float, float, float], widths: tuple[float, float, float]) -> Array:
    return np.exp(-0.5 * (((p - np.array(centre)) / np.array(widths)) ** 2).sum(1))


def _both(p: Array, centre: tuple[float, float, float], widths: tuple[float, float, float]) -> Array:
    return _bell(np.stack([np.abs(p[:, 0]), p[:, 1], p[:, 2]], axis=1), centre, widths)


def _ramp(value: Array, width: float) -> Array:
    """0 far below, the value far above: a softened max(value, 0)."""
    return 0.5 * (value + np.sqrt(value**2 + width**2) - width)


def _step(value: Array, width: float) -> Array:
    return 0.5 * (1 + np.tanh(value / width))


def _side(p: Array, width: float = 6.0) -> Array:
    """-1 on the right, 1 on the left, smooth through the midline."""
    return np.tanh(p[:, 0] / width)


def _xyz(x: Array | float, y: Array | float, z: Array | float, p: Array) -> Array:
    zero = np.zeros(len(p))
    return np.stack([zero + x, zero + y, zero + z], axis=1)


def _lateral(p: Array, amount: Array) -> Array:
    return _xyz(_side(p) * amount, 0, 0, p)


def _about_eye(p: Array) -> tuple[Array, Array, Array]:
    """Window of the eyes and offsets from the eye's middle (outwards, up)."""
    return _both(p, EYE, (17, 13, 26)), np.abs(p[:, 0]) - EYE[0], p[:, 1] - EYE[1]


def _eye_scale(p: Array, out: float, up: float) -> Array:
    w, u, v = _about_eye(p)
    return _xyz(_side(p) * w * u * out, w * v * up, 0, p)


def _eye_tilt(p: Array) -> Array:
    w, u, v = _about_eye(p)
    return _xyz(-_side(p) * w * v * 0.045, w * u * 0.045, 0, p)


def _nose_turn(p: Array) -> Array:
    """Raise the tip by turning the lower nose about the bridge."""
    w = _bell(p, (0, -10, 24), (16, 15, 18))
    return _xyz(0, w * 0.13 * (p[:, 2] - 8), -w * 0.13 * (p[:, 1] + 2) * 0.4, p)


def _lip(p: Array, upper: bool) -> Array:
    rise = p[:, 1] - MOUTH[1]
    rise = _ramp(rise, 2.0) if upper else -_ramp(-rise, 2.0)
    w = _bell(p, (0, -36, 8), (19, 9, 16))
    return _xyz(0, w * np.clip(rise, -9, 9) * 0.22, w * np.abs(np.clip(rise, -9, 9)) * 0.10, p)


def _neck_width(p: Array) -> Array:
    below = 0.07 * _step(-p[:, 1] - 95, 30)
    return _xyz(below * p[:, 0], 0, below * (p[:, 2] + 100), p)


WARPS: dict[str, Warp] = {
    "head_width": lambda p: _xyz(0.035 * p[:, 0], 0, 0, p),
    "head_scale": lambda p: 0.025 * (p - np.array([0.0, 0.0, -60.0])),
    "skull_height": lambda p: _xyz(0, 0.06 * _ramp(p[:, 1] - 55, 40), 0, p),
    "skull_depth": lambda p: _xyz(0, 0, -0.05 * _ramp(-p[:, 2] - 50, 40), p),
    "neck_width": _neck_width,
    "face_height": lambda p: _xyz(0, 0.035 * (p[:, 1] - 20) * _step(95 - p[:, 1], 30) * _step(p[:, 1] + 110, 25), 0, p),
    "face_width": lambda p: _xyz(0.045 * p[:, 0] * _step(p[:, 2] + 80, 30) * _step(75 - p[:, 1], 30), 0, 0, p),
    "face_depth": lambda p: _xyz(0, 0, 0.04 * _ramp(p[:, 2] + 60, 20), p),
    "face_taper": lambda p: _xyz(0.0009 * p[:, 0] * np.clip(p[:, 1], -85, 90) * _step(p[:, 2] + 85, 25), 0, 0, p),
    "forehead_width": lambda p: _lateral(p, 3.2 * _both(p, TEMPLE, (30, 30, 40))),
    "forehead_slope": lambda p: _xyz(0, 0, -0.09 * _ramp(p[:, 1] - 55, 20) * _bell(p, (0, 90, 5), (90, 48, 45)), p),
    "forehead_bulge": lambda p: _xyz(0, 0, 2.2 * _bell(p, (0, 74, 8), (32, 17, 40)), p),
    "brow_ridge": lambda p: _xyz(0, 0, 1.7 * _both(p, (22, 55, 6), (24, 9, 26)), p),
    "brow_height": lambda p: _xyz(0, 2.4 * _both(p, BROW, (30, 10, 30)), 0, p),
    "brow_tilt": lambda p: _xyz(0, 0.09 * (np.abs(p[:, 0]) - 30) * _both(p, BROW, (26, 9, 30)), 0, p),
    "cheekbone_width": lambda p: _lateral(p, 3.4 * _both(p, ZYGION, (40, 26, 34))),
    "cheekbone_forward": lambda p: _xyz(0, 0, 2.3 * _both(p, MALAR, (20, 16, 30)), p),
    "cheek_fullness": lambda p: _both(p, BUCCAL, (20, 20, 24))[:, None] * _xyz(2.8 * _side(p), 0, 1.8, p),
    "jaw_width": lambda p: _lateral(p, 4.2 * _both(p, GONION, (36, 26, 34))),
    "jaw_drop": lambda p: _xyz(0, -3.0 * _both(p, GONION, (30, 24, 30)), 0, p),
    "chin_width": lambda p: _lateral(p, 3.0 * _both(p, (18, -74, -8), (15, 15, 24))),
    "chin_length": lambda p: _xyz(0, -3.4 * _bell(p, (0, -84, -8), (34, 17, 34)), 0, p),
    "chin_forward": lambda p: _xyz(0, 0, 3.0 * _bell(p, CHIN, (27, 17, 26)), p),
    "chin_point": lambda p: _xyz(0, -2.0 * _bell(p, (0, -82, -4), (9, 9, 16)), 1.0 * _bell(p, CHIN, (8, 8, 14)), p),
    "eye_spacing": lambda p: _lateral(p, 1.7 * _both(p, EYE, (18, 20, 30))),
    "eye_scale": lambda p: _eye_scale(p, 0.05, 0.05),
    "eye_width": lambda p: _eye_scale(p, 0.06, 0.0),
    "eye_opening": lambda p: _eye_scale(p, 0.0, 0.13),
    "eye_tilt": _eye_tilt,
    "eye_depth": lambda p: _xyz(0, 0, -1.5 * _both(p, EYE, (21, 14, 24)), p),
    "eye_height": lambda p: _xyz(0, 1.6 * _both(p, (31, 38, -5), (40, 20, 40)), 0, p),
    "nose_length": lambda p: _xyz(0, -2.7 * _bell(p, (0, -13, 20), (22, 15, 26)), 0, p),
    "nose_width": lambda p: _lateral(p, 1.9 * _both(p, ALA, (8, 10, 12))),
    "nose_forward": lambda p: _xyz(0, 0, 2.5 * _bell(p, TIP, (13, 17, 18)), p),
    "nose_turn": _nose_turn,
    "nose_bridge": lambda p: _xyz(0, 0, 1.7 * _bell(p, (0, 17, 20), (9, 12, 16)), p),
    "nose_bridge_width": lambda p: _lateral(p, 1.2 * _both(p, (9, 20, 10), (6, 16, 12))),
    "nasion_depth": lambda p: _xyz(0, 0, 1.5 * _bell(p, NASION, (11, 12, 14)), p),
    "nose_tip_width": lambda p: _lateral(p, 1.3 * _both(p, (8, -8, 25), (6, 8, 8))),
    "mouth_width": lambda p: _lateral(p, 2.4 * _both(p, CORNER, (14, 11, 20))),
    "mouth_height": lambda p: _xyz(0, 1.9 * _bell(p, MOUTH, (34, 13, 32)), 0, p),
    "mouth_forward": lambda p: _xyz(0, 0, 2.0 * _bell(p, MOUTH, (24, 17, 24)), p),
    "mouth_corners": lambda p: _xyz(0, 1.4 * (_both(p, CORNER, (9, 9, 16)) - 0.6 * _bell(p, MOUTH, (9, 9, 16))), 0, p),
    "lip_upper": lambda p: _lip(p, True),
    "lip_lower": lambda p: _lip(p, False),
}  # fmt: skip

NAMES: tuple[str, ...] = tuple(WARPS)


def displacements(points: Array) -> Array:
    """All warps at one standard deviation ``[S, N, 3]`` in millimetres."""
    return np.stack([warp(points) for warp in WARPS.values()])
