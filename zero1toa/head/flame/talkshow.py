"""TalkSHOW's talk: SHOW's recordings of talk shows (pickles) and TalkSHOW's own speech-driven output (npy).

Both are SMPL-X bodies at 30 frames a second whose expression and jaw are those of FLAME 2020 (Yi et al. 2023). Head
turns are the body's neck and head joints one after the other; SHOW's table of body joints leaves out the pelvis, so
that they are 11 and 14 in it (12 is the left collar bone). Recorded jaws stay under 10 degrees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zero1toa.errors import MotionError
from zero1toa.head.flame.sequence import N_EXPRESSION, FlameSequence, Floats
from zero1toa.unpickling import PickleError, TensorUnpickler, read_dictionary

FRAME_RATE = 30.0
SUFFIXES = (".pkl", ".npy")

_NECK, _HEAD = 11, 14  # among the 21 body joints without the pelvis
_KEYS = {"expression": N_EXPRESSION, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3, "body_pose_axis": 63}
# Columns of an output row: jaw, left eye, right eye, global orientation, body, hands, expression.
_COLUMNS = {
    "jaw_pose": slice(0, 3), "leye_pose": slice(3, 6), "reye_pose": slice(6, 9), "body_pose_axis": slice(12, 75),
    "expression": slice(165, 265),
}  # fmt: skip
_WIDTH = 265
_WIDEST = 1.0  # radians; a jaw that turns further was written in degrees, or is no jaw


def read_talkshow(path: Path) -> FlameSequence:
    """Read a clip of talk.

    Args:
        path: a pickle of SHOW (``expression`` ``[T, 100]``, ``jaw_pose``, ``leye_pose``, ``reye_pose`` ``[T, 3]``,
            ``body_pose_axis`` ``[T, 63]``) or an array ``[T, 265]`` that TalkSHOW wrote.

    Returns:
        The talk at 30 frames a second.

    Raises:
        MotionError: when the file cannot be read, lacks keys, or holds other shapes or values.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MotionError(f"{path} is no TalkSHOW file; expected SHOW's .pkl or TalkSHOW's .npy")
    arrays = _recorded(path) if suffix == ".pkl" else _generated(path)
    frames = len(arrays["expression"])
    for name, width in _KEYS.items():
        if arrays[name].shape != (frames, width):
            raise MotionError(
                f"{path}: '{name}' is {list(arrays[name].shape)}, not numbers [{frames}, {width}] as in a TalkSHOW file"
            )
        if not np.isfinite(arrays[name]).all():
            raise MotionError(f"{path}: '{name}' holds a value that is not finite")
    if not frames:
        raise MotionError(f"{path} has no frames")
    widest = float(np.linalg.norm(arrays["jaw_pose"], axis=1).max())
    if widest > _WIDEST:
        raise MotionError(f"{path}: 'jaw_pose' turns by {widest:.1f} radians; expected axis-angle in radians below 1")
    return FlameSequence(
        expression=arrays["expression"],
        jaw=arrays["jaw_pose"],
        neck=_composed(arrays["body_pose_axis"]),
        eyes=np.stack([arrays["leye_pose"], arrays["reye_pose"]], axis=1),
        fps=FRAME_RATE,
        name=str(path),
    )


def talkshow_files(place: Path) -> list[Path]:
    """The clips of a folder and the folders in it, in an order that every machine agrees on; or the one file named.

    Raises:
        MotionError: when there is no such file or folder, or no clip in it.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise MotionError(f"there is no file or folder {place}; give one with TalkSHOW's .pkl or .npy clips")
    found = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
    files = sorted(found, key=lambda path: path.relative_to(place).as_posix())
    if not files:
        raise MotionError(f"{place} has no .pkl or .npy file in it; expected clips of SHOW or TalkSHOW")
    return files


def _recorded(path: Path) -> dict[str, Floats]:
    try:
        entries = read_dictionary(path, TensorUnpickler)
    except PickleError as error:
        raise MotionError(str(error)) from error
    missing = [name for name in _KEYS if name not in entries]
    if missing:
        raise MotionError(
            f"{path} has no {', '.join(missing)} (found: {', '.join(sorted(entries)[:12]) or 'nothing'}); give a clip "
            f"of SHOW, which has {', '.join(_KEYS)}"
        )
    return {name: _numbers(path, name, entries[name]) for name in _KEYS}


def _generated(path: Path) -> dict[str, Floats]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MotionError(f"{path} is not a readable npy file: {error}") from error
    rows = _numbers(path, "the array", loaded)
    rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != _WIDTH:
        raise MotionError(f"{path} is {list(loaded.shape)}, not [T, {_WIDTH}] as TalkSHOW writes")
    return {name: np.ascontiguousarray(rows[:, columns]) for name, columns in _COLUMNS.items()}


def _numbers(path: Path, name: str, value: Any) -> Floats:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.ndim < 2:
        raise MotionError(f"{path}: {name} is {array.dtype} {list(array.shape)}, not numbers with a row for each frame")
    return array.astype(np.float32)


def _composed(body: Floats) -> Floats:
    """Rotation of the head against the torso ``[T, 3]``: the head joint turns within the neck joint."""
    from scipy.spatial.transform import Rotation

    joints = body.reshape(len(body), -1, 3)
    turn = Rotation.from_rotvec(joints[:, _NECK]) * Rotation.from_rotvec(joints[:, _HEAD])
    return turn.as_rotvec().astype(np.float32)
