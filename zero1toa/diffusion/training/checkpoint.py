"""Checkpoints of a training run: written whole or not at all, read without executing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zero1toa.errors import AssetError
from zero1toa.storage import Storage


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint over the last one.

    Raises:
        StorageError: if the disk is full or the folder cannot be written; the last checkpoint is then unharmed.
    """
    Storage(path.parent).write(path.name, lambda file: torch.save(state, file))


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint; random generator states stay on the CPU, where they are set from.

    Raises:
        AssetError: if the file cannot be read.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise AssetError(f"cannot resume from {path}: {str(error).splitlines()[0]}") from error
    state["generator"] = state["generator"].cpu()
    return state
