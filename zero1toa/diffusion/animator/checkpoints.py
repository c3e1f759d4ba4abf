"""Released checkpoints into our modules, with every key accounted for."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from zero1toa.diffusion.animator.layout import Layout
from zero1toa.errors import AssetError

_SHOWN = 3  # keys that an error names


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint is read into an error that a user can act on.

    Args:
        path: the file.
        name: what it should hold.

    Raises:
        AssetError: if the file is missing, damaged or truncated.
    """
    from safetensors import SafetensorError

    damage = (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile)
    try:
        yield
    except FileNotFoundError as error:
        raise AssetError(f"the checkpoint {path}, the {name}, is missing; install it again") from error
    except damage as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AssetError(f"{path}, the {name}, is damaged or truncated ({reason}); fetch it again") from error


def read_checkpoint(path: Path, name: str) -> dict[str, Tensor]:
    """Read a plain state dict, without running any code that the file may hold.

    Args:
        path: ``.safetensors``, or a file of ``torch.save``.
        name: what it should hold, for errors.

    Raises:
        AssetError: if the file is missing, truncated, holds pickled code, or something else than named tensors.
    """
    from safetensors.torch import load_file

    with reading(path, name):
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise AssetError(
                f"{path}, the {name}, is no checkpoint of plain tensors: it is damaged, or holds pickled code, which "
                "is never run; fetch it again from its source"
            ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise AssetError(f"{path}, the {name}, does not hold a plain state dict; fetch the released file")
    return state


def convert(
    module: nn.Module, state: Mapping[str, Tensor], layout: Layout, name: str, files: Sequence[Path]
) -> dict[str, Tensor]:
    """Bring a released state dict into our module's names and shapes.

    Args:
        module: the module, on any device (``meta`` for one without memory).
        state: what the files hold together.
        layout: their naming.
        name: what the module is, for errors.
        files: where the state comes from, for errors.

    Returns:
        What ``module.load_state_dict`` takes.

    Raises:
        AssetError: if a key is missing, has another shape, or is left over; nothing is skipped.
    """
    given = dict(state)
    for pattern, replacement in layout.renamed:
        given = {re.sub(pattern, replacement, key): value for key, value in given.items()}
    converted: dict[str, Tensor] = {}
    missing: list[str] = []
    wrong: list[str] = []
    used: set[str] = set()
    for key, expected in module.state_dict().items():
        sources = layout.sources(key)
        used.update(sources)
        absent = [source for source in sources if source not in given]
        if absent:
            missing += absent
            continue
        parts = [given[source] for source in sources]
        stacked = torch.cat(parts) if len(parts) > 1 else parts[0]
        # 1 x 1 convolutions are linear layers here.
        flat = stacked.flatten(1) if expected.ndim == 2 and stacked.ndim == 4 else stacked
        if flat.shape != expected.shape:
            wrong.append(f"{sources[0]} is {list(parts[0].shape)}, not {_source_shape(parts, expected.shape)}")
            continue
        converted[key] = flat
    unneeded = re.compile(layout.unneeded)
    left_over = [key for key in given if key not in used and not unneeded.fullmatch(key)]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{', …' if len(keys) > _SHOWN else ''}"
        for what, keys in (("missing", missing), ("of another shape", wrong), ("left over", left_over))
        if keys
    ]
    if problems:
        where = " + ".join(str(file) for file in files)
        raise AssetError(
            f"{where} does not hold the {name}; keys {'; '.join(problems)}. Install the released file; zero1toa assets "
            "says which that is"
        )
    return converted


def _source_shape(parts: Sequence[Tensor], expected: torch.Size) -> list[int]:
    """Shape that one of several stacked parts should have had."""
    return [expected[0] // len(parts), *expected[1:]]


def read_merged(files: Sequence[Path], name: str) -> dict[str, Tensor]:
    """The files' state dicts as one; where files repeat a key the later file counts, as in the released loaders."""
    merged: dict[str, Tensor] = {}
    for file in files:
        merged |= read_checkpoint(file, name)
    return merged
