"""FLAME's files: Python 2 pickles of chumpy arrays and a scipy matrix, read without these and without running code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa import unpickling
from zero1toa.errors import HeadModelError
from zero1toa.unpickling import LARGEST, ArrayUnpickler, Kept, PickleError


class RefusedPickleError(HeadModelError):
    """A pickle that names something beyond arrays."""


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of arrays.

    Args:
        path: the file; protocol 0 to 5, of Python 2 or 3.

    Returns:
        Its entries: chumpy and scipy objects as dense numpy arrays, everything else as it is.

    Raises:
        RefusedPickleError: when the file names a function or class that no model file needs.
        HeadModelError: when it cannot be read, is damaged, or is no dictionary.
    """
    try:
        return unpickling.read_dictionary(path, _Reader)
    except unpickling.RefusedPickleError as error:
        raise RefusedPickleError(str(error)) from error
    except PickleError as error:
        raise HeadModelError(str(error)) from error


class _Reader(ArrayUnpickler):
    """Adds the three kinds of object that FLAME's files hold."""

    needed_by = "FLAME model"
    source = "Download the model from its publisher"

    def names(self) -> dict[str, Any]:
        self._chumpy: type[Kept] = type("Ch", (Kept,), {})
        self._select: type[Kept] = type("Select", (Kept,), {})
        self._sparse: type[Kept] = type("csc_matrix", (Kept,), {})
        self.rebuilt = (self._chumpy, self._select, self._sparse)
        return super().names() | {
            "chumpy.ch.Ch": self._chumpy,
            "chumpy.Ch": self._chumpy,
            "chumpy.reordering.Select": self._select,
            "scipy.sparse.csc.csc_matrix": self._sparse,
            "scipy.sparse._csc.csc_matrix": self._sparse,
            "scipy.sparse.csc_matrix": self._sparse,
        }

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Turn stand-ins into numpy arrays, also inside of lists and dictionaries."""
        if depth <= 8:
            if isinstance(value, self._chumpy):
                return self.plain(_entry(value.state, "x", "chumpy array"), depth + 1)
            if isinstance(value, self._select):
                return self._selected(value.state, depth)
            if isinstance(value, self._sparse):
                return self._dense(value.state, depth)
        return super().plain(value, depth)

    def _selected(self, state: Any, depth: int) -> NDArray[Any]:
        """``chumpy.reordering.Select``: chosen numbers of another array, in a shape of their own."""
        whole = np.asarray(self.plain(_entry(state, "a", "chumpy selection"), depth + 1))
        chosen = np.asarray(self.plain(_entry(state, "idxs", "chumpy selection"), depth + 1))
        if chosen.dtype.kind not in "iu" or (chosen.size and not 0 <= chosen.min() <= chosen.max() < whole.size):
            raise PickleError("a chumpy selection of the pickle points outside of its array")
        shape = state.get("preferred_shape")
        out = whole.ravel()[chosen.ravel()]
        return out.reshape(self.plain(shape, depth + 1)) if shape is not None else out

    def _dense(self, state: Any, depth: int) -> NDArray[Any]:
        """A compressed sparse column matrix as a dense one."""
        parts = {k: self.plain(_entry(state, k, "sparse matrix"), depth + 1) for k in ("data", "indices", "indptr")}
        shape = self.plain(state.get("_shape", state.get("shape")), depth + 1)
        if not isinstance(shape, tuple | list) or len(shape) != 2 or not all(isinstance(n, int) for n in shape):
            raise PickleError("a sparse matrix of the pickle has no shape")
        rows, columns = shape
        data, indices, starts = (np.asarray(parts[k]).ravel() for k in ("data", "indices", "indptr"))
        sound = (
            min(rows, columns) >= 0
            and rows * columns <= LARGEST
            and indices.dtype.kind in "iu"
            and starts.dtype.kind in "iu"
            and len(starts) == columns + 1
            and len(data) == len(indices) == starts[-1]
            and starts[0] == 0
            and (np.diff(starts.astype(np.int64)) >= 0).all()
            and (not len(indices) or 0 <= indices.min() <= indices.max() < rows)
        )
        if not sound:
            raise PickleError("a sparse matrix of the pickle is damaged")
        out = np.zeros((rows, columns), data.dtype)
        np.add.at(out, (indices, np.repeat(np.arange(columns), np.diff(starts.astype(np.int64)))), data)
        return out


def _entry(state: Any, key: str, what: str) -> Any:
    if not isinstance(state, Mapping) or key not in state:
        raise PickleError(f"a {what} of the pickle has no '{key}'")
    return state[key]
