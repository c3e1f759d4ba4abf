"""Webdataset shards: which portraits a tar holds, and the bytes of one of them without reading the others."""

from __future__ import annotations

import dataclasses
import functools
import re
import tarfile
from typing import Any

from zero1toa.batch.locations import connect, reason
from zero1toa.errors import ManifestError

_META = re.compile(r"__[^/]*__($|/)")  # webdataset's notes about the shard itself
_BLOCK = 512  # bytes of a tar header


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in a shard.

    Attributes:
        name: its name there.
        key: what webdataset calls the sample: the name up to the first dot behind the last slash.
        start: offset of its bytes in the shard.
        size: number of bytes.
    """

    name: str
    key: str
    start: int
    size: int


@functools.lru_cache(maxsize=64)
def index(shard: str) -> dict[str, Member]:
    """The files of a shard by name, in its order; kept, because every portrait of the shard asks for it.

    Only headers are looked at. On this machine the bytes between them are skipped.

    Args:
        shard: path or fsspec URL of an uncompressed tar.

    Raises:
        FileNotFoundError: if there is no such shard.
        ManifestError: if it cannot be reached, is no tar, or is cut off or damaged: portraits would be lost unseen.
    """
    from webdataset.tariterators import base_plus_ext

    files, path = connect(shard)
    members: dict[str, Member] = {}
    try:
        with files.open(path, "rb") as stream:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for entry in archive:
                    key, _ = base_plus_ext(entry.name)
                    if entry.isreg() and key is not None and not _META.match(entry.name):
                        if entry.name in members:
                            raise tarfile.ReadError(f"{entry.name} is in it twice")
                        members[entry.name] = Member(entry.name, key, entry.offset_data, entry.size)
                end = archive.offset
            _check_end(stream, end)
    except FileNotFoundError:
        raise
    except tarfile.TarError as error:
        raise ManifestError(
            f"{shard} is no webdataset shard, or is damaged ({reason(error)}); write it again, uncompressed"
        ) from error
    except Exception as error:  # every protocol has errors of its own
        raise ManifestError(f"cannot read the shard {shard}: {reason(error)}") from error
    return members


def read_member(shard: str, name: str, most: int) -> bytes:
    """The bytes of one file of a shard; nothing else of it is read, once its index is known.

    Args:
        shard: path or fsspec URL of the shard.
        name: the file's name in it.
        most: bytes it may have.

    Raises:
        OverflowError: if it has more.
        FileNotFoundError: if there is no such shard, or no such file in it.
        ManifestError: as :func:`index`.
        Exception: whatever the protocol raises when reading fails.
    """
    members = index(shard)
    if name not in members:
        raise FileNotFoundError(name)
    if members[name].size > most:
        raise OverflowError(f"it has {members[name].size} bytes")
    files, path = connect(shard)
    data: bytes = files.cat_file(path, start=members[name].start, end=members[name].start + members[name].size)
    return data


def _check_end(stream: Any, end: int) -> None:
    """Python's tarfile takes a damaged header for the end; behind the last file a tar has zeros."""
    stream.seek(end)
    block = stream.read(_BLOCK)
    if block.strip(b"\0") or 0 < len(block) < _BLOCK:
        raise tarfile.ReadError(f"unreadable at byte {end}")
