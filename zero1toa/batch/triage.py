"""What can be said about a photo in seconds, before a GPU is spent on it: readable, a face, its size, its pose, a copy.

Nothing is fitted and nothing cut out. The checks are those of :func:`zero1toa.portrait.pipeline.load_portrait` and say
the same; only the pose is an estimate here, with a margin, so that nothing is refused which would have been accepted.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zero1toa.batch.locations import reason
from zero1toa.batch.photos import photo_name, read_photo_bytes
from zero1toa.batch.records import Entry, Finding
from zero1toa.config import PortraitConfig
from zero1toa.errors import AssetError, PortraitError
from zero1toa.portrait.acceptance import choose_face, turned_too_far
from zero1toa.portrait.landmarks import Landmarks, cut, detect_faces, face_height
from zero1toa.portrait.reading import read_photo, short_name
from zero1toa.portrait.yaw import estimate_yaw

YAW_MARGIN = 8.0
"""Degrees beyond ``portrait.max_yaw`` up to which an estimated yaw is let pass, for the fit to decide. The estimate was
never seen to exceed the fit by more than 5.7."""

_THUMBNAIL = 128  # pixels, longest side
_AROUND = 2.0  # side of a face's thumbnail over the face height: all of the head


def triage(
    entry: Entry, data: bytes | None, config: PortraitConfig, background: Sequence[float] = (1.0, 1.0, 1.0)
) -> Finding:
    """Look at one photo.

    Args:
        entry: the portrait.
        data: the photo's bytes; None reads them.
        config: which face, and the limits.
        background: sRGB colour in [0, 1] behind a photo that has transparency.

    Returns:
        What was found, as far as it came; ``problem`` says why no avatar can be made of it, for any photo whatsoever.

    Raises:
        AssetError: faces cannot be looked for, because MediaPipe or its model is missing on this machine. It is not
            the photo's fault, and no other photo would fare better.
    """
    begun = time.perf_counter()
    found: dict[str, Any] = {}
    try:
        _look(entry, data, config, background, found)
    except AssetError:
        raise
    except PortraitError as error:
        found["problem"] = " ".join(str(error).split())
    except Exception as error:  # whatever a photo can do to a decoder, the batch goes on
        found["problem"] = f"{photo_name(entry)} cannot be looked at ({type(error).__name__}: {reason(error)})"
    return Finding(entry.id, seconds=time.perf_counter() - begun, **found)


def _look(
    entry: Entry, data: bytes | None, config: PortraitConfig, background: Sequence[float], found: dict[str, Any]
) -> None:
    """Fill in the fields of a finding, until something speaks against the photo."""
    if data is None:
        data = read_photo_bytes(entry)
    found["digest"] = hashlib.sha256(data).hexdigest()
    photo = read_photo(data, background, photo_name(entry))
    found["width"], found["height"] = photo.size
    found["thumbnail"] = _thumbnail(photo.image)
    faces = detect_faces(photo.image)
    found["faces"] = len(faces)
    wanted = max(config.face, 0)
    if wanted < len(faces):
        face = faces[wanted]
        found["face_height"] = face_height(face) / photo.scale
        found["yaw"] = estimate_yaw(face)
        found["thumbnail"] = _thumbnail(_head(photo.image, face))
    name = short_name(photo_name(entry))
    choose_face(name, faces, photo.scale, config)
    if abs(found["yaw"]) > config.max_yaw + YAW_MARGIN:
        raise turned_too_far(name, found["yaw"], config)


def _head(image: NDArray[np.uint8], face: Landmarks) -> NDArray[np.uint8]:
    x, y = (face[:, :2].min(0) + face[:, :2].max(0)) / 2
    half = _AROUND * max(face_height(face), float(np.ptp(face[:, 0]))) / 2
    return cut(image, (x - half, y - half, x + half, y + half), _THUMBNAIL)


def _thumbnail(image: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), reducing_gap=3.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()
