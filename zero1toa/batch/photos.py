"""The bytes of a portrait's photo, wherever it lies."""

from __future__ import annotations

from zero1toa.batch.locations import connect, plain_path, reason, split
from zero1toa.batch.records import Entry
from zero1toa.batch.shards import read_member
from zero1toa.errors import PortraitError

MAX_BYTES = 1 << 30
"""Largest file that is read: what is larger is no photo, and would fill the memory of who looks at it."""


def photo_name(entry: Entry) -> str:
    """What messages and pages call the photo: its address, without the signature that some web addresses carry.

    Where it is inside another file, a shard or an archive, it is named like a file in a folder.
    """
    head, _, tail = split(entry.photo)
    path = plain_path(entry.photo)
    outside = f"{tail.removeprefix('::')}/{path.lstrip('/')}" if tail else f"{head}{path}"
    return f"{outside}/{entry.member}" if entry.member else outside


def read_photo_bytes(entry: Entry) -> bytes:
    """Read the file of a photo; of a shard, only the bytes of the one member.

    Raises:
        PortraitError: there is no such file, it is too large to be a photo, or it cannot be read; one line.
    """
    name = photo_name(entry)
    try:
        if entry.member:
            return read_member(entry.photo, entry.member, MAX_BYTES)
        files, path = connect(entry.photo)
        facts = files.info(path)
        if facts["type"] != "file":
            raise PortraitError(f"{name} is a {facts['type']}; give one image file")
        if (facts["size"] or 0) > MAX_BYTES:
            raise OverflowError(f"it has {facts['size']} bytes")
        data: bytes = files.cat_file(path)
    except PortraitError:
        raise
    except FileNotFoundError as error:
        raise PortraitError(f"there is no file {name}") from error
    except Exception as error:  # every protocol has errors of its own
        raise PortraitError(f"{name} cannot be read: {reason(error)}") from error
    return data
