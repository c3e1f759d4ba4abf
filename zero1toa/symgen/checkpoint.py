"""One file with the whole state of a reconstruction, written atomically and read without running code from it."""

from __future__ import annotations

import pickle
from io import BytesIO
from typing import Any

import numpy as np
import torch

from zero1toa.errors import StoreError
from zero1toa.storage import Storage
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey

FORMAT = 1


def save(folder: Storage, name: str, state: dict[str, Any]) -> None:
    """Write ``state`` (nested dictionaries and lists of tensors and plain values), replacing an older checkpoint.

    Raises:
        OutputError: if the disk is full or the folder cannot be written; the older checkpoint is then unharmed.
    """
    folder.write(name, lambda file: torch.save({"format": FORMAT, **state}, file))


def load(folder: Storage, name: str) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU, or None if there is none.

    Raises:
        StoreError: if it is damaged or from another version of the format.
        OutputError: if the folder cannot be reached.
    """
    path = folder.locate(name)
    try:
        content = folder.read(name)
    except FileNotFoundError:
        return None
    try:
        state = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise StoreError(f"{path} is damaged ({error}); delete it to begin anew from the dataset") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise StoreError(f"{path} is not a checkpoint of format {FORMAT}; delete it to begin anew from the dataset")
    return state


def pack_request(request: RefineRequest) -> dict[str, Any]:
    """A request as tensors and plain values: one that is unanswered at a checkpoint is asked again after it."""
    return {
        "avatar": request.avatar,
        "stage": request.key.stage,
        "name": request.key.name,
        "base_version": request.base_version,
        "render_step": request.render_step,
        "epoch": request.epoch,
        "frames": torch.from_numpy(np.array(request.frames)),
        "points": torch.from_numpy(np.array(request.landmarks.points)),
        "valid": torch.from_numpy(np.array(request.landmarks.valid)),
        "projected": torch.from_numpy(np.array(request.landmarks.projected)),
        "unlocked": request.unlocked,
        "backbone": request.backbone,
        "seed": request.seed,
    }


def unpack_request(packed: dict[str, Any]) -> RefineRequest:
    """Inverse of :func:`pack_request`."""
    track = LandmarkTrack(packed["points"].numpy(), packed["valid"].numpy(), packed["projected"].numpy())
    return RefineRequest(
        avatar=packed["avatar"],
        key=SampleKey(packed["stage"], packed["name"]),
        base_version=packed["base_version"],
        render_step=packed["render_step"],
        epoch=packed["epoch"],
        frames=packed["frames"].numpy(),
        landmarks=track,
        unlocked=packed["unlocked"],
        backbone=packed["backbone"],
        seed=packed["seed"],
    )
