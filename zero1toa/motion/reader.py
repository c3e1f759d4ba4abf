"""Reading motions from CSV and npz, and the sequences that ship with the package.

CSV: a header of ARKit names (``jawOpen`` or ``JawOpen``), optionally ``time`` in seconds and ``yaw``, ``pitch``,
``roll`` in degrees; names that are absent are 0. npz: ``coefficients`` ``[T, N]``, optionally ``names`` ``[N]`` (all 52
in ARKit order otherwise), ``head`` ``[T, 3]`` and ``fps``.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zero1toa.errors import MotionError, nearest
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES
from zero1toa.motion.sequence import HEAD_NAMES, Motion, interpolate

DEFAULT_FPS = 25.0
_DATA = Path(__file__).parent / "data"


def shipped() -> list[str]:
    """Names of the motions that ship with the package."""
    return sorted(path.stem for path in _DATA.glob("*.csv"))


def load_motion(source: str | Path, fps: float | None = None) -> Motion:
    """Read a motion.

    Args:
        source: a ``.csv`` or ``.npz`` file, or the name of a shipped motion (``talk``, ``expressions``).
        fps: frames per second of the result; by default the file's own rate, or 25 where it has none.

    Returns:
        The motion, resampled to ``fps`` when the file says another rate.

    Raises:
        MotionError: for a missing or unreadable file, wrong names (with the nearest valid ones), shapes or values.
    """
    if fps is not None and not 0 < fps <= 240:
        raise MotionError(f"{fps:g} frames per second is out of range; give 1 to 240")
    path = Path(source)
    if not path.exists() and str(source) in shipped():
        path = _DATA / f"{source}.csv"
    if not path.is_file():
        known = shipped()
        raise MotionError(f"there is no motion file {source}{nearest(str(source), known)}; shipped: {', '.join(known)}")
    if path.suffix.lower() == ".csv":
        motion = _read_csv(path, fps)
    elif path.suffix.lower() == ".npz":
        motion = _read_npz(path, fps)
    else:
        raise MotionError(
            f"{path} is neither .csv nor .npz with ARKit coefficients, nor a .pkl or .npy of TalkSHOW, nor a video"
        )
    return motion if fps is None else motion.resampled(fps)


def _read_csv(path: Path, fps: float | None) -> Motion:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MotionError(f"{path} is not a readable CSV file: {error}") from error
    if len(rows) < 2:
        raise MotionError(f"{path} has no frames; expected a header of ARKit names and one line per frame")
    header = [cell.strip() for cell in rows[0]]
    table = np.empty((len(rows) - 1, len(header)))
    for i, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise MotionError(f"{path} line {i} has {len(row)} columns and the header has {len(header)}")
        for j, cell in enumerate(row):
            try:
                table[i - 2, j] = float(cell)
            except ValueError as error:
                raise MotionError(f"{path} line {i}, column '{header[j]}': '{cell}' is not a number") from error
    coefficients, head, times = _columns(path, header, table)
    if times is None:
        return Motion(coefficients, head, fps or DEFAULT_FPS, path.stem)
    return _uniform(path, times, coefficients, head)


def _uniform(
    path: Path, times: NDArray[np.float64], coefficients: NDArray[np.float32], head: NDArray[np.float32]
) -> Motion:
    """Frames at the file's own mean rate; recordings drop and shift frames, so their times are interpolated."""
    steps = np.diff(times)
    if len(steps) and not (steps > 0).all():
        line = int(np.argmin(steps > 0)) + 3
        raise MotionError(f"{path} line {line}: 'time' does not increase; give seconds in order")
    rate = float(np.clip(1.0 / np.median(steps), 1.0, 240.0)) if len(steps) else DEFAULT_FPS
    rate = round(rate) if abs(rate - round(rate)) < 0.02 else rate
    count = int(np.floor((times[-1] - times[0]) * rate + 1e-3)) + 1
    return interpolate(times - times[0], coefficients, head, np.arange(count) / rate, rate, path.stem)


def _read_npz(path: Path, fps: float | None) -> Motion:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MotionError(f"{path} is not a readable npz file: {error}") from error
    if "coefficients" not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise MotionError(f"{path} has no array 'coefficients' [T, 52] (found: {found})")
    values = np.asarray(arrays["coefficients"])
    names = [str(name) for name in arrays["names"]] if "names" in arrays else list(ARKIT_NAMES)
    if values.ndim != 2 or not len(values) or values.shape[1] != len(names) or not _is_number(values):
        raise MotionError(
            f"{path}: 'coefficients' is {values.dtype} {list(values.shape)}, not numbers [T, {len(names)}]"
        )
    coefficients, turned, times = _columns(path, names, values.astype(np.float64))
    head = np.asarray(arrays.get("head", turned))
    if head.shape != (len(values), 3) or not _is_number(head) or not np.isfinite(head).all():
        raise MotionError(f"{path}: 'head' is {list(head.shape)}, not yaw, pitch, roll in degrees [{len(values)}, 3]")
    rate = np.asarray(arrays.get("fps", fps or DEFAULT_FPS))
    if rate.size != 1 or not _is_number(rate) or not 0 < float(rate.item()) <= 240:
        raise MotionError(f"{path}: 'fps' is {arrays['fps']}, not one number from 1 to 240")
    if times is not None:
        return _uniform(path, times, coefficients, head.astype(np.float32))
    return Motion(coefficients, head.astype(np.float32), float(rate.item()), path.stem)


def _is_number(values: NDArray) -> bool:
    return bool(np.issubdtype(values.dtype, np.number)) and not np.iscomplexobj(values)


def _columns(
    path: Path, names: Sequence[str], table: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64] | None]:
    """Sort named columns ``[T, N]`` into coefficients ``[T, 52]``, head ``[T, 3]`` and times ``[T]`` or None."""
    coefficients = np.zeros((len(table), len(ARKIT_NAMES)), np.float32)
    head = np.zeros((len(table), 3), np.float32)
    times = None
    unknown, seen = [], set()
    for j, written in enumerate(names):
        name = written[:1].lower() + written[1:]
        if name in seen:
            raise MotionError(f"{path} has two columns '{written}'")
        seen.add(name)
        column = table[:, j]
        if not np.isfinite(column).all():
            raise MotionError(f"{path}: '{written}' holds a value that is not finite")
        if name in ARKIT_INDEX:
            _check_range(path, written, column)
            coefficients[:, ARKIT_INDEX[name]] = np.maximum(column, 0.0)
        elif name in HEAD_NAMES:
            head[:, HEAD_NAMES.index(name)] = column
        elif name == "time":
            times = column
        else:
            unknown.append(f"'{written}'{nearest(name, (*ARKIT_NAMES, *HEAD_NAMES, 'time'))}")
    if unknown:
        more = f" (and {len(unknown) - 3} more)" if len(unknown) > 3 else ""
        raise MotionError(f"{path}: not ARKit names: {', '.join(unknown[:3])}{more}")
    return coefficients, head, times


def _check_range(path: Path, name: str, column: NDArray[np.float64]) -> None:
    """Capture software overshoots a little; percentages and degrees are the usual mistake."""
    worst = float(column[np.argmax(np.abs(column - 0.5))])
    if not -0.25 <= worst <= 2.0:
        raise MotionError(f"{path}: '{name}' reaches {worst:g}; coefficients lie between 0 and 1 (2 exaggerates)")
