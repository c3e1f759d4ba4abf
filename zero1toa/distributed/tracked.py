"""Keeping an avatar's log and W&B run where it is trained, so that its figures have one writer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zero1toa.config import Config, to_dict
from zero1toa.symgen.alternation import Emit
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.tracking.tracker import Tracker


@contextmanager
def tracked(wanted: bool, folder: RunFolder, config: Config, emit: Emit) -> Iterator[Emit]:
    """Give a callback that keeps every event in the avatar's log and W&B run before it passes it on.

    Where the output is not in a file system, both are written on this machine and copied when the run ends; what a
    process wrote that was killed is then lost, and only that.

    Args:
        wanted: whether anything is kept at all.
        folder: the avatar's output folder.
        config: its configuration.
        emit: hears every event.
    """
    if not wanted:
        yield emit
        return
    with tempfile.TemporaryDirectory(prefix="zero1toa-") as temporary:
        local = folder.root.local or Path(temporary)
        try:
            with Tracker(local, config.tracking, folder.root.name, to_dict(config)) as tracker:

                def both(event: ProgressEvent) -> None:
                    tracker(event)
                    emit(event)

                yield both
        finally:
            if folder.root.local is None:
                folder.root.upload(local, "log", last="log.jsonl")
