"""A batch as one W&B run beside those of its avatars: how it goes while it goes, and its ledger at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zero1toa.batch.records import Row, Sample
from zero1toa.batch.throughput import Throughput
from zero1toa.config import TrackingConfig
from zero1toa.tracking.wandb_run import SYSTEM, WandbRun

_STEPS = 10_000_000  # for each job: a step is a second
_STATES = ("waiting", "preparing", "training", "finishing", "done", "failed")


class SystemRun:
    """The run ``<job>-system`` in the job's group; a context manager. Nothing that goes wrong in it reaches the batch.

    In a group of the user's own, which other batches may share, it is ``<group>-<label, else job>-system``.

    A job that is submitted again continues the curves of the earlier ones. W&B wants steps that only grow, so each job
    has a range of steps of its own; draw the curves over time, where the gaps between the ranges do not show.

    Attributes:
        run_id: id of the run.
    """

    def __init__(
        self,
        folder: Path,
        config: TrackingConfig,
        job: str,
        run_config: Mapping[str, Any],
        report: Callable[[str], None] = lambda line: None,
        *,
        attempt: int = 1,
    ) -> None:
        """Start the run, or continue that of earlier jobs with this output.

        Args:
            folder: local folder, where W&B makes its ``wandb`` folder.
            config: mode, project and group; without a group it is ``job``.
            job: name of the job.
            run_config: the batch's configuration, kept with the run.
            report: takes one line about a fallback.
            attempt: number of this job among those with its output; the first begins the run anew.
        """
        label = config.label or (job if config.group not in ("", job) else "")
        grouped = dataclasses.replace(config, group=config.group or job, label=label)
        self._first = (attempt - 1) * _STEPS
        self._run = WandbRun(grouped, folder, SYSTEM, run_config, report, job_type=SYSTEM, first_step=self._first)
        self.run_id = self._run.run_id
        self._throughput = Throughput()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish; the run counts as failed when an exception passes."""
        self._run.close(failed=error is not None)

    def sample(self, sample: Sample) -> None:
        """Log one sample; they come in order."""
        pace = self._throughput.add(sample)
        figures = {
            "queue_depth": sample.queue,
            "refiner_utilisation": sample.busy,
            "clip_age": sample.age,
            "clips": sample.clips,
            "iterations": sample.iterations,
            "avatars_per_hour": pace.avatars_per_hour,
            "effective_interval": pace.effective_interval,
        }
        values = {f"batch/{name}": value for name, value in figures.items() if value is not None}
        portraits = {f"portraits/{state}": getattr(sample, state) for state in _STATES}
        self._run.log({**values, **portraits}, self._first + int(sample.seconds))

    def ledger(self, rows: Iterable[Row]) -> None:
        """Log the ledger as a table, and how many portraits ended in which state as final figures.

        Args:
            rows: rows of the ledger; the table has a column for every metric that any of them has.
        """
        kept = list(rows)
        metrics = sorted({name for row in kept for name in row.metrics})
        columns = ["id", "state", "reason", "attempts", "gpu_seconds", *metrics, "thumbnail"]
        table = [
            [row.id, row.state, row.reason, row.attempts, row.gpu_seconds]
            + [float(row.metrics[name]) if name in row.metrics else None for name in metrics]
            + [row.thumbnail]
            for row in kept
        ]
        self._run.table("ledger", columns, table)
        states = sorted({row.state for row in kept})
        self._run.summary({f"ledger/{state}": sum(row.state == state for row in kept) for state in states})
