"""``zero1toa export-dataset`` and ``zero1toa verify-dataset``: refined clips as webdataset shards."""

from __future__ import annotations

from rich.console import Console

from zero1toa.dataset.export import export_dataset
from zero1toa.dataset.index import Index
from zero1toa.dataset.reader import verify

_MB = 2**20


def export(
    source: str,
    output: str,
    *,
    all_versions: bool = False,
    renders: bool = False,
    unfinished: bool = False,
    shard_mb: int = 256,
    console: Console | None = None,
) -> None:
    """Export refined clips, and say what was written.

    Args:
        source: output folder of ``generate`` or ``batch``, path or fsspec URL.
        output: folder to export to, path or fsspec URL.
        all_versions: every version of a clip that is still there.
        renders: with the render that each clip was refined from.
        unfinished: of a batch, avatars too that are not finished.
        shard_mb: largest size of a shard in megabytes.
        console: where to print.

    Raises:
        UserError: for anything the user can mend.
    """
    console = console or Console(highlight=False)
    with console.status("looking for avatars") as status:
        index = export_dataset(
            source,
            output,
            all_versions=all_versions,
            renders=renders,
            unfinished=unfinished,
            shard_bytes=shard_mb * _MB,
            say=status.update,
        )
    console.print(f"{output}: {_described(index)}", soft_wrap=True)


def check(dataset: str, console: Console | None = None) -> None:
    """Compare the shards of an exported dataset with their checksums, and say that they are sound.

    Args:
        dataset: the folder that was exported to, path or fsspec URL.
        console: where to print.

    Raises:
        UserError: if a shard is missing or damaged; the message names it.
    """
    console = console or Console(highlight=False)
    with console.status("reading the index") as status:
        index = verify(dataset, status.update)
    console.print(f"{dataset} is sound: {_described(index)}", soft_wrap=True)


def _described(index: Index) -> str:
    clips = sum(index.avatars.values())
    return f"{clips} clips of {len(index.avatars)} avatars in {len(index.shards)} shards, {index.bytes / _MB:.1f} MB"
