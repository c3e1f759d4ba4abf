"""``index.json`` of an exported dataset: its shards with their checksums. It is written last, and makes the dataset."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from zero1toa.errors import DatasetError
from zero1toa.storage import Storage

FORMAT = 1

INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A tar file of samples.

    Attributes:
        name: file name in the dataset's folder.
        samples: number of samples.
        bytes: size of the file.
        sha256: SHA-256 of the file, hexadecimal.
    """

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
    """What an exported dataset consists of.

    Attributes:
        clips: shards of clips.
        portraits: shards of portraits, one sample for each avatar.
        avatars: number of clips by avatar id.
        all_versions: whether older versions of clips are in it.
        renders: whether clips have the render that they were refined from.
    """

    clips: tuple[Shard, ...]
    portraits: tuple[Shard, ...]
    avatars: Mapping[str, int]
    all_versions: bool
    renders: bool

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards."""
        return (*self.clips, *self.portraits)

    @property
    def bytes(self) -> int:
        """Size of all shards together."""
        return sum(shard.bytes for shard in self.shards)


def write_index(folder: Storage, index: Index) -> None:
    """Write the index, which makes the shards in the folder a dataset.

    Raises:
        StorageError: if it cannot be written.
    """
    counts = {"clips": sum(shard.samples for shard in index.clips), "avatars": len(index.avatars)}
    about = {"format": FORMAT, "counts": {**counts, "bytes": index.bytes}, **dataclasses.asdict(index)}
    folder.write(INDEX, json.dumps(about, indent=1) + "\n")


def read_index(folder: Storage) -> Index:
    """Read the index.

    Raises:
        DatasetError: if there is none, or it is damaged or of a newer version.
        StorageError: if the folder cannot be reached.
    """
    where = folder.locate(INDEX)
    try:
        about = json.loads(folder.read(INDEX))
        version = about["format"]
        if version == FORMAT:
            return Index(
                clips=_shards(about["clips"]),
                portraits=_shards(about["portraits"]),
                avatars={str(avatar): int(count) for avatar, count in about["avatars"].items()},
                all_versions=bool(about["all_versions"]),
                renders=bool(about["renders"]),
            )
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder} is no exported dataset, or its export was stopped: it has no {INDEX}; give the folder that "
            "`zero1toa export-dataset` has written"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{where} is damaged ({error}); export the dataset again") from error
    raise DatasetError(
        f"{where} is in format {version} and this version of zero1toa knows format {FORMAT}; update zero1toa to read it"
    )


def _shards(rows: list[dict[str, Any]]) -> tuple[Shard, ...]:
    return tuple(Shard(**row) for row in rows)
