"""The trainer of one avatar as a process of its own. Ray runs this class as an actor with a few threads.

One thread runs the loop; the others answer the driver's questions meanwhile.
"""

from __future__ import annotations

import threading
from typing import Any

from zero1toa.config import Config
from zero1toa.distributed.limits import limit_threads
from zero1toa.distributed.records import DatasetRef, Job
from zero1toa.distributed.refinery import RayRefinery
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.loop import run
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.symgen.result import GenerationResult


class ReconstructionActor:
    """Generates one avatar from its last checkpoint to its end.

    Args:
        job: portrait and output folder.
        folder: the opened output folder.
        dataset: the avatar's dataset.
        config: the run's configuration.
        dispatcher: handle of the dispatcher actor.
        store: handle of the store actor.
        threads: CPU threads of this process.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        dataset: DatasetRef,
        config: Config,
        dispatcher: Any,
        store: Any,
        threads: int,
    ) -> None:
        self._job = job
        self._folder = folder
        self._dataset = dataset
        self._config = config
        self._stop = threading.Event()
        self._refinery = RayRefinery(dataset, dispatcher, store, self._stop.is_set)
        self._lock = threading.Lock()
        self._events: list[ProgressEvent] = []
        self._first = 0
        limit_threads(threads)

    def run(self) -> GenerationResult | None:
        """Reconstruct; None if it was stopped. Errors of the loop come out as they are."""
        return run(
            self._job.portrait,
            self._config,
            self._folder,
            self._refinery.fetch,
            self._refinery,
            self._dataset.policy,
            self._keep,
            stopping=self._stop.is_set,
        )

    def events(self, seen: int) -> tuple[int, list[ProgressEvent]]:
        """Events after the first ``seen`` ones, and the number of events so far; older ones are forgotten."""
        with self._lock:
            del self._events[: max(seen - self._first, 0)]
            self._first = max(seen, self._first)
            return self._first + len(self._events), list(self._events)

    def stop(self) -> None:
        """Ask the loop to end after a checkpoint."""
        self._stop.set()

    def _keep(self, event: ProgressEvent) -> None:
        with self._lock:
            self._events.append(event)
