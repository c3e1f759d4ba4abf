"""Identity and expression that MICA, DECA, EMOCA and SMIRK found in a photo, in FLAME 2020's coefficients.

All of them predict fewer coefficients than FLAME has; the others are zero, as in their own models. DECA's and EMOCA's
pose is six numbers, global rotation and jaw. SMIRK's eyelids are left and right, 0 open to 1 closed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zero1toa.errors import MotionError
from zero1toa.head.flame.result_files import WHOLE, read_result
from zero1toa.head.flame.sequence import N_EXPRESSION, N_SHAPE, Floats

# Names by tool: DECA, EMOCA (in memory, and its folder of files), SMIRK, MICA.
_SHAPE = ("shape", "shapecode", "shape_params", "identity")
_EXPRESSION = ("exp", "expcode", "expression_params")
_POSE = ("pose", "posecode")
_JAW = ("jaw_params", "jawpose")
_LIDS = ("eyelid_params",)
_WIDEST = 1.0  # radians


@dataclasses.dataclass(frozen=True)
class TrackedExpression:
    """One photo's expression.

    Attributes:
        expression: ``[100]`` float32.
        jaw: rotation of the jaw joint ``[3]`` float32, axis-angle in radians.
        lids: left and right closure ``[2]`` float32 in [0, 1], beside what ``expression`` closes.
    """

    expression: Floats
    jaw: Floats
    lids: Floats


def read_shape(path: Path) -> Floats:
    """Read an identity.

    Args:
        path: MICA's ``identity.npy`` or its folder; a file or folder of DECA, EMOCA or SMIRK.

    Returns:
        Coefficients ``[300]`` float32.

    Raises:
        MotionError: when it cannot be read or has no identity of one photo in it.
    """
    entries = read_result(path)
    name = WHOLE if WHOLE in entries else _first(entries, _SHAPE)
    if name is None:
        raise _missing(path, entries, "identity", _SHAPE)
    return _coefficients(path, name, entries[name], N_SHAPE)


def read_expression(path: Path) -> TrackedExpression:
    """Read an expression with its jaw.

    Args:
        path: a file of DECA, EMOCA or SMIRK, or EMOCA's folder (``exp.npy`` and ``pose.npy``).

    Raises:
        MotionError: when it cannot be read or has no expression and jaw of one photo in it.
    """
    entries = read_result(path)
    if WHOLE in entries:
        raise MotionError(f"{path} is one array without a jaw; give the folder that has exp.npy and pose.npy")
    name, pose, jaw = _first(entries, _EXPRESSION), _first(entries, _POSE), _first(entries, _JAW)
    if name is None:
        raise _missing(path, entries, "expression", _EXPRESSION)
    if jaw is not None:
        turned = _one(path, jaw, entries[jaw], 3)
    elif pose is not None:
        turned = _one(path, pose, entries[pose], 6)[3:]
    else:
        raise _missing(path, entries, "jaw", (*_POSE, *_JAW))
    if float(np.linalg.norm(turned)) > _WIDEST:
        raise MotionError(f"{path}: the jaw turns by {np.linalg.norm(turned):.1f} radians; expected less than 1")
    lids = _first(entries, _LIDS)
    return TrackedExpression(
        expression=_coefficients(path, name, entries[name], N_EXPRESSION),
        jaw=turned,
        lids=np.zeros(2, np.float32) if lids is None else _one(path, lids, entries[lids], 2).clip(0, 1),
    )


def _first(entries: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in entries), None)


def _missing(path: Path, entries: Mapping[str, Any], what: str, names: tuple[str, ...]) -> MotionError:
    found = ", ".join(sorted(name or "one array" for name in entries)[:12]) or "nothing"
    return MotionError(f"{path} has no {what}: expected one of {', '.join(names)} (found: {found})")


def _coefficients(path: Path, name: str, value: Any, most: int) -> Floats:
    given = _row(path, name, value)
    if len(given) > most:
        raise MotionError(f"{path}: '{name}' has {len(given)} coefficients; FLAME 2020 has at most {most}")
    return np.concatenate([given, np.zeros(most - len(given), np.float32)])


def _one(path: Path, name: str, value: Any, size: int) -> Floats:
    given = _row(path, name, value)
    if len(given) != size:
        raise MotionError(f"{path}: '{name}' has {len(given)} numbers, not {size}")
    return given


def _row(path: Path, name: str, value: Any) -> Floats:
    """The numbers ``[N]`` of one photo, saved with or without a batch dimension."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or not array.ndim or array.size != array.shape[-1] or not array.size:
        raise MotionError(
            f"{path}: '{name or 'the array'}' is {array.dtype} {list(array.shape)}, not coefficients [N] of one photo"
        )
    row = array.reshape(-1).astype(np.float32)
    if not np.isfinite(row).all():
        raise MotionError(f"{path}: '{name or 'the array'}' holds a value that is not finite")
    return row
