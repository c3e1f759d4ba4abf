"""The trainer of one avatar at a time, as a process of its own. Ray runs this class as an actor with a few threads.

One thread runs the loop; the others answer the driver's questions meanwhile. The process stays for the next avatar:
loading torch and the kernels again for each would cost more than it protects from.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from zero1toa.config import Config
from zero1toa.distributed.limits import limit_memory, limit_threads
from zero1toa.distributed.measuring import Measured, measure
from zero1toa.distributed.node import prepare_node
from zero1toa.distributed.records import DatasetRef, Job
from zero1toa.distributed.refinery import RayRefinery
from zero1toa.distributed.tracked import tracked
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.loop import choose_device, run
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.symgen.result import GenerationResult
from zero1toa.symgen.staleness import StalenessPolicy


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished avatar.

    Attributes:
        result: what the loop returned.
        measured: figures and thumbnail, or None where they were not asked for.
    """

    result: GenerationResult
    measured: Measured | None = None


class ReconstructionActor:
    """Generates one avatar after the other, each from its last checkpoint to its end.

    Args:
        dispatcher: handle of the dispatcher actor.
        stores: handles of the store actors, by their number.
        threads: CPU threads of this process.
        gpu: share of a GPU that it holds.
    """

    def __init__(self, dispatcher: Any, stores: Sequence[Any], threads: int, gpu: float = 0.0) -> None:
        self._dispatcher = dispatcher
        self._stores = stores
        self._stopped = -1  # number of the last run that was asked to end
        self._lock = threading.Lock()
        self._number = -1
        self._tracked = False
        self._events: list[ProgressEvent] = []
        self._first = 0
        self._pace = _Pace()
        self._widened: tuple[int, int, float] | None = None  # number of a run, window and slack
        limit_threads(threads)
        limit_memory(gpu)

    def run(self, number: int, job: Job, folder: RunFolder, dataset: DatasetRef, config: Config) -> Outcome | None:
        """Reconstruct; None if it was stopped. Errors of the loop come out as they are.

        Args:
            number: names this run in the driver's questions.
            job: portrait and what is wanted besides the avatar.
            folder: the opened output folder.
            dataset: the avatar's dataset.
            config: the avatar's configuration.
        """
        with self._lock:
            self._number, self._tracked, self._events, self._first = number, job.tracked, [], 0
            self._pace.policy = dataset.policy
            if self._widened is not None:  # perhaps this run already: calls are served side by side
                self._widen(*self._widened)

        def stopping() -> bool:
            return self._stopped == number

        prepare_node(config, choose_device(config.device), training=True)
        refinery = RayRefinery(dataset, self._dispatcher, self._stores[dataset.writer], stopping)
        with tracked(job.tracked, folder, config, self._keep) as keeping:
            result = run(
                job.portrait,
                config,
                folder,
                refinery.fetch,
                refinery,
                self._pace,
                keeping,
                stopping=stopping,
                run_id=keeping.run_id,
            )
            if result is None:
                return None
            return Outcome(result, measure(result, config, keeping.results) if job.measured else None)

    def events(self, number: int, seen: int) -> tuple[int, list[ProgressEvent]]:
        """Events of a run after the first ``seen`` ones, and how many there were so far; older ones are forgotten.

        Of a tracked run only the newest iteration is told: its log has them all, and the driver hears hundreds of runs.
        """
        with self._lock:
            if number != self._number:  # it has not begun
                return seen, []
            del self._events[: max(seen - self._first, 0)]
            self._first = max(seen, self._first)
            told = list(self._events)
            if self._tracked:
                newest = max((i for i, event in enumerate(told) if event.kind == "iteration"), default=None)
                told = [event for i, event in enumerate(told) if event.kind != "iteration" or i == newest]
            return self._first + len(self._events), told

    def widen(self, number: int, window: int, slack: float) -> None:
        """Let a run have more requests outstanding, and train further ahead; also one that begins later."""
        with self._lock:
            self._widened = number, window, slack
            self._widen(number, window, slack)

    def _widen(self, number: int, window: int, slack: float) -> None:
        if number == self._number:
            self._pace.policy = dataclasses.replace(self._pace.policy, window=window, slack=slack)

    def stop(self, number: int) -> None:
        """Ask a run to end after a checkpoint; also one that begins later."""
        self._stopped = number

    def _keep(self, event: ProgressEvent) -> None:
        with self._lock:
            self._events.append(event)


class _Pace:
    """The policy of the moment."""

    def __init__(self) -> None:
        self.policy = StalenessPolicy(1)

    def may_submit(self, step: int, submitted: int, outstanding: int) -> bool:
        return self.policy.may_submit(step, submitted, outstanding)

    def may_train(self, step: int, submitted: int, outstanding_steps: Iterable[int]) -> bool:
        return self.policy.may_train(step, submitted, outstanding_steps)
