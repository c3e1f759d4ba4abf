"""The coordinator: begins avatars, watches processes, replaces the dead, passes events on. It lives in the driver.

Nothing is lost with any process. What refiners made is in the dataset before anyone hears of it, trainers continue from
their last checkpoint, and when the driver itself dies the same call continues where the files are.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

from zero1toa.config import Config, DistributedConfig
from zero1toa.distributed.dispatcher import Dispatcher
from zero1toa.distributed.drain import draining_nodes
from zero1toa.distributed.failures import deaths
from zero1toa.distributed.placement import Placement, shortfall
from zero1toa.distributed.reconstruction import Outcome
from zero1toa.distributed.records import DatasetRef, Job, Load, Served
from zero1toa.distributed.refiner_pool import RefinerPool
from zero1toa.distributed.room import free_rooms
from zero1toa.distributed.store_actor import start_stores
from zero1toa.distributed.trainer_pool import TrainerPool, Training
from zero1toa.errors import ConfigError, ZeroOneError
from zero1toa.symgen.folder import open_run
from zero1toa.symgen.loop import open_store
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.symgen.staleness import StalenessPolicy

_TICK = 0.2  # seconds between looks at the processes
_LOAD_SECONDS = 1.0  # between questions for the refiners' load
_PATIENCE = 60.0  # seconds in which a refiner has to be placed, since there was room for all
_DRAIN_SECONDS = 5.0  # between questions for machines that are about to go; they announce it minutes ahead


class Work(Protocol):
    """Where avatars come from, and where they go."""

    def survey(self, cpus: float) -> bool:
        """Look at everything there is on the cluster's ``cpus``; returns whether there is anything to do."""
        ...

    def placed(self, placement: Placement) -> None:
        """Learn what the actors hold of the machines, before any is begun."""
        ...

    def take(self) -> tuple[str, Job] | None:
        """The next avatar with its name, or None if none is ready now."""
        ...

    def more(self) -> bool:
        """Whether avatars may still come; when there are none and none is in work, the coordinator ends."""
        ...

    def references(self) -> Sequence[Any]:
        """References whose end makes an avatar ready, so that the coordinator wakes up for them."""
        ...

    def begun(self, key: str) -> None:
        """Learn that an avatar is begun, or begun again after its process died."""
        ...

    def event(self, key: str, event: ProgressEvent) -> None:
        """Hear an event of an avatar."""
        ...

    def ended(self, key: str, outcome: Outcome | Exception) -> None:
        """Take a finished avatar, or the error that ended it; an exception raised here ends the coordinator."""
        ...

    def tick(self, load: Load | None) -> None:
        """Called several times a second, with how busy the refiners are if that is known."""
        ...


class Coordinator:
    """Runs all avatars of a piece of work with one pool of refiners.

    Args:
        work: gives and takes avatars.
        config: configuration of the job, and of every avatar that has none of its own.
        placement: options of the actors.
        refiners: number of refiners.
        avatars: avatars in work at a time.
        threads: CPU threads of each actor.
    """

    def __init__(
        self, work: Work, config: Config, placement: Placement, refiners: int, avatars: int, threads: int
    ) -> None:
        import ray

        self._work = work
        self._placement = placement
        self._config = config
        self._numbers = itertools.count()
        self._waiting: list[Training] = []  # those that are to go on after their process ended
        self._tail = False
        self._load: Load | None = None
        self._load_question: Any = None
        self._load_asked = self._drain_asked = -math.inf
        self._placed = False  # whether a refiner was
        self._look_for_room = time.monotonic() + max(_PATIENCE, config.distributed.wait)

        service = {**placement.service, "max_restarts": -1, "max_task_retries": -1}
        self._dispatcher: Any = ray.remote(Dispatcher).options(**service).remote(config.distributed.micro_batch)
        self._stores = start_stores(config.diffusion.backbone, avatars, placement.service)
        self._refiners = RefinerPool(refiners, config, placement, self._dispatcher, self._stores, threads)
        self._trainers = TrainerPool(avatars, placement, self._dispatcher, self._stores, threads, self._hear)

    def run(self) -> list[Served]:
        """Work until there is nothing more to do; returns what the refiners did that were there at the end.

        Raises:
            BackboneError: if the refiners' processes keep dying.
            ConfigError: if there is no room for a refiner any more.
            ZeroOneError: for what no avatar could do without, such as missing weights or a full disk.
            KeyboardInterrupt: on Ctrl-C, after a checkpoint of every avatar in work.
        """
        try:
            self._work.placed(self._placement)
            self._refiners.start()
            while self._work.more() or self._trainers.trainings or self._waiting:
                self._turn()
        except BaseException:
            self._trainers.stop()
            raise
        finally:
            served = self._dismiss()
        return served

    def _turn(self) -> None:
        import ray

        self._begin()
        watched = [*self._trainers.references, *self._refiners.references, *self._work.references()]
        ended, _ = ray.wait(watched, num_returns=len(watched), timeout=0)
        if not ended:
            ended, _ = ray.wait(watched, timeout=_TICK)
        self._trainers.listen()
        trainers, refiners = set(self._trainers.references), set(self._refiners.references)
        for reference in ended:
            if reference in trainers:
                self._trainer_ended(*self._trainers.ended(reference))
            elif reference in refiners:
                self._refiner_ended(reference)
        self._leave_draining()
        self._end_without_room()
        self._ask_load()
        self._work.tick(self._load)

    def _refiner_ended(self, reference: Any) -> None:
        # It had room, which its successor gets; until then nobody is placed, and no other job's fault it is.
        self._placed = True
        notice = self._refiners.ended(reference)
        for training in self._trainers.trainings:
            self._notice(training, notice)

    def _end_without_room(self) -> None:
        """End instead of hanging where the room that there was is gone: another job took it, or machines were lost."""
        if self._placed or time.monotonic() < self._look_for_room:
            return
        self._placed = self._refiners.placed()
        if not self._placed:
            lack = shortfall(self._placement, free_rooms(), self._refiners.count, self._trainers.count, free=True)
            if lack is not None:
                raise ConfigError(lack)
            self._look_for_room = time.monotonic() + _PATIENCE

    def _begin(self) -> None:
        while self._trainers.free:
            if self._waiting:
                training = self._waiting.pop(0)
            else:
                taken = self._work.take()
                if taken is None:
                    break
                prepared = self._prepare(*taken)
                if prepared is None:
                    continue
                training = prepared
            self._work.begun(training.key)
            self._trainers.begin(training)
            self._tail = False
        self._widen()

    def _prepare(self, key: str, job: Job) -> Training | None:
        config = job.config or self._config
        try:
            folder = open_run(job.output, job.portrait, config)
            open_store(folder, job.portrait)
        except ZeroOneError as error:
            self._work.ended(key, error)
            return None
        policy = policy_of(config.distributed, config.loop.update_interval)
        dataset = DatasetRef(folder.avatar, folder.dataset, policy, next(self._numbers) % len(self._stores))
        return Training(key, job, folder, dataset, config)

    def _widen(self) -> None:
        """In the tail of a batch, when there are more refiners than avatars ask, let the avatars ask for more."""
        window = self._config.distributed.tail_window
        in_work = len(self._trainers.trainings)
        if self._tail or window <= self._config.distributed.window or self._work.more() or not in_work:
            return
        if in_work * self._config.distributed.window <= self._refiners.count:
            slack = self._config.distributed.slack + window - self._config.distributed.window
            self._trainers.widen(window, slack)
            self._tail = True

    def _hear(self, training: Training, event: ProgressEvent) -> None:
        if event.kind == "answered":
            self._refiners.alive()
        self._work.event(training.key, event)

    def _trainer_ended(self, training: Training, outcome: Outcome | Exception | None) -> None:
        import ray

        ray.get([
            self._dispatcher.forget.remote(training.folder.avatar),
            self._stores[training.dataset.writer].close.remote(training.dataset, finished=outcome is not None),
        ])  # fmt: skip
        if outcome is None:
            why = "its machine is about to go" if training.leaving else "the trainer's process died"
            self._notice(training, f"{why}; it continues from the last checkpoint")
            self._waiting.append(training)
        else:
            self._work.ended(training.key, outcome)

    def _notice(self, training: Training, message: str) -> None:
        if training.last is None:
            event = ProgressEvent("notice", training.folder.avatar, "portrait", 0, 0, message=message)
        else:
            event = dataclasses.replace(
                training.last, kind="notice", message=message, losses={}, timings={}, age=None, preview=None
            )
        self._work.event(training.key, event)

    def _leave_draining(self) -> None:
        """Let avatars on machines that are about to go save their work, and refiners finish their clips.

        Both go on elsewhere.
        """
        now = time.monotonic()
        if now - self._drain_asked < _DRAIN_SECONDS:
            return
        self._drain_asked = now
        nodes = set(draining_nodes())
        if nodes:
            self._trainers.leave(nodes)
            self._refiners.leave(nodes)

    def _ask_load(self) -> None:
        import ray

        now = time.monotonic()
        if self._load_question is None:
            if now - self._load_asked >= _LOAD_SECONDS:
                self._load_question, self._load_asked = self._dispatcher.load.remote(), now
        elif ray.wait([self._load_question], timeout=0)[0]:
            question, self._load_question = self._load_question, None
            try:
                self._load = ray.get(question)
            except deaths():
                return  # the dispatcher is being restarted

    def _dismiss(self) -> list[Served]:
        """End all actors: on a cluster that stays, they would hold their GPUs."""
        import ray

        # Once: a dispatcher that has not even started is killed below, and Ray would say that it tries again.
        self._dispatcher.close.options(max_task_retries=0).remote()
        served = self._refiners.dismiss()
        self._trainers.dismiss()
        # Last, because calls to them that nobody could answer would be retried for ever.
        for service in (self._dispatcher, *self._stores):
            ray.kill(service)
        return served


def policy_of(config: DistributedConfig, interval: int) -> StalenessPolicy:
    """The staleness policy that the configuration describes."""
    return StalenessPolicy(interval, config.window, config.slack, config.max_age)
