"""What a batch shows in a terminal: one line that moves, and a line for every portrait that ends badly."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from zero1toa.batch.records import Row
from zero1toa.symgen.progress import ProgressEvent


class BatchDisplay:
    """Progress of a batch, as a context manager. Where the output is no terminal, plain lines take its place.

    Args:
        console: where to print.
        total: number of portraits.
        ended: those that ended in earlier jobs.
    """

    def __init__(self, console: Console, total: int, ended: int) -> None:
        self._console = console
        self._total = total
        self._ended = ended
        self._bad = 0
        self._clips = 0
        self._iterations: dict[str, tuple[int, int]] = {}
        self._progress = Progress(
            TextColumn("portraits"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("batch", total=total, completed=ended, text="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state standing."""
        self._progress.stop()

    def __call__(self, key: str, event: ProgressEvent | Row) -> None:
        """Show an event of a portrait, or how it ended."""
        if isinstance(event, Row):
            self._end(event)
        elif event.kind in ("started", "iteration"):
            self._iterations[key] = (event.iteration, event.iterations)
        elif event.kind == "answered":
            self._clips += 1
        elif event.kind == "notice" and "died" in event.message:
            self.say(f"{key}: {event.message}")
        self._progress.update(self._task, completed=self._ended, text=self._text())

    def say(self, line: str) -> None:
        """Show one line."""
        self._console.print(line, soft_wrap=True, markup=False)

    def _end(self, row: Row) -> None:
        self._ended += 1
        self._iterations.pop(row.id, None)
        if row.state == "done":
            psnr = row.metrics.get("psnr")
            likeness = f", likeness {psnr:.1f} dB" if psnr is not None else ""
            what = f"done in {row.seconds.get('total', 0.0):.0f} s{likeness}"
        else:
            self._bad += row.state in ("failed", "rejected")
            what = f"{row.state}: {row.reason}"
        if row.state != "done" or not self._console.is_terminal:
            self.say(f"[{self._ended}/{self._total}] {row.id}: {what}")

    def _text(self) -> str:
        done = sum(iteration / max(of, 1) for iteration, of in self._iterations.values())
        bad = f", {self._bad} failed" if self._bad else ""
        return f"{len(self._iterations)} in work ({done:.1f} avatars' worth), {self._clips} clips refined{bad}"
