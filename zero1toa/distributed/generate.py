"""One avatar, or a few whose portraits are at hand, on Ray."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zero1toa.config import Config
from zero1toa.distributed.coordinator import Coordinator, Work
from zero1toa.distributed.limits import share_threads, thread_variables
from zero1toa.distributed.placement import AVATARS_PER_REFINER, Placement, plan
from zero1toa.distributed.reconstruction import Outcome
from zero1toa.distributed.records import Job, Load, Served
from zero1toa.distributed.room import await_room, total_rooms
from zero1toa.distributed.session import ray_session
from zero1toa.storage import Storage
from zero1toa.symgen.distillation.distillation import refuse_distribution
from zero1toa.symgen.progress import Progress, ProgressEvent, silent
from zero1toa.symgen.result import GenerationResult
from zero1toa.types import Portrait


def generate_distributed(
    portrait: Portrait, config: Config, output: Path | Storage, progress: Progress = silent
) -> GenerationResult:
    """Generate an avatar on Ray: one trainer, ``distributed.refiners`` refiners.

    Leaves in ``output`` what :func:`zero1toa.symgen.loop.generate_serial` leaves, and continues what either began. At
    window 1 and slack 0 the avatar is the same, bit for bit, on CPU with the same number of threads.

    Args:
        portrait: carved and fitted portrait.
        config: the configuration.
        output: the output folder, on storage that all machines reach.
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
    jobs: Sequence[Job], config: Config, progress: Progress = silent, *, at_once: int = 0
) -> list[GenerationResult | Exception]:
    """Generate several avatars with one pool of refiners.

    Args:
        jobs: portraits with their output folders.
        config: the configuration of all that have none of their own.
        progress: receives the events of all avatars, in the caller's thread.
        at_once: avatars in work at a time; 0 takes 1.5 for each refiner.

    Returns:
        For each job its result, or the error that ended it; one job's error does not end the others.

    Raises:
        UserError: for what concerns all jobs, such as missing weights.
        BackboneError: if the refiners' processes keep dying.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint of every avatar in work.
    """
    work = _Jobs(jobs, progress)
    run_on_ray(work, config, avatars=min(avatars_at_once(config, at_once), max(len(jobs), 1)))
    return [work.outcomes[str(index)] for index in range(len(jobs))]


def avatars_at_once(config: Config, wanted: int) -> int:
    """Avatars in work at a time: as wanted, or 1.5 for each refiner."""
    return wanted or math.ceil(AVATARS_PER_REFINER * max(config.distributed.refiners, 1))


def run_on_ray(
    work: Work,
    config: Config,
    *,
    avatars: int,
    helpers: int = 0,
    dashboard: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Served]:
    """Run a piece of work on the Ray cluster that is there, or on one of this machine.

    Args:
        work: gives and takes avatars.
        config: the job's configuration.
        avatars: avatars in work at a time.
        helpers: CPUs that a cluster of this machine offers for tasks besides the actors.
        dashboard: start Ray's dashboard, if this call starts Ray.
        say: receives a line if machines have to be waited for.

    Returns:
        What the refiners did that were there at the end.

    Raises:
        UserError: for what concerns all avatars, such as a cluster without room for the actors.
        BackboneError: if the refiners' processes keep dying.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint of every avatar in work.
    """
    refuse_distribution(config.distillation)
    refiners = max(config.distributed.refiners, 1)
    threads = share_threads(config.distributed.threads, refiners + avatars)
    with ray_session(refiners + avatars + helpers, dashboard=dashboard, variables=thread_variables(threads)):
        import ray

        # Before GPUs are asked for, where a CPU is at hand: what is wrong with a photo is known without them.
        cpus = [room.cpus for room in total_rooms()]
        if max(cpus, default=0.0) >= 1 and not work.survey(sum(cpus)):
            return []
        placement = plan(
            device=config.device,
            gpus=ray.cluster_resources().get("GPU", 0.0),
            refiners=refiners,
            avatars=avatars,
            labels=[node.get("Labels", {}) for node in ray.nodes() if node["Alive"]],
            refine_gpus=config.distributed.refine_gpus,
            reconstruct_gpus=config.distributed.reconstruct_gpus,
        )
        await_room(placement, refiners, avatars, config.distributed.wait, say, helpers=min(helpers, 1))
        return Coordinator(work, config, placement, refiners, avatars, threads).run()


class _Jobs:
    """Jobs that are all ready; see :class:`zero1toa.distributed.coordinator.Work`."""

    def __init__(self, jobs: Sequence[Job], progress: Progress) -> None:
        self._ready = deque((str(index), job) for index, job in enumerate(jobs))
        self._progress = progress
        self.outcomes: dict[str, GenerationResult | Exception] = {}

    def survey(self, cpus: float) -> bool:
        return self.more()

    def placed(self, placement: Placement) -> None:
        pass

    def take(self) -> tuple[str, Job] | None:
        return self._ready.popleft() if self._ready else None

    def more(self) -> bool:
        return bool(self._ready)

    def references(self) -> Sequence[Any]:
        return ()

    def begun(self, key: str) -> None:
        pass

    def event(self, key: str, event: ProgressEvent) -> None:
        self._progress(event)

    def ended(self, key: str, outcome: Outcome | Exception) -> None:
        self.outcomes[key] = outcome if isinstance(outcome, Exception) else outcome.result

    def tick(self, load: Load | None) -> None:
        pass
