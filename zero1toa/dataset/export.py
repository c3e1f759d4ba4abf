"""Writing the refined clips of one avatar, or of all avatars of a batch, as webdataset shards.

::

    portraits-000000.tar   one sample for each avatar
    clips-000000.tar       one sample for each clip, or for each version of one
    index.json             shards with their checksums, written last
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import ExitStack

from zero1toa.dataset.index import INDEX, Index, read_index, write_index
from zero1toa.dataset.runs import find_runs, is_finished
from zero1toa.dataset.samples import encode_clip, encode_portrait
from zero1toa.dataset.shards import ShardWriter
from zero1toa.errors import DatasetError, OutputError
from zero1toa.storage import Storage
from zero1toa.symgen.folder import RunFolder, read_identity
from zero1toa.symgen.locks import lock_folder
from zero1toa.symgen.store import LOCK

SHARD_BYTES = 256 * 2**20

_CLIPS, _PORTRAITS = "clips", "portraits"
_OWN = re.compile(rf"({_CLIPS}|{_PORTRAITS})-\d{{6}}\.tar")


def export_dataset(
    source: str | Storage,
    output: str | Storage,
    *,
    all_versions: bool = False,
    renders: bool = False,
    unfinished: bool = False,
    shard_bytes: int = SHARD_BYTES,
    say: Callable[[str], None] = lambda line: None,
) -> Index:
    """Export refined clips with their cameras, poses and landmarks. The same call again writes the same bytes.

    An avatar that is not finished is locked while it is read.

    Args:
        source: output folder of ``zero1toa generate``, whether its avatar is finished or not; or that of a batch. Path
            or fsspec URL.
        output: an empty folder, or one with an earlier export of the same avatars, or with what is left of one that was
            stopped; both are replaced. Path or fsspec URL.
        all_versions: every version of a clip that is still there, not only the newest.
        renders: with the render that each clip was refined from, which doubles the size.
        unfinished: of a batch, export avatars too that are not finished.
        shard_bytes: bytes that a shard may have; a single clip may have more.
        say: receives a line about what is being done.

    Returns:
        What was written.

    Raises:
        DatasetError: if there is nothing to export, or what there is does not fit together.
        OutputError: if the output holds anything else, or an unfinished avatar is being worked on.
        StorageError: if the output is full or cannot be written, or one of the folders cannot be reached. There is no
            index then; the same call begins anew.
        UserError: if a head model or a recording is missing that clips are made with.
    """
    from zero1toa.dataset.avatar_clips import AvatarClips
    from zero1toa.head.registry import load_head

    source = source if isinstance(source, Storage) else Storage(source)
    output = output if isinstance(output, Storage) else Storage(output)
    roots = find_runs(source, unfinished=unfinished)
    ids = {root: read_identity(root).avatar for root in roots}
    _check_output(output, set(ids.values()))
    head = functools.cache(load_head)
    counts: dict[str, int] = {}
    clips = ShardWriter(output, _CLIPS, shard_bytes)
    portraits = ShardWriter(output, _PORTRAITS, shard_bytes)
    for number, root in enumerate(roots, 1):
        say(f"{ids[root]} ({number} of {len(roots)})")
        with ExitStack() as held:
            if not is_finished(root):
                held.enter_context(lock_folder(RunFolder(root, ids[root]).dataset, LOCK, patience=0))
            avatar = AvatarClips(root, head)
            if number == 1:
                _clear(output)  # not before the source has shown that it can be read
            portraits.add(encode_portrait(avatar.portrait))
            counts[ids[root]] = 0
            for clip in avatar.clips(all_versions=all_versions, renders=renders):
                clips.add(encode_clip(clip))
                counts[ids[root]] += 1
    index = Index(clips.close(), portraits.close(), counts, all_versions, renders)
    write_index(output, index)
    return index


def _check_output(output: Storage, avatars: set[str]) -> None:
    names = output.files()
    foreign = [name for name in names if name != INDEX and not _OWN.fullmatch(name)] + output.folders()
    if foreign:
        raise OutputError(f"{output} is not empty: it holds {foreign[0]}; give an empty folder to export to")
    if INDEX not in names:
        return
    try:
        lost = sorted(set(read_index(output).avatars) - avatars)
    except DatasetError as error:
        raise OutputError(f"{output} holds an export that cannot be replaced: {error}; give an empty folder") from error
    if lost:
        raise OutputError(
            f"{output} holds the clips of {lost[0]}, which is not among those to export; give an empty folder, or "
            "delete that export"
        )


def _clear(output: Storage) -> None:
    """Delete an earlier export or the remains of one; without its index it is a dataset no longer."""
    output.delete(INDEX)
    for name in output.files():
        output.delete(name)
    if output.local is not None:  # shards that a killed export was writing
        for left in output.local.glob(".*.tar.*.tmp"):
            left.unlink(missing_ok=True)
