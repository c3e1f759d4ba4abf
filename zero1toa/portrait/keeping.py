"""Keeping a portrait as one file, so that a continued run need not find and fit the face again."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch

from zero1toa.head.protocol import PARAMETERS, HeadParams
from zero1toa.storage import Storage
from zero1toa.types import Portrait

FILE = "portrait/portrait.npz"


def keep_portrait(folder: Storage, portrait: Portrait, digest: str = "") -> None:
    """Write a portrait to ``portrait/portrait.npz``.

    Args:
        folder: the avatar's output folder.
        portrait: what to keep.
        digest: of what it was made of.

    Raises:
        StorageError: if it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {
        f"params.{name}": value.detach().cpu().numpy()
        for name in PARAMETERS
        if (value := getattr(portrait.params, name)) is not None
    }
    for name in ("image", "landmarks", "viewmat", "K", "arkit", "residual", "yaw"):
        arrays[name] = np.asarray(getattr(portrait, name))
    arrays["params.model"] = np.asarray(portrait.params.model or "", dtype=np.str_)
    arrays["notes"] = np.asarray(portrait.notes, dtype=np.str_)
    arrays["digest"] = np.asarray(digest, dtype=np.str_)
    folder.write(FILE, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def kept_portrait(folder: Storage, digest: str | None = None) -> Portrait | None:
    """Read what :func:`keep_portrait` wrote; None where there is none or it cannot be read.

    Args:
        folder: the avatar's output folder.
        digest: of what it has to be made of; None takes any.

    Raises:
        StorageError: if the folder cannot be reached.
    """
    try:
        with np.load(BytesIO(folder.read(FILE)), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if digest is not None and str(arrays["digest"]) != digest:
            return None
        params: dict[str, Any] = {
            name: torch.from_numpy(arrays[f"params.{name}"]) if f"params.{name}" in arrays else None
            for name in PARAMETERS
        }
        return Portrait(
            image=arrays["image"],
            landmarks=arrays["landmarks"],
            viewmat=arrays["viewmat"],
            K=arrays["K"],
            params=HeadParams(**params, model=str(arrays["params.model"]) or None),
            arkit=arrays["arkit"],
            residual=float(arrays["residual"]),
            yaw=float(arrays["yaw"]),
            notes=tuple(str(note) for note in arrays["notes"]),
        )
    except (OSError, ValueError, KeyError, EOFError):
        return None
