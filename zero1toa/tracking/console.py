"""What a person sees while an avatar trains: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from zero1toa.symgen.progress import ProgressEvent
from zero1toa.types import Stage

STAGE_NAMES: dict[Stage, str] = {
    "portrait": "portrait",
    "spatial": "turning the head",
    "temporal_synthetic": "talking",
    "temporal_real": "wide expressions",
}
_LINE_EVERY = 15.0  # seconds between plain lines
_SMOOTHING = 0.95  # weight of the past in the shown loss, whose single values jump from clip to clip


def duration(seconds: float | None) -> str:
    """``1:05`` for 65 seconds, ``2:03:05`` for longer ones, ``–:––`` for None."""
    if seconds is None:
        return "–:––"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ConsoleDisplay:
    """Shows the events of one generation; a :class:`zero1toa.symgen.progress.Progress` and a context manager.

    Stage, iteration, loss, refined clips and time left share one line that is drawn anew; notices scroll above it. When
    the output is no terminal, a plain line comes every few seconds and at each change of stage.
    """

    def __init__(self, console: Console | None = None, preview: Path | None = None):
        """Describe the display; it begins when the context is entered.

        Args:
            console: where to draw; stderr-free standard output by default.
            preview: picture that refreshes while training, named in the display.
        """
        self.console = console or Console()
        self._preview = preview
        self._loss: float | None = None
        self._stage: Stage | None = None
        self._last_line = 0.0
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[refined]} refined"),
            TextColumn("[cyan]{task.fields[left]}[/] left"),
            console=self.console,
            expand=True,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("starting", total=None, loss="–", refined=0, left="–:––")

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing, leaving the last state on the screen."""
        if self.console.is_terminal:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print one line above the display."""
        self.console.print(Text(line), soft_wrap=True)

    def __call__(self, event: ProgressEvent) -> None:
        """Show one event."""
        if event.kind == "notice":
            self.say(f"note: {event.message}")
        elif event.kind == "started" and event.iteration > 0:
            self.say(f"continuing at iteration {event.iteration} of {event.iterations}")
        if (total := event.losses.get("total")) is not None:
            self._loss = total if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * total
        loss = "–" if self._loss is None else f"{self._loss:.3f}"
        if self.console.is_terminal:
            done = event.kind == "finished"
            self._bar.update(
                self._task,
                description="done" if done else STAGE_NAMES[event.stage],
                completed=event.iteration,
                total=event.iterations,
                loss=loss,
                refined=event.refined,
                left=duration(0.0 if done else event.eta),
            )
        else:
            self._plain(event, loss)
        if event.kind == "finished":
            self.say(
                f"trained {event.gaussians} Gaussians in {duration(event.seconds)}: {event.iterations} iterations, "
                f"{event.refined} clips refined"
            )

    def _plain(self, event: ProgressEvent, loss: str) -> None:
        now = time.monotonic()
        if event.kind != "iteration" or (event.stage == self._stage and now - self._last_line < _LINE_EVERY):
            return
        self._stage, self._last_line = event.stage, now
        self.say(
            f"{STAGE_NAMES[event.stage]}: {event.iteration}/{event.iterations}, loss {loss}, "
            f"{event.refined} refined, {duration(event.eta)} left"
        )
