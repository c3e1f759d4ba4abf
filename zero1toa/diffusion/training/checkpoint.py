"""Checkpoints of a training run: written whole or not at all, read without executing anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from zero1toa.errors import AssetError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint over the last one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
