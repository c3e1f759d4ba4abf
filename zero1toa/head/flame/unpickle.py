"""Reading model pickles without running anything that they name.

FLAME's files are Python 2 pickles of chumpy arrays and a scipy matrix. A pickle may name any function to be called
while it is read, so this reader resolves a short list of names only, each to a stand-in that is made anew for every
file and does nothing but keep what it is given; numpy, scipy and chumpy themselves never see the file's bytes.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.errors import HeadModelError

_SCALAR = re.compile(r"[<>|=]?[biuf][1248]")
_LARGEST = 2**28  # numbers in one array; FLAME's largest has six million


class RefusedPickleError(HeadModelError):
    """A pickle that names something beyond arrays."""


class _Kept:
    """Any object of the file: keeps the state that the file gives it."""

    state: Any = None
    name: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


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
        with path.open("rb") as stream:
            reader = _Reader(stream)
            loaded = reader.load()
        if not isinstance(loaded, dict):
            raise HeadModelError(f"{path} holds {type(loaded).__name__}, not the dictionary of a FLAME model")
        return {str(key): reader.plain(value) for key, value in loaded.items()}
    except HeadModelError as error:
        raise type(error)(f"{path}: {error}") from None
    except OSError as error:
        raise HeadModelError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise HeadModelError(f"{path} asks for more memory than there is: it is damaged or no model file") from error
    except Exception as error:  # a damaged stream can make the machine of pickle raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HeadModelError(f"{path} is not a readable pickle ({reason}); download the model file again") from error


class _Reader(pickle.Unpickler):
    """Resolves names to stand-ins that live as long as this object, so that a file can change nothing that stays."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, fix_imports=True, encoding="latin1")
        self._array: type[_Kept] = type("array", (_Kept,), {})
        self._dtype: type[_Kept] = type("dtype", (_Kept,), {})
        self._chumpy: type[_Kept] = type("Ch", (_Kept,), {})
        self._select: type[_Kept] = type("Select", (_Kept,), {})
        self._sparse: type[_Kept] = type("csc_matrix", (_Kept,), {})
        self._plain_object: type[_Kept] = type("object", (_Kept,), {})
        self._names = self._table()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[f"{module}.{name}"]
        except KeyError:
            raise RefusedPickleError(
                f"the pickle names '{module}.{name}', which no FLAME model needs; nothing of it was run. "
                "Download the model from its publisher"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedPickleError("the pickle refers to objects outside of itself, which no FLAME model does")

    def _table(self) -> dict[str, Any]:
        table: dict[str, Any] = {
            "chumpy.ch.Ch": self._chumpy,
            "chumpy.Ch": self._chumpy,
            "chumpy.reordering.Select": self._select,
            "scipy.sparse.csc.csc_matrix": self._sparse,
            "scipy.sparse._csc.csc_matrix": self._sparse,
            "scipy.sparse.csc_matrix": self._sparse,
            "numpy.ndarray": self._array,
            "numpy.dtype": self._make_dtype(),
            "collections.OrderedDict": dict,
            "_codecs.encode": self._make_encode(),
        }
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            table[f"{module}._reconstruct"] = self._make_reconstruct()
            table[f"{module}.scalar"] = self._make_scalar()
        for module in ("copy_reg", "copyreg"):
            table[f"{module}._reconstructor"] = self._make_reconstructor()
        for module in ("__builtin__", "builtins"):
            table[f"{module}.object"] = self._plain_object
            table[f"{module}.set"] = set  # chumpy's note of what it has to compute again
        return table

    def _make_dtype(self) -> Callable[..., Any]:
        kind = self._dtype

        def dtype(name: str, align: bool = False, copy: bool = False) -> Any:
            made = kind()
            made.name = name
            return made

        return dtype

    def _make_reconstruct(self) -> Callable[..., Any]:
        kind = self._array

        def reconstruct(subtype: Any, shape: Any, typecode: Any) -> Any:
            if subtype is not kind:
                raise RefusedPickleError("the pickle holds an array of an unknown kind")
            return kind()

        return reconstruct

    def _make_scalar(self) -> Callable[..., Any]:
        def scalar(dtype: Any, data: Any = b"") -> Any:
            return self._decode((1,), dtype, False, data)[0]

        return scalar

    def _make_reconstructor(self) -> Callable[..., Any]:
        known = (self._chumpy, self._select, self._sparse)

        def reconstructor(kind: Any, base: Any, state: Any) -> Any:
            if kind not in known:
                raise RefusedPickleError("the pickle builds an object of an unknown kind")
            return kind()

        return reconstructor

    def _make_encode(self) -> Callable[..., Any]:
        def encode(text: Any, encoding: Any = "latin1") -> bytes:
            if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
                raise RefusedPickleError(f"the pickle holds bytes in the encoding {encoding!r}")
            return text.encode("latin1")

        return encode

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Turn stand-ins into numpy arrays, also inside of lists and dictionaries."""
        if depth > 8:
            raise HeadModelError("the pickle is nested too deeply for a model file")
        if isinstance(value, self._array):
            state = value.state
            if not isinstance(state, tuple) or len(state) != 5:
                raise HeadModelError("an array of the pickle is damaged")
            return self._decode(state[1], state[2], bool(state[3]), state[4])
        if isinstance(value, self._chumpy):
            return self.plain(_entry(value.state, "x", "chumpy array"), depth + 1)
        if isinstance(value, self._select):
            return self._selected(value.state, depth)
        if isinstance(value, self._sparse):
            return self._dense(value.state, depth)
        if isinstance(value, dict):
            return {self.plain(k, depth + 1): self.plain(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        return value

    def _decode(self, shape: Any, dtype: Any, fortran: bool, data: Any) -> NDArray[Any]:
        if not isinstance(dtype, self._dtype) or not isinstance(dtype.name, str):
            raise HeadModelError("an array of the pickle has no type")
        name: str = dtype.name
        if not _SCALAR.fullmatch(name):
            raise HeadModelError(f"the pickle holds an array of type '{name}'; a model has numbers only")
        order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
        kind = np.dtype(name[-2:]).newbyteorder(">" if order == ">" else "<")
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(raw, bytes) or not isinstance(shape, tuple) or not all(isinstance(n, int) for n in shape):
            raise HeadModelError("an array of the pickle is damaged")
        count = math.prod(shape)
        if any(n < 0 for n in shape) or count > _LARGEST or len(raw) != count * kind.itemsize:
            raise HeadModelError(f"an array of the pickle says {list(shape)} {kind} and holds {len(raw)} bytes")
        flat = np.frombuffer(raw, kind).astype(kind.newbyteorder("="))
        return flat.reshape(shape, order="F" if fortran else "C")

    def _selected(self, state: Any, depth: int) -> NDArray[Any]:
        """``chumpy.reordering.Select``: chosen numbers of another array, in a shape of their own."""
        whole = np.asarray(self.plain(_entry(state, "a", "chumpy selection"), depth + 1))
        chosen = np.asarray(self.plain(_entry(state, "idxs", "chumpy selection"), depth + 1))
        if chosen.dtype.kind not in "iu" or (chosen.size and not 0 <= chosen.min() <= chosen.max() < whole.size):
            raise HeadModelError("a chumpy selection of the pickle points outside of its array")
        shape = state.get("preferred_shape")
        out = whole.ravel()[chosen.ravel()]
        return out.reshape(self.plain(shape, depth + 1)) if shape is not None else out

    def _dense(self, state: Any, depth: int) -> NDArray[Any]:
        """A compressed sparse column matrix as a dense one."""
        parts = {k: self.plain(_entry(state, k, "sparse matrix"), depth + 1) for k in ("data", "indices", "indptr")}
        shape = self.plain(state.get("_shape", state.get("shape")), depth + 1)
        if not isinstance(shape, tuple | list) or len(shape) != 2 or not all(isinstance(n, int) for n in shape):
            raise HeadModelError("a sparse matrix of the pickle has no shape")
        rows, columns = shape
        data, indices, starts = (np.asarray(parts[k]).ravel() for k in ("data", "indices", "indptr"))
        sound = (
            min(rows, columns) >= 0
            and rows * columns <= _LARGEST
            and indices.dtype.kind in "iu"
            and starts.dtype.kind in "iu"
            and len(starts) == columns + 1
            and len(data) == len(indices) == starts[-1]
            and starts[0] == 0
            and (np.diff(starts.astype(np.int64)) >= 0).all()
            and (not len(indices) or 0 <= indices.min() <= indices.max() < rows)
        )
        if not sound:
            raise HeadModelError("a sparse matrix of the pickle is damaged")
        out = np.zeros((rows, columns), data.dtype)
        np.add.at(out, (indices, np.repeat(np.arange(columns), np.diff(starts.astype(np.int64)))), data)
        return out


def _entry(state: Any, key: str, what: str) -> Any:
    if not isinstance(state, Mapping) or key not in state:
        raise HeadModelError(f"a {what} of the pickle has no '{key}'")
    return state[key]
