"""Where the photo comes from, and keeping the portrait that was made of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zero1toa.errors import PortraitError, nearest
from zero1toa.head.protocol import PARAMETERS, HeadParams
from zero1toa.media import atomic_path, write_png
from zero1toa.types import Portrait

SAMPLES = ("astronaut",)
_PREFIX = "sample:"


@contextmanager
def open_photo(photo: str) -> Iterator[Path]:
    """Give the file of a photo, or a temporary one for ``sample:astronaut``.

    The sample is NASA's portrait of Eileen Collins, in the public domain, which scikit-image carries.

    Args:
        photo: path, or ``sample:NAME``.

    Raises:
        PortraitError: for an unknown sample.
    """
    if not photo.startswith(_PREFIX):
        yield Path(photo)
        return
    name = photo.removeprefix(_PREFIX)
    if name not in SAMPLES:
        raise PortraitError(f"there is no sample '{name}'{nearest(name, SAMPLES)}; samples: {', '.join(SAMPLES)}")
    from skimage import data

    with tempfile.TemporaryDirectory(prefix="zero1toa-") as folder:
        path = Path(folder) / f"{name}.png"
        write_png(path, getattr(data, name)())
        yield path


def photo_bytes(path: Path) -> bytes:
    """The photo file's bytes; empty for what cannot be read, whose reader then says why."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def save_portrait(path: Path, portrait: Portrait) -> None:
    """Keep a portrait as one npz file, so that a continued run need not find and fit the face again.

    Args:
        path: file name.
        portrait: what to keep.
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
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_kept_portrait(path: Path) -> Portrait | None:
    """Read what :func:`save_portrait` wrote; None where there is none or it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
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
