"""Keeping an avatar's log and W&B run where it is trained, so that its figures have one writer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zero1toa.config import Config, to_dict
from zero1toa.distributed.failures import first_line
from zero1toa.symgen import checkpoint
from zero1toa.symgen.alternation import Emit
from zero1toa.symgen.folder import STATE, RunFolder
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.tracking.tracker import Tracker
from zero1toa.tracking.wandb_folder import wait_until_written

Draw = Callable[[Path], None]
"""Makes a picture or video and writes it to a path."""


class Tracked:
    """Passes an avatar's events on, and keeps them and its results where a tracker is given.

    Attributes:
        run_id: id of the W&B run, or the empty string.

    Args:
        emit: hears every event.
        tracker: keeps them.
        scratch: folder for pictures on their way to W&B.
    """

    def __init__(self, emit: Emit, tracker: Tracker | None = None, scratch: Path = Path()) -> None:
        self._emit = emit
        self._tracker = tracker
        self._scratch = scratch
        self.run_id = tracker.run_id if tracker is not None else ""

    def __call__(self, event: ProgressEvent) -> None:
        """Keep one event, and pass it on."""
        if self._tracker is not None:
            self._tracker(event)
        self._emit(event)

    def results(self, figures: Mapping[str, float], sheet: Draw, video: Draw) -> None:
        """Keep the final figures, contact sheet and video.

        The pictures are made for W&B alone: only where there is a run, and what goes wrong with one is a notice in the
        log, since it is no reason to lose an avatar.

        Args:
            figures: by name.
            sheet: draws the contact sheet, PNG.
            video: draws the video, MP4.
        """
        tracker = self._tracker
        if tracker is None:
            return
        if tracker.wandb.mode == "disabled":
            tracker.results(figures)
            return
        tracker.results(
            figures,
            _drawn(sheet, self._scratch / "contact_sheet.png", tracker),
            _drawn(video, self._scratch / "preview.mp4", tracker),
        )


@contextmanager
def tracked(wanted: bool, folder: RunFolder, config: Config, emit: Emit) -> Iterator[Tracked]:
    """Give what keeps every event and the results in the avatar's log and W&B run, which end with the context.

    Where the output is not in a file system, both are written on this machine and copied when the run ends; what a
    process wrote that was killed is then lost, and only that.

    Args:
        wanted: whether anything is kept at all; else events are only passed on.
        folder: the avatar's output folder.
        config: its configuration.
        emit: hears every event.
    """
    if not wanted:
        yield Tracked(emit)
        return
    state = checkpoint.load(folder.checkpoint, STATE) or {}
    with tempfile.TemporaryDirectory(prefix="zero1toa-") as temporary:
        local = folder.root.local or Path(temporary) / "log"
        try:
            with Tracker(
                local, config.tracking, folder.root.name, to_dict(config), run_id=state.get("run_id", "")
            ) as tracker:
                yield Tracked(emit, tracker, Path(temporary))  # W&B copies a file when it is given it
        finally:
            if folder.root.local is None:
                wait_until_written(local)
                folder.root.upload(local, "log", last="log.jsonl")


def _drawn(draw: Draw, path: Path, tracker: Tracker) -> Path | None:
    try:
        draw(path)
    except Exception as error:  # of the renderer, the encoder or the disk
        tracker.notice(f"W&B gets no {path.name}: {first_line(error)}")
        return None
    return path
