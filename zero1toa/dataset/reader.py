"""Reading an exported dataset back: streamed from any fsspec URL, shard by shard, and checked against its index."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from zero1toa.dataset.index import Index, Shard, read_index
from zero1toa.dataset.samples import (
    ExportedClip,
    ExportedPortrait,
    Sample,
    decode_clip,
    decode_portrait,
)
from zero1toa.errors import DatasetError
from zero1toa.storage import Storage

_PIECE = 2**20


def read_clips(source: str | Storage, *, shuffle: int = 0, seed: int = 0) -> Iterable[ExportedClip]:
    """Stream the clips of an exported dataset.

    What is returned is a torch ``IterableDataset`` and can be iterated over again. In the workers of a ``DataLoader``,
    and in the processes of torch's distributed training, each takes shards of its own, so that together they see
    every clip once; whoever finds more readers than shards gets none. Give the loader ``batch_size=None`` or a
    ``collate_fn``, since clips are no tensors::

        for clip in DataLoader(read_clips("s3://bucket/clips"), batch_size=None, num_workers=4):
            train(clip.frames, clip.spec.viewmats)

    Args:
        source: the folder that was exported to, path or fsspec URL.
        shuffle: clips to hold in memory (as PNG) and draw from; shards are then shuffled too. 0 keeps the order of the
            dataset: avatar by avatar, each in the order of its commits.
        seed: one seed, one order. Give another one for each epoch.

    Raises:
        DatasetError: if there is no dataset, or it is of a newer version; while reading, if a shard or a sample is
            missing or damaged.
        StorageError: if the folder cannot be reached.
    """
    folder = source if isinstance(source, Storage) else Storage(source)
    return _stream(folder, read_index(folder).clips, decode_clip, shuffle, seed)


def read_portraits(source: str | Storage) -> Iterable[ExportedPortrait]:
    """Stream the portraits of an exported dataset, one for each avatar; arguments and errors as :func:`read_clips`."""
    folder = source if isinstance(source, Storage) else Storage(source)
    return _stream(folder, read_index(folder).portraits, decode_portrait, 0, 0)


def verify(source: str | Storage, say: Callable[[str], None] = lambda line: None) -> Index:
    """Compare every shard of an exported dataset with its size and checksum.

    Args:
        source: the folder that was exported to, path or fsspec URL.
        say: receives the name of each shard before it is read.

    Raises:
        DatasetError: if there is no dataset, or it is of a newer version, or shards are missing or damaged; the message
            names up to three of them.
        StorageError: if the folder cannot be reached.
    """
    folder = source if isinstance(source, Storage) else Storage(source)
    index = read_index(folder)
    wrong = []
    for shard in index.shards:
        say(shard.name)
        if problem := _problem(folder, shard):
            wrong.append(f"{shard.name} {problem}")
    if wrong:
        named = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise DatasetError(f"{folder} is damaged: {named}; export it again, or copy it again")
    return index


def _problem(folder: Storage, shard: Shard) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        with folder.open(shard.name) as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError:
        return "is missing"
    if size != shard.bytes:
        return f"has {size} bytes instead of {shard.bytes}"
    return "" if digest.hexdigest() == shard.sha256 else "has another checksum"


def _stream(
    folder: Storage, shards: Sequence[Shard], decode: Callable[[Sample], Any], shuffle: int, seed: int
) -> Iterable[Any]:
    import webdataset

    order = list(shards)
    if shuffle:
        random.Random(seed).shuffle(order)
    return webdataset.DataPipeline(
        functools.partial(iter, order),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        functools.partial(_samples, folder=folder),
        # Before decoding: as PNG, several times as many clips fit into memory.
        webdataset.shuffle(shuffle, initial=shuffle, seed=seed) if shuffle else None,
        webdataset.map(decode),
    )


def _samples(shards: Iterable[Shard], folder: Storage) -> Iterator[Sample]:
    """The samples of shards, one shard after the other."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for shard in shards:
        where = folder.locate(shard.name)
        count = 0
        try:
            with folder.open(shard.name) as stream:
                for sample in group_by_keys(tar_file_expander(iter([{"url": where, "stream": stream}]))):
                    count += 1
                    yield sample
        except FileNotFoundError as error:
            raise DatasetError(f"the shard {where} is missing; copy it again, or export the dataset again") from error
        except Exception as error:  # of tar, and every protocol has errors of its own
            reason = str(error.args[0]) if error.args else type(error).__name__
            raise DatasetError(
                f"the shard {where} cannot be read ({reason}); `zero1toa verify-dataset` says which shards are damaged"
            ) from error
        # A tar that ends between two files looks complete to whoever does not know how many there were.
        if count != shard.samples:
            raise DatasetError(f"the shard {where} has {count} samples instead of {shard.samples}; copy it again")
