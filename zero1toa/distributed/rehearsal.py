"""A rehearsal of a fleet: the real dispatcher, stores and actors, with trainers and refiners that sleep.

It measures what the system itself costs, and whether the simulation foretells what happens. Several trainers and
refiners share a process, as threads: they only sleep, and starting a process for each would take longer than the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.config import Config, LoopConfig
from zero1toa.distributed.dispatcher import Dispatcher
from zero1toa.distributed.records import DatasetRef, Load
from zero1toa.distributed.refinement import RefinementActor
from zero1toa.distributed.refinery import RayRefinery
from zero1toa.distributed.simulation.settings import Settings
from zero1toa.distributed.store_actor import start_stores
from zero1toa.storage import Storage
from zero1toa.symgen.alternation import alternate
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.symgen.store import Reference, SymGENStore
from zero1toa.types import LandmarkTrack, Receipt, RefineRequest, SampleKey

_CLIPS = 40  # clips of an avatar that updates go round


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
        refiners: number of refiners.
        avatars: avatars, all in work at the same time.
        updates: clips refined for each.
        interval: training iterations for each update.
        iteration_seconds: duration of a training iteration.
        clip_seconds: duration of a refinement.
        window: requests that an avatar may have outstanding.
        slack: update intervals that training may run ahead.
        max_age: iterations after which a clip no longer counts.
        micro_batch: clips that a refiner may serve at once.
        marginal: cost of each further clip in a micro-batch, as a share of the first.
        shape: frames, height and width of a clip.
        processes: processes that the trainers share; the refiners share as many.
    """

    refiners: int
    avatars: int
    updates: int = 20
    interval: int = 3
    iteration_seconds: float = 0.02
    clip_seconds: float = 0.3
    window: int = 1
    slack: float = 0.0
    max_age: int = 300
    micro_batch: int = 1
    marginal: float = 1.0
    shape: tuple[int, int, int] = (4, 64, 64)
    processes: int = 2


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """What came out.

    Attributes:
        seconds: from the first avatar's begin to the last one's end.
        clips: refined and committed clips.
        busy: share of the refiners' time with a request in hand, while all avatars were in work.
        steady: clips a second in that time.
        ages: iterations between render and answer, of every clip.
        superseded: clips that came second.
        expired: clips that came too late.
        iterations: training iterations of all avatars.
    """

    seconds: float
    clips: int
    busy: float
    steady: float
    ages: tuple[int, ...]
    superseded: int
    expired: int
    iterations: int

    @property
    def effective_interval(self) -> float:
        """Training iterations for each clip that was taken in."""
        return self.iterations / max(self.clips, 1)


def rehearse(what: Rehearsal, output: Storage) -> Rehearsed:
    """Run a fleet that sleeps on the Ray that is connected.

    Args:
        what: numbers and durations.
        output: where the datasets go; every clip is really committed.
    """
    import ray

    policy = StalenessPolicy(what.interval, what.window, what.slack, what.max_age)
    service = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    dispatcher: Any = ray.remote(Dispatcher).options(**service).remote(what.micro_batch)
    stores = start_stores("sleep", what.avatars, {"num_cpus": 0})
    datasets = []
    for number in range(what.avatars):
        root = output / f"sleeper-{number}"
        SymGENStore(root / "dataset", root.name).put_reference(
            Reference(np.zeros((8, 8, 4), np.uint8), np.zeros((478, 2), np.float32))
        )
        datasets.append(DatasetRef(root.name, root / "dataset", policy, number % len(stores)))
    refining: list[Any] = [
        ray.remote(_Refiners).options(num_cpus=0).remote(what, dispatcher, stores) for _ in range(what.processes)
    ]
    training: list[Any] = [
        ray.remote(_Trainers).options(num_cpus=0).remote(what, dispatcher, stores, output)
        for _ in range(what.processes)
    ]
    everything = [dispatcher, *stores, *refining, *training]
    try:
        shares = [list(range(number, what.refiners, what.processes)) for number in range(what.processes)]
        served = [host.run.remote(share) for host, share in zip(refining, shares, strict=True)]
        ray.get([host.ready.remote() for host in training])
        runs = [host.run.remote(datasets[number :: what.processes]) for number, host in enumerate(training)]
        summaries = [summary for run in ray.get(runs) for summary in run]
        ray.get(dispatcher.close.remote())
        ray.get(served)
    finally:
        for actor in everything:
            ray.kill(actor)
    return _evaluate(summaries)


def simulated(what: Rehearsal) -> Settings:
    """The same fleet for the simulation, which leaves out what a rehearsal does not have."""
    return Settings(
        portraits=what.avatars,
        refiners=what.refiners,
        at_once=what.avatars,
        iterations=what.updates * what.interval,
        update_interval=what.interval,
        window=what.window,
        slack=what.slack,
        max_age=what.max_age,
        clips=_CLIPS,
        stages=(),
        iteration_seconds=what.iteration_seconds,
        render_seconds=0.0,
        refine_seconds=what.clip_seconds,
        refine_variation=0.0,
        lease_seconds=0.0,
        commit_seconds=0.0,
        micro_batch=what.micro_batch,
        marginal=what.marginal,
        prepare_seconds=0.0,
        look_ahead=what.avatars,
        finish_seconds=0.0,
        refiner_start_seconds=0.0,
        trainer_start_seconds=0.0,
    )


@dataclasses.dataclass(frozen=True)
class _Summary:
    """One sleeping avatar: when it began and ended, how busy the refiners had been by then, and its counts."""

    began: float
    ended: float
    load_before: Load
    load_after: Load
    answered: tuple[float, ...]
    ages: tuple[int, ...]
    superseded: int
    expired: int
    iterations: int


def _evaluate(summaries: Sequence[_Summary]) -> Rehearsed:
    last_begin = max(summaries, key=lambda one: one.began)
    first_end = min(summaries, key=lambda one: one.ended)
    before, after = last_begin.load_before, first_end.load_after
    begin, end = last_begin.began, first_end.ended
    steady = sum(begin <= moment <= end for one in summaries for moment in one.answered)
    refused = sum(one.superseded + one.expired for one in summaries)
    return Rehearsed(
        seconds=max(one.ended for one in summaries) - min(one.began for one in summaries),
        clips=sum(len(one.answered) for one in summaries) - refused,
        busy=(after.worked - before.worked) / max(after.present - before.present, 1e-9),
        steady=steady / max(end - begin, 1e-9),
        ages=tuple(age for one in summaries for age in one.ages),
        superseded=sum(one.superseded for one in summaries),
        expired=sum(one.expired for one in summaries),
        iterations=sum(one.iterations for one in summaries),
    )


class _Refiners:
    """Several sleeping refiners in one process."""

    def __init__(self, what: Rehearsal, dispatcher: Any, stores: Sequence[Any]) -> None:
        self._what = what
        self._dispatcher = dispatcher
        self._stores = stores

    def run(self, numbers: Sequence[int]) -> int:
        return sum(in_threads(self._serve, numbers))

    def _serve(self, number: int) -> int:
        worker = RefinementActor(f"sleeper-{number}", Config(), self._dispatcher, self._stores, 1)
        return worker.serve(self._refine)

    def _refine(
        self, requests: Sequence[RefineRequest], reference: Callable[[str], Reference]
    ) -> tuple[list[NDArray[np.uint8]], dict[str, float]]:
        seconds = self._what.clip_seconds * (1 + self._what.marginal * (len(requests) - 1))
        time.sleep(seconds)
        return [request.frames for request in requests], {"denoise": seconds / len(requests)}


class _Trainers:
    """Several sleeping avatars in one process."""

    def __init__(self, what: Rehearsal, dispatcher: Any, stores: Sequence[Any], output: Storage) -> None:
        self._what = what
        self._dispatcher = dispatcher
        self._stores = stores
        self._output = output

    def ready(self) -> None:
        """Return when the process is up."""

    def run(self, datasets: Sequence[DatasetRef]) -> list[_Summary]:
        return in_threads(self._train, datasets)

    def _train(self, dataset: DatasetRef) -> _Summary:
        import ray

        refinery = RayRefinery(dataset, self._dispatcher, self._stores[dataset.writer], lambda: False)
        trainer: Any = SleepingTrainer(self._what, dataset.avatar)
        folder = RunFolder(self._output / dataset.avatar, dataset.avatar)
        answered: list[float] = []
        ages: list[int] = []

        def hear(event: ProgressEvent) -> None:
            if event.kind == "answered":
                answered.append(time.time())
                ages.append(event.age or 0)

        before, began = ray.get(self._dispatcher.load.remote()), time.time()
        alternate(trainer, refinery, dataset.policy, folder, hear)
        after, ended = ray.get(self._dispatcher.load.remote()), time.time()
        return _Summary(
            began,
            ended,
            before,
            after,
            tuple(answered),
            tuple(ages),
            trainer.superseded,
            trainer.expired,
            trainer.step_count,
        )


class SleepingTrainer:
    """What :func:`zero1toa.symgen.alternation.alternate` needs of a reconstruction, without one."""

    stage, epoch, requested, notes, seconds = "spatial", 0, 0, (), 0.0

    def __init__(self, what: Rehearsal, avatar: str) -> None:
        self.avatar_id = avatar
        self.config = dataclasses.replace(Config(), loop=LoopConfig(preview_every=0, checkpoint_every=10**9))
        self.iterations = what.updates * what.interval
        self.step_count = self.submitted = self.refined = self.superseded = self.expired = 0
        self.outstanding: dict[str, RefineRequest] = {}
        self.versions: dict[SampleKey, int] = {}
        self.gaussians = ()
        self._seconds = what.iteration_seconds
        frames, height, width = what.shape
        self._frames = np.zeros((frames, height, width, 3), np.uint8)
        self._landmarks = LandmarkTrack(
            np.zeros((frames, 478, 2), np.float32), np.ones(frames, bool), np.zeros(frames, bool)
        )
        self._keys = itertools.cycle([SampleKey("spatial", f"clip-{number:02d}") for number in range(_CLIPS)])

    @property
    def done(self) -> bool:
        """Whether all iterations are done."""
        return self.step_count >= self.iterations

    def step(self) -> dict[str, float]:
        """Sleep for an iteration."""
        time.sleep(self._seconds)
        self.step_count += 1
        return {}

    def request(self) -> RefineRequest:
        """Ask for the next clip, in turn."""
        key = next(self._keys)
        request = RefineRequest(
            avatar=self.avatar_id,
            key=key,
            base_version=self.versions.get(key, 0),
            render_step=self.step_count,
            epoch=0,
            frames=self._frames,
            landmarks=self._landmarks,
            unlocked=1,
            backbone="sleep",
            seed=self.submitted,
        )
        self.submitted += 1
        self.outstanding[request.request_id] = request
        return request

    def accept(self, receipt: Receipt) -> None:
        """Take in an answer."""
        self.outstanding.pop(receipt.request_id, None)
        self.versions[receipt.key] = receipt.version
        if receipt.status == "superseded":
            self.superseded += 1
        elif receipt.status == "expired":
            self.expired += 1
        else:
            self.refined += 1

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Time nothing."""
        yield

    def checkpoint(self, folder: Storage, name: str) -> None:
        """Nothing of a sleeper is worth keeping."""


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Call a function for every item at the same time; returns what it returned, and raises what went wrong first."""
    results: list[Any] = [None] * len(items)
    errors: list[BaseException] = []

    def call(index: int) -> None:
        try:
            results[index] = function(items[index])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
