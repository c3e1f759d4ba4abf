"""Named arrays of a tracker's result, whichever way it was saved, without running anything that a file names."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zero1toa.errors import MotionError
from zero1toa.unpickling import Kept, PickleError, TensorUnpickler, read_dictionary

WHOLE = ""
"""Name of the array of a plain ``.npy`` file."""


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.

    Args:
        path: a ``.pkl`` of a dictionary; an ``.npz``; an ``.npy`` of one array or of a dictionary; or a folder of
            ``.npy`` files, as EMOCA and MICA write for each picture.

    Returns:
        Arrays by name: keys of the dictionary, members of the archive, or names of the folder's files.

    Raises:
        MotionError: when there is no such file, it is of another kind or cannot be read.
    """
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise MotionError(f"{path} has no .npy file in it; expected the folder that EMOCA or MICA wrote")
        return {file.stem: value for file in files for value in read_result(file).values()}
    if not path.is_file():
        raise MotionError(f"there is no file or folder {path}; give the result of MICA, DECA, EMOCA or SMIRK")
    suffix = path.suffix.lower()
    if suffix not in (".pkl", ".npy", ".npz"):
        raise MotionError(f"{path} is neither .npy, .npz nor .pkl; save the tracker's result as one of these")
    try:
        if suffix == ".pkl":
            return read_dictionary(path, TensorUnpickler)
        if suffix == ".npz":
            return _flattened(_archive(path))
        with path.open("rb") as stream:
            return _flattened({WHOLE: _array(stream)})
    except PickleError as error:
        named = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise MotionError(named) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MotionError(f"{path} is not a readable {suffix} file: {error}") from error


def _archive(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        out = {}
        for name in archive.namelist():
            with archive.open(name) as stream:
                out[name.removesuffix(".npy")] = _array(stream)
        return out


def _array(stream: Any) -> Any:
    """One array of numpy's format; what it pickled, if it holds objects."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of the npy format")
    shape, fortran, dtype = header
    if dtype.hasobject:
        return _objects(stream)
    raw = stream.read()
    return np.frombuffer(raw, dtype, int(np.prod(shape))).reshape(shape, order="F" if fortran else "C")


def _objects(stream: BinaryIO) -> Any:
    reader = _ObjectUnpickler(stream)
    try:
        return reader.plain(reader.load())
    except PickleError:
        raise
    except Exception as error:  # a damaged stream can make the machine of pickle raise almost anything
        raise PickleError(f"the objects in it cannot be read ({error})") from error


class _ObjectUnpickler(TensorUnpickler):
    """Also reads the array of objects around a dictionary that ``np.save`` was given."""

    def plain(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, self._array) and isinstance(value.state, tuple) and len(value.state) == 5:
            kind, items = value.state[2], value.state[4]
            if isinstance(kind, Kept) and kind.name in ("O", "O8") and isinstance(items, list) and len(items) == 1:
                return self.plain(items[0], depth + 1)
        return super().plain(value, depth)


def _flattened(entries: dict[str, Any]) -> dict[str, Any]:
    """A dictionary that was saved as the only array comes in place of it."""
    if len(entries) == 1:
        (only,) = entries.values()
        if isinstance(only, dict):
            return {str(key): value for key, value in only.items()}
    return entries
