"""What is done with photos before an avatar is begun. Ray runs these functions as tasks, on CPUs with MediaPipe."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from zero1toa.batch.photos import photo_name, read_photo_bytes
from zero1toa.batch.records import Entry, Finding
from zero1toa.batch.triage import triage
from zero1toa.config import Config, PortraitConfig
from zero1toa.errors import PortraitError
from zero1toa.storage import Storage
from zero1toa.types import Portrait


def inspect(entries: Sequence[tuple[Entry, PortraitConfig]], background: Sequence[float]) -> list[Finding]:
    """Look at photos, so that what cannot become a portrait is known before any work is spent on it.

    Args:
        entries: portraits with their configuration.
        background: sRGB colour in [0, 1] behind a photo that has transparency.

    Returns:
        What was found, in the same order; what is wrong with a photo is in its finding.

    Raises:
        AssetError: if faces cannot be looked for on this machine.
    """
    return [triage(entry, None, config, background) for entry, config in entries]


def prepare(entry: Entry, digest: str, config: Config, folder: Storage) -> tuple[Portrait, float]:
    """Carve the portrait of a photo and fit the head to it, unless an earlier job has done so.

    Args:
        entry: which photo.
        digest: SHA-256 of the photo, as triage found it.
        config: the portrait's configuration.
        folder: the avatar's output folder; the portrait is kept in it.

    Returns:
        The portrait, and the seconds that it took.

    Raises:
        PortraitError: if the photo cannot become a portrait, or has changed since triage.
        UserError: for what concerns every portrait, such as a head model that is not installed.
        StorageError: if the folder cannot be reached.
    """
    from zero1toa.head.registry import load_head
    from zero1toa.portrait.keeping import keep_portrait, kept_portrait
    from zero1toa.portrait.pipeline import load_portrait

    start = time.perf_counter()
    portrait = kept_portrait(folder, digest)
    if portrait is None:
        data = read_photo_bytes(entry)
        if hashlib.sha256(data).hexdigest() != digest:
            raise PortraitError(f"{photo_name(entry)} has changed since the batch began; run the batch again")
        head = load_head(config.head)
        portrait = load_portrait(data, config.portrait, head, config.render.background, photo_name(entry))
        keep_portrait(folder, portrait, digest)
    return portrait, time.perf_counter() - start
