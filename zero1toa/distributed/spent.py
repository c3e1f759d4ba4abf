"""The time that an avatar has taken, told by its events: one that fails has no result that would say it."""

from __future__ import annotations

from zero1toa.symgen.progress import ProgressEvent


class Spent:
    """Seconds by phase as the avatar's result would have them, as far as its events tell.

    Every event says the total, earlier jobs included. The refiners' phases come with the answers of this job, the
    trainer's own with the last event only.

    Attributes:
        seconds: ``total``, ``encode``, ``denoise``, ``decode``; of a finished avatar all phases; empty before the first
            event.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._kept: dict[str, float] = {}  # what the last checkpoint has

    def hear(self, event: ProgressEvent) -> None:
        """Take in an event; they come in order."""
        if event.kind == "started":
            # After a death the answers since the checkpoint come once more.
            self.seconds = dict(self._kept)
        elif event.kind == "answered":
            for phase, seconds in event.timings.items():
                self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        elif event.kind == "finished":
            self.seconds = dict(event.timings)
        self.seconds["total"] = event.seconds
        if event.kind == "checkpoint":
            self._kept = dict(self.seconds)
