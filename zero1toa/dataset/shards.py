"""Tar shards of bounded size, which appear complete or not at all, and have equal bytes for equal samples."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import Final

from zero1toa.dataset.index import Shard
from zero1toa.dataset.samples import KEY, Sample
from zero1toa.storage import Storage


class ShardWriter:
    """Packs samples into ``<stem>-000000.tar``, ``<stem>-000001.tar``, …, in the order in which they come.

    A shard is put together in memory and written as a whole, since its checksum and its place in a bucket are only
    known then.

    Args:
        storage: the folder.
        stem: beginning of the shards' names.
        limit: bytes that a shard may have; one that holds a single sample may have more.
    """

    def __init__(self, storage: Storage, stem: str, limit: int) -> None:
        self._storage = storage
        self._stem = stem
        self._limit = limit
        self._written: list[Shard] = []
        self._begin()

    def add(self, sample: Sample) -> None:
        """Put a sample behind the last one.

        Raises:
            StorageError: if a shard that is full cannot be written.
        """
        files = [(_member(f"{sample[KEY]}.{name}", data), data) for name, data in sample.items() if name != KEY]
        needed = sum(len(info.tobuf(_FORMAT)) + _whole(info.size, tarfile.BLOCKSIZE) for info, _ in files)
        ended = _whole(self._tar.offset + needed + 2 * tarfile.BLOCKSIZE, tarfile.RECORDSIZE)
        if self._samples and ended > self._limit:
            self._flush()
            self._begin()
        for info, data in files:
            self._tar.addfile(info, io.BytesIO(data))
        self._samples += 1

    def close(self) -> tuple[Shard, ...]:
        """Write the last shard, and tell of all of them.

        Raises:
            StorageError: if it cannot be written.
        """
        if self._samples:
            self._flush()
        return tuple(self._written)

    def _begin(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=_FORMAT)
        self._samples = 0

    def _flush(self) -> None:
        self._tar.close()
        data = self._buffer.getvalue()
        name = f"{self._stem}-{len(self._written):06d}.tar"
        self._storage.write(name, data)
        self._written.append(Shard(name, self._samples, len(data), hashlib.sha256(data).hexdigest()))


_FORMAT: Final = tarfile.PAX_FORMAT  # ids may be long, and need not be ASCII


def _member(name: str, data: bytes) -> tarfile.TarInfo:
    """A file of nobody's from the beginning of time: neither who exports nor when is to show in the bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info


def _whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit
