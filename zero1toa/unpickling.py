"""Reading pickles of arrays without running anything that they name.

A pickle may name any function to be called while it is read. These readers resolve a short list of names only, each to
a stand-in that is made anew for every file and does nothing but keep what it is given; numpy itself never sees the
file's objects. Tensors that were on a GPU come to the CPU.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.errors import UserError

LARGEST = 2**28
"""Most numbers in one array; FLAME's largest has six million."""

_SCALAR = re.compile(r"[<>|=]?[biuf][1248]")


class PickleError(UserError):
    """A pickle that cannot be read, or is damaged."""


class RefusedPickleError(PickleError):
    """A pickle that names something beyond arrays."""


class Kept:
    """Any object of the file: keeps the state that the file gives it."""

    state: Any = None
    name: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class ArrayUnpickler(pickle.Unpickler):
    """Resolves names to stand-ins that live as long as this object, so that a file can change nothing that stays.

    Attributes:
        needed_by: what files of this kind are called in messages.
        source: where to get a better one, as a sentence for messages.
        table: qualified name in a file to what it becomes; kinds of file add theirs in :meth:`names`.
        rebuilt: stand-ins that ``copyreg._reconstructor`` may make.
    """

    needed_by = "file of arrays"
    source = "Make the file again with the tool that wrote it"

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, fix_imports=True, encoding="latin1")
        self._array: type[Kept] = type("array", (Kept,), {})
        self._dtype: type[Kept] = type("dtype", (Kept,), {})
        self._plain_object: type[Kept] = type("object", (Kept,), {})
        self.rebuilt: tuple[type[Kept], ...] = ()
        self.table = self.names()

    def find_class(self, module: str, name: str) -> Any:
        """Give the stand-in for a name of the file.

        Raises:
            RefusedPickleError: for every name that is not in the table.
        """
        try:
            return self.table[f"{module}.{name}"]
        except KeyError:
            raise RefusedPickleError(
                f"the pickle names '{module}.{name}', which no {self.needed_by} needs; nothing of it was run"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to outside of the file."""
        raise RefusedPickleError(f"the pickle refers to objects outside of itself, which no {self.needed_by} does")

    def names(self) -> dict[str, Any]:
        """The names that are resolved."""
        table: dict[str, Any] = {
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
        def reconstructor(kind: Any, base: Any, state: Any) -> Any:
            if kind not in self.rebuilt:
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
            raise PickleError(f"the pickle is nested too deeply for a {self.needed_by}")
        if isinstance(value, self._array):
            state = value.state
            if not isinstance(state, tuple) or len(state) != 5:
                raise PickleError("an array of the pickle is damaged")
            return self._decode(state[1], state[2], bool(state[3]), state[4])
        if isinstance(value, dict):
            return {self.plain(k, depth + 1): self.plain(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        return value

    def _decode(self, shape: Any, dtype: Any, fortran: bool, data: Any) -> NDArray[Any]:
        if not isinstance(dtype, self._dtype) or not isinstance(dtype.name, str):
            raise PickleError("an array of the pickle has no type")
        name: str = dtype.name
        if not _SCALAR.fullmatch(name):
            raise PickleError(f"the pickle holds an array of type '{name}'; only numbers are read")
        order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
        kind = np.dtype(name[-2:]).newbyteorder(">" if order == ">" else "<")
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(raw, bytes) or not isinstance(shape, tuple) or not all(isinstance(n, int) for n in shape):
            raise PickleError("an array of the pickle is damaged")
        count = math.prod(shape)
        if any(n < 0 for n in shape) or count > LARGEST or len(raw) != count * kind.itemsize:
            raise PickleError(f"an array of the pickle says {list(shape)} {kind} and holds {len(raw)} bytes")
        flat = np.frombuffer(raw, kind).astype(kind.newbyteorder("="))
        return flat.reshape(shape, order="F" if fortran else "C")


class TensorUnpickler(ArrayUnpickler):
    """Also reads torch tensors as their owners dump them, those of a GPU too, as numpy arrays.

    Each such tensor holds a small file of torch's own inside the pickle, which plain ``pickle.load`` hands to
    ``torch.load`` and its full unpickler, on the device that it came from.
    """

    needed_by = "result of a face tracker"

    def names(self) -> dict[str, Any]:
        """The names that are resolved."""
        return super().names() | {
            "torch.storage._load_from_bytes": _make_storage(),
            "torch._utils._rebuild_tensor_v2": _make_tensor(),
            "torch._utils._rebuild_parameter": _make_parameter(),
            "torch.Size": tuple,
        }


def _make_storage() -> Callable[..., Any]:
    def load_from_bytes(raw: Any) -> Any:
        import torch

        if not isinstance(raw, bytes):
            raise PickleError("a tensor of the pickle is damaged")
        storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        if not isinstance(storage, torch.storage.TypedStorage):
            raise PickleError("a tensor of the pickle has no numbers")
        return storage

    return load_from_bytes


def _make_tensor() -> Callable[..., Any]:
    def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> NDArray[Any]:
        import torch

        if not isinstance(storage, torch.storage.TypedStorage):
            raise PickleError("a tensor of the pickle has no numbers")
        flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
        if math.prod(size) > LARGEST:
            raise PickleError(f"a tensor of the pickle says {list(size)}: it is damaged")
        # as_strided refuses to reach beyond the storage.
        tensor = flat.as_strided(size, stride, offset)
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()

    return rebuild


def _make_parameter() -> Callable[..., Any]:
    def rebuild(data: Any, *_: Any) -> Any:
        return data

    return rebuild


def read_dictionary(path: Path, reader: type[ArrayUnpickler]) -> dict[str, Any]:
    """Read a pickled dictionary of arrays.

    Args:
        path: the file; protocol 0 to 5, of Python 2 or 3.
        reader: the kind of file.

    Returns:
        Its entries: stand-ins as dense numpy arrays, everything else as it is.

    Raises:
        RefusedPickleError: when the file names a function or class that no such file needs.
        PickleError: when it cannot be read, is damaged, or is no dictionary.
    """
    try:
        with path.open("rb") as stream:
            machine = reader(stream)
            loaded = machine.load()
        if not isinstance(loaded, dict):
            raise PickleError(f"it holds {type(loaded).__name__}, not the dictionary of a {reader.needed_by}")
        return {str(key): machine.plain(value) for key, value in loaded.items()}
    except PickleError as error:
        raise type(error)(f"{path}: {error}. {reader.source}") from None
    except OSError as error:
        raise PickleError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise PickleError(
            f"{path} asks for more memory than there is: it is damaged or no {reader.needed_by}"
        ) from error
    except Exception as error:  # a damaged stream can make the machine of pickle raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PickleError(f"{path} is not a readable pickle ({reason}). {reader.source}") from error
