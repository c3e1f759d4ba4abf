"""The coordinator: admits portraits, watches processes, replaces the dead, passes events on. It lives in the driver.

Nothing is lost with any process. What refiners made is in the dataset before anyone hears of it, trainers continue from
their last checkpoint, and when the driver itself dies the same call continues where the files are.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zero1toa.config import Config, DistributedConfig
from zero1toa.distributed.dispatcher import Dispatcher
from zero1toa.distributed.limits import share_threads, thread_variables
from zero1toa.distributed.placement import Placement, plan
from zero1toa.distributed.reconstruction import ReconstructionActor
from zero1toa.distributed.records import DatasetRef, Job
from zero1toa.distributed.refinement import RefinementActor
from zero1toa.distributed.session import ray_session
from zero1toa.distributed.store_actor import StoreActor
from zero1toa.errors import BackboneError, ZeroOneError
from zero1toa.storage import Storage
from zero1toa.symgen.distillation.distillation import refuse_distribution
from zero1toa.symgen.folder import RunFolder, open_run
from zero1toa.symgen.loop import open_store
from zero1toa.symgen.progress import Progress, ProgressEvent, silent
from zero1toa.symgen.result import GenerationResult
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.types import Portrait

AVATARS_PER_REFINER = 1.5
"""Avatars at a time for each refiner: enough to keep it busy while the others train, with no staleness at all."""

MAX_DEATHS = 3
"""Times in a row that a trainer, or the refiners, may die without any progress in between."""

_TICK = 0.2  # seconds between looks at the processes
_STOP_SECONDS = 30.0  # for trainers to write a last checkpoint
_GOODBYE_SECONDS = 2.0  # for refiners to hear that there is no more work


def generate_distributed(
    portrait: Portrait, config: Config, output: Path | Storage, progress: Progress = silent
) -> GenerationResult:
    """Generate an avatar on Ray: one trainer, ``distributed.refiners`` refiners.

    Leaves in ``output`` what :func:`zero1toa.symgen.loop.generate_serial` leaves, and continues what either began. At
    window 1 and slack 0 the avatar is the same, bit for bit, on CPU with the same number of threads.

    Args:
        portrait: carved and fitted portrait.
        config: the configuration.
        output: the output folder, on storage that all machines see.
        progress: receives the events, in the caller's thread.

    Raises:
        UserError: as :func:`generate_serial`.
        BackboneError: if refinement keeps failing, or its processes keep dying.
        ZeroOneError: if the trainer's process keeps dying.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    folder = output if isinstance(output, Storage) else Storage(output)
    (outcome,) = generate_batch([Job(portrait, folder)], config, progress, at_once=1)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def generate_batch(
    jobs: Sequence[Job], config: Config, progress: Progress = silent, *, at_once: int = 0, dashboard: bool = False
) -> list[GenerationResult | Exception]:
    """Generate many avatars with one pool of refiners.

    Args:
        jobs: portraits with their output folders.
        config: the configuration of all of them.
        progress: receives the events of all avatars, in the caller's thread.
        at_once: avatars in work at a time; 0 takes 1.5 for each refiner.
        dashboard: start Ray's dashboard, if this call starts Ray.

    Returns:
        For each job its result, or the error that ended it; one job's error does not end the others.

    Raises:
        UserError: for what concerns all jobs, such as missing weights.
        BackboneError: if the refiners' processes keep dying.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint of every avatar in work.
    """
    refuse_distribution(config.distillation)
    refiners = max(config.distributed.refiners, 1)
    avatars = min(at_once or math.ceil(AVATARS_PER_REFINER * refiners), max(len(jobs), 1))
    threads = share_threads(config.distributed.threads, refiners + avatars)
    with ray_session(refiners + avatars, dashboard=dashboard, variables=thread_variables(threads)):
        import ray

        placement = plan(
            device=config.device,
            gpus=ray.cluster_resources().get("GPU", 0.0),
            refiners=refiners,
            avatars=avatars,
            labels=[node.get("Labels", {}) for node in ray.nodes() if node["Alive"]],
        )
        return _Coordinator(jobs, config, progress, placement, refiners, avatars, threads).run()


def policy_of(config: DistributedConfig, interval: int) -> StalenessPolicy:
    """The staleness policy that the configuration describes."""
    return StalenessPolicy(interval, config.window, config.slack, config.max_age)


@dataclasses.dataclass
class _Trainer:
    """An avatar in work."""

    index: int
    folder: RunFolder
    dataset: DatasetRef
    handle: Any = None
    question: Any = None
    seen: int = 0
    last: ProgressEvent | None = None
    furthest: int = -1  # iteration at the last death
    deaths: int = 0


class _Coordinator:
    def __init__(
        self,
        jobs: Sequence[Job],
        config: Config,
        progress: Progress,
        placement: Placement,
        refiners: int,
        avatars: int,
        threads: int,
    ) -> None:
        self._jobs = jobs
        self._config = config
        self._progress = progress
        self._placement = placement
        self._avatars = avatars
        self._threads = threads
        self._waiting = deque(range(len(jobs)))
        self._outcomes: dict[int, GenerationResult | Exception] = {}
        self._trainers: dict[Any, _Trainer] = {}  # by the reference of their run
        self._refiners: dict[Any, tuple[str, Any]] = {}  # likewise: name and handle
        self._names = itertools.count()
        self._refiner_deaths = 0
        self._n_refiners = refiners

        import ray

        service = {**placement.service, "max_restarts": -1, "max_task_retries": -1}
        self._dispatcher: Any = ray.remote(Dispatcher).options(**service).remote()
        self._store: Any = ray.remote(StoreActor).options(**service).remote()

    def run(self) -> list[GenerationResult | Exception]:
        import ray

        try:
            for _ in range(self._n_refiners):
                self._start_refiner()
            while self._waiting or self._trainers:
                self._admit()
                ended, _ = ray.wait([*self._trainers, *self._refiners], timeout=_TICK)
                self._listen()
                for reference in ended:
                    if reference in self._refiners:
                        self._refiner_ended(reference)
                    else:
                        self._trainer_ended(reference)
            return [self._outcomes[index] for index in range(len(self._jobs))]
        except BaseException:
            self._stop_trainers()
            raise
        finally:
            self._dismiss()

    def _admit(self) -> None:
        while self._waiting and len(self._trainers) < self._avatars:
            index = self._waiting.popleft()
            job = self._jobs[index]
            try:
                folder = open_run(job.output, job.portrait, self._config)
                open_store(folder, job.portrait)
            except ZeroOneError as error:
                self._outcomes[index] = error
                continue
            policy = policy_of(self._config.distributed, self._config.loop.update_interval)
            self._start_trainer(_Trainer(index, folder, DatasetRef(folder.avatar, folder.dataset, policy)))

    def _start_trainer(self, trainer: _Trainer) -> None:
        import ray

        # Threads besides the loop's answer the driver. A dead trainer is replaced here and not by Ray, which would call
        # `run` on a process that knows nothing of the last one's end.
        actor = ray.remote(ReconstructionActor).options(
            **self._placement.reconstruction, max_restarts=0, max_concurrency=3
        )
        trainer.handle = actor.remote(
            self._jobs[trainer.index],
            trainer.folder,
            trainer.dataset,
            self._config,
            self._dispatcher,
            self._store,
            self._threads,
        )
        trainer.seen = 0
        trainer.question = trainer.handle.events.remote(0)
        self._trainers[trainer.handle.run.remote()] = trainer

    def _start_refiner(self) -> None:
        import ray

        name = f"refiner-{next(self._names)}"
        actor = ray.remote(RefinementActor).options(**self._placement.refinement, max_restarts=0)
        handle: Any = actor.remote(name, self._config, self._dispatcher, self._store, self._threads)
        self._refiners[handle.run.remote()] = (name, handle)

    def _listen(self) -> None:
        """Pass on the events that have come in, and ask for more."""
        import ray

        for trainer in self._trainers.values():
            ready, _ = ray.wait([trainer.question], timeout=0)
            if ready:
                self._hear(trainer)

    def _hear(self, trainer: _Trainer) -> None:
        import ray

        try:
            trainer.seen, events = ray.get(trainer.question)
        except ray.exceptions.RayActorError:
            return  # the end of its run is about to be noticed
        trainer.question = trainer.handle.events.remote(trainer.seen)
        for event in events:
            trainer.last = event
            if event.kind == "answered":
                self._refiner_deaths = 0
            self._progress(event)

    def _trainer_ended(self, reference: Any) -> None:
        import ray

        trainer = self._trainers.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._trainer_died(trainer, error)
            return
        except Exception as error:
            self._hear_out(trainer)
            self._outcomes[trainer.index] = _cause(error)
        else:
            self._hear_out(trainer)
            self._outcomes[trainer.index] = result
        ray.get([self._dispatcher.forget.remote(trainer.folder.avatar), self._store.close.remote(trainer.dataset)])
        ray.kill(trainer.handle)

    def _hear_out(self, trainer: _Trainer) -> None:
        """Pass on the last events of a trainer that has ended but still answers."""
        self._hear(trainer)  # the question may have been answered before the last events
        self._hear(trainer)

    def _trainer_died(self, trainer: _Trainer, error: Exception) -> None:
        reached = trainer.last.iteration if trainer.last is not None else 0
        trainer.deaths = trainer.deaths + 1 if reached <= trainer.furthest else 1
        trainer.furthest = max(trainer.furthest, reached)
        if trainer.deaths >= MAX_DEATHS:
            self._outcomes[trainer.index] = ZeroOneError(
                f"the trainer of {trainer.folder.avatar} died {trainer.deaths} times around iteration {reached} "
                f"({_first_line(error)}); it may be out of memory: lower render.size or loop.batch_frames"
            )
            return
        self._notice(trainer, "the trainer's process died; it continues from the last checkpoint")
        self._start_trainer(trainer)

    def _refiner_ended(self, reference: Any) -> None:
        import ray

        name, _ = self._refiners.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._refiner_deaths += 1
            if self._refiner_deaths >= MAX_DEATHS * self._n_refiners:
                raise BackboneError(
                    f"the refinement processes died {self._refiner_deaths} times in a row ({_first_line(error)}); they "
                    "may be out of memory: lower curriculum.frames or distributed.refiners"
                ) from error
            ray.get(self._dispatcher.release.remote(name, f"{name} died"))
            for trainer in self._trainers.values():
                self._notice(trainer, f"{name} died; its clip is given to another one")
            self._start_refiner()
        except Exception as error:
            # No refiner can do better than this one: weights are missing, the disk is full, or the code is at fault.
            raise _cause(error) from error

    def _notice(self, trainer: _Trainer, message: str) -> None:
        if trainer.last is None:
            self._progress(ProgressEvent("notice", trainer.folder.avatar, "portrait", 0, 0, message=message))
            return
        event = dataclasses.replace(trainer.last, kind="notice", losses={}, timings={}, preview=None, message=message)
        self._progress(event)

    def _stop_trainers(self) -> None:
        """Let every trainer write a checkpoint."""
        import ray

        for trainer in self._trainers.values():
            trainer.handle.stop.remote()
        if self._trainers:
            ray.wait(list(self._trainers), num_returns=len(self._trainers), timeout=_STOP_SECONDS)

    def _dismiss(self) -> None:
        """End all actors: on a cluster that stays, they would hold their GPUs."""
        import ray

        self._dispatcher.close.remote()
        if self._refiners:
            ray.wait(list(self._refiners), num_returns=len(self._refiners), timeout=_GOODBYE_SECONDS)
        for trainer in self._trainers.values():
            ray.kill(trainer.handle)
        for _, handle in self._refiners.values():
            ray.kill(handle)
        # Last, because calls to them that nobody could answer would be retried for ever.
        ray.kill(self._dispatcher)
        ray.kill(self._store)


def _cause(error: Exception) -> Exception:
    """The error that was raised in an actor, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
