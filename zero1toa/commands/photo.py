"""Where the photo comes from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zero1toa.errors import PortraitError, nearest
from zero1toa.media import write_png

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


def photo_name(photo: str) -> str:
    """Name of a photo, or of a sample, without its folder and ending."""
    return Path(photo.removeprefix(_PREFIX)).stem


def photo_bytes(path: Path) -> bytes:
    """The photo file's bytes; empty for what cannot be read, whose reader then says why."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
