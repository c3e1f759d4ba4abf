"""What is done with photos before an avatar is begun. Ray runs these functions as tasks, on CPUs with MediaPipe."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence

from zero1toa.batch.photos import photo_name, read_photo_bytes
from zero1toa.batch.records import Entry, Finding
from zero1toa.batch.triage import triage
from zero1toa.config import Config, PortraitConfig, to_dict
from zero1toa.distributed.node import fetch_weights
from zero1toa.errors import OutputError, PortraitError
from zero1toa.storage import Storage
from zero1toa.symgen.folder import portrait_digest, read_identity
from zero1toa.symgen.identity import describe_changes, shaping_values
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


def prepare(entry: Entry, digest: str, config: Config, folder: Storage, again: bool) -> tuple[Portrait, float]:
    """Carve the portrait of a photo and fit the head to it, unless an earlier job has done so with the same values.

    Args:
        entry: which photo.
        digest: SHA-256 of the photo, as triage found it.
        config: the portrait's configuration.
        folder: the avatar's output folder; the portrait is kept in it.
        again: whether an earlier job has failed at it. What it left is deleted if it was made of other values or of
            another photo: these were changed so that it may succeed now.

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
    if config.distributed.weights:  # the head's and the matting's may be among them, and no actor was here before
        fetch_weights(Storage(config.distributed.weights))
    mark = made_of(digest, config)
    portrait = kept_portrait(folder, mark)
    keep = portrait is None
    if portrait is None:
        data = read_photo_bytes(entry)
        if hashlib.sha256(data).hexdigest() != digest:
            raise PortraitError(f"{photo_name(entry)} has changed since the batch began; run the batch again")
        head = load_head(config.head)
        portrait = load_portrait(data, config.portrait, head, config.render.background, photo_name(entry))
    if again and _begun_otherwise(folder, portrait, config):
        folder.delete("")
        keep = True
    if keep:
        keep_portrait(folder, portrait, mark)
    return portrait, time.perf_counter() - start


def made_of(digest: str, config: Config) -> str:
    """Digest of everything that a portrait is made of: the photo, and the values that carving and fitting read.

    Args:
        digest: SHA-256 of the photo.
        config: the portrait's configuration.
    """
    values = to_dict(config)
    parts = [digest, values["portrait"], values["head"], values["render"]["background"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _begun_otherwise(folder: Storage, portrait: Portrait, config: Config) -> bool:
    """Whether a folder holds an avatar in work that was begun with another portrait or other values."""
    try:
        begun = read_identity(folder)
    except OutputError:  # nothing that could be continued
        return folder.exists("checkpoint")
    changes = describe_changes(begun.config, shaping_values(to_dict(config)))
    return bool(changes) or begun.portrait != portrait_digest(portrait)
