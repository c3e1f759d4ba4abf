"""``zero1toa batch`` and the Ray job of the same purpose: a manifest of portraits to a folder of avatars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from zero1toa.batch.ledger import Ledger
from zero1toa.batch.manifest import portrait_config, read_manifest
from zero1toa.batch.records import State
from zero1toa.batch.status import PAGE
from zero1toa.config import load
from zero1toa.distributed.batch import BatchResult, run_batch
from zero1toa.storage import Storage
from zero1toa.tracking.batch_console import BatchDisplay

ALL_DONE = 0
SOME_FAILED = 3
"""Exit code of a batch of which some portraits failed or were rejected; 2 is for what concerns the whole batch."""


def make_batch(
    source: str,
    output: str,
    overrides: Sequence[str] = (),
    *,
    file: Path | None = None,
    name: str = "",
    restart: bool = False,
    dashboard: bool = False,
    console: Console | None = None,
) -> int:
    """Make the avatars of all portraits that have none yet; the same call again continues.

    Args:
        source: folder, glob, CSV or JSONL manifest, webdataset shards, or one image; path or fsspec URL.
        output: folder, path or fsspec URL.
        overrides: configuration of the batch as ``key=value``.
        file: configuration file, merged before ``overrides``.
        name: of the batch; the output's name by default.
        restart: forget what earlier jobs made in the output.
        dashboard: start Ray's dashboard with a Ray of this machine.
        console: where to print.

    Returns:
        :data:`ALL_DONE` or :data:`SOME_FAILED`.

    Raises:
        UserError: for anything that concerns the whole batch and that the user can mend.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint of every avatar in work.
    """
    console = console or Console(highlight=False)
    config = load(overrides, file)
    storage = Storage(output)
    entries = [
        (entry, portrait_config(overrides, file, entry) if entry.overrides else config)
        for entry in read_manifest(source)
    ]
    rows = {} if restart else Ledger(storage).rows()
    ended = sum(entry.id in rows for entry, _ in entries)
    plural = "" if len(entries) == 1 else "s"
    before = f", {ended} of them ended in earlier jobs" if ended else ""
    console.print(f"{len(entries)} portrait{plural}{before}", soft_wrap=True)
    with BatchDisplay(console, len(entries), 0 if config.batch.retry_failed else ended) as display:
        result = run_batch(
            entries,
            storage,
            config,
            name=name,
            restart=restart,
            hear=display,
            say=display.say,
            dashboard=dashboard,
        )
    return _summary(result, storage, console)


def _summary(result: BatchResult, storage: Storage, console: Console) -> int:
    counts = result.counts
    told = ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts[state])
    console.print(f"\n{result.job}: {told}", soft_wrap=True)
    console.print(f"  {storage.locate(PAGE)}", soft_wrap=True)
    return SOME_FAILED if counts["failed"] or counts["rejected"] else ALL_DONE
