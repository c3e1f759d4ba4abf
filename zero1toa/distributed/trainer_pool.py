"""The trainers of a cluster: processes that are kept warm, and the avatars that they work on."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from zero1toa.config import Config
from zero1toa.distributed.drain import on_nodes
from zero1toa.distributed.failures import MAX_DEATHS, cause, deaths, first_line
from zero1toa.distributed.placement import Placement
from zero1toa.distributed.reconstruction import Outcome, ReconstructionActor
from zero1toa.distributed.records import DatasetRef, Job
from zero1toa.errors import ZeroOneError
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.progress import ProgressEvent

_STOP_SECONDS = 30.0  # for trainers to write a last checkpoint
_LISTEN_SECONDS = {False: 0.0, True: 2.0}  # between questions for the events of a run; of a tracked one less is told


@dataclasses.dataclass
class Training:
    """An avatar in work.

    Attributes:
        key: name of the avatar's job.
        job: what is to be done.
        folder: its output folder.
        dataset: its dataset.
        config: its configuration.
        last: its newest event.
        begun: times that it was begun.
    """

    key: str
    job: Job
    folder: RunFolder
    dataset: DatasetRef
    config: Config
    last: ProgressEvent | None = None
    begun: int = 0
    furthest: int = -1  # iteration at the last death
    deaths: int = 0
    number: int = -1
    handle: Any = None
    question: Any = None
    asked: float = 0.0
    seen: int = 0
    leaving: bool = False


Hear = Callable[[Training, ProgressEvent], None]


class TrainerPool:
    """Reconstruction actors, at most ``count``, each with one avatar at a time.

    Args:
        count: number of trainers.
        placement: options of the actors.
        dispatcher: handle of the dispatcher actor.
        stores: handles of the store actors.
        threads: CPU threads of each.
        hear: receives every event.
    """

    def __init__(
        self, count: int, placement: Placement, dispatcher: Any, stores: Sequence[Any], threads: int, hear: Hear
    ) -> None:
        self.count = count
        self._placement = placement
        self._dispatcher = dispatcher
        self._stores = stores
        self._threads = threads
        self._hear = hear
        self._numbers = itertools.count()
        self._idle: list[Any] = []
        self._running: dict[Any, Training] = {}  # by the reference of their run

    @property
    def references(self) -> list[Any]:
        """References that end when an avatar ends."""
        return list(self._running)

    @property
    def trainings(self) -> list[Training]:
        """Avatars in work."""
        return list(self._running.values())

    @property
    def free(self) -> int:
        """Avatars that can be begun now."""
        return self.count - len(self._running)

    def begin(self, training: Training) -> None:
        """Begin an avatar, or go on with it, on an idle trainer or a new one."""
        import ray

        if not self._idle:
            # Threads besides the loop's answer the driver. A dead trainer is replaced here and not by Ray, which would
            # call `run` on a process that knows nothing of the last one's end.
            actor = ray.remote(ReconstructionActor).options(
                **self._placement.reconstruction, max_restarts=0, max_concurrency=3
            )
            share = self._placement.reconstruction["num_gpus"]
            self._idle.append(actor.remote(self._dispatcher, self._stores, self._threads, share))
        training.handle = self._idle.pop()
        training.number, training.seen, training.leaving = next(self._numbers), 0, False
        training.begun += 1
        reference = training.handle.run.remote(
            training.number, training.job, training.folder, training.dataset, training.config
        )
        self._ask(training)
        self._running[reference] = training

    def listen(self) -> None:
        """Pass on the events that have come in, and ask for more."""
        import ray

        now = time.monotonic()
        for training in self._running.values():
            if training.question is None:
                if now - training.asked >= _LISTEN_SECONDS[training.job.tracked]:
                    self._ask(training)
            elif ray.wait([training.question], timeout=0)[0]:
                self._listen_to(training)

    def ended(self, reference: Any) -> tuple[Training, Outcome | Exception | None]:
        """Take in the end of a run.

        Args:
            reference: one of :attr:`references`, which is ready.

        Returns:
            The avatar, and its outcome or the error that ended it; None if it is to be begun again, because its process
            has died or was asked to leave its machine.
        """
        import ray

        training = self._running.pop(reference)
        try:
            outcome: Outcome | None = ray.get(reference)
        except deaths() as error:
            return training, self._died(training, error)
        except Exception as error:
            self._hear_out(training)
            ray.kill(training.handle)  # with whatever it still holds
            return training, cause(error)
        self._hear_out(training)
        if outcome is None:  # it has left its machine, which is about to go
            ray.kill(training.handle)
            return training, None
        self._idle.append(training.handle)
        return training, outcome

    def widen(self, window: int, slack: float) -> None:
        """Let all avatars in work have more requests outstanding."""
        for training in self._running.values():
            training.handle.widen.remote(training.number, window, slack)

    def leave(self, nodes: set[str]) -> None:
        """Ask the avatars on some nodes to save their work and end.

        Idle trainers there end at once: the next avatar would begin on a machine that is about to go.
        """
        import ray

        for handle in on_nodes(self._idle, nodes):
            self._idle.remove(handle)
            ray.kill(handle)
        staying = {training.handle: training for training in self._running.values() if not training.leaving}
        for handle in on_nodes(staying, nodes):
            handle.stop.remote(staying[handle].number)
            staying[handle].leaving = True

    def stop(self) -> None:
        """Let every avatar in work write a checkpoint."""
        import ray

        for training in self._running.values():
            training.handle.stop.remote(training.number)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=_STOP_SECONDS)

    def dismiss(self) -> None:
        """End all trainers."""
        import ray

        for handle in [*self._idle, *(training.handle for training in self._running.values())]:
            ray.kill(handle)
        self._idle.clear()
        self._running.clear()

    def _ask(self, training: Training) -> None:
        training.question = training.handle.events.remote(training.number, training.seen)
        training.asked = time.monotonic()

    def _listen_to(self, training: Training) -> None:
        import ray

        question, training.question = training.question, None
        try:
            training.seen, events = ray.get(question)
        except deaths():
            return  # the end of its run is about to be noticed
        for event in events:
            training.last = event
            self._hear(training, event)

    def _hear_out(self, training: Training) -> None:
        """Pass on the last events of a run that has ended; the open question may have been answered before them."""
        if training.question is not None:
            self._listen_to(training)
        self._ask(training)
        self._listen_to(training)

    def _died(self, training: Training, error: BaseException) -> Exception | None:
        reached = training.last.iteration if training.last is not None else 0
        training.deaths = training.deaths + 1 if reached <= training.furthest else 1
        training.furthest = max(training.furthest, reached)
        if training.deaths < MAX_DEATHS:
            return None
        return ZeroOneError(
            f"the trainer of {training.folder.avatar} died {training.deaths} times around iteration {reached} "
            f"({first_line(error)}); it may be out of memory: lower render.size or loop.batch_frames"
        )
