"""Every refinement request of a run, enumerated by the code that decides them in the run."""

from __future__ import annotations

import dataclasses

from zero1toa.config import Config
from zero1toa.curriculum.schedule import Schedule, build_clips
from zero1toa.curriculum.turns import Turns
from zero1toa.head.protocol import HeadModel
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.types import SampleKey, Stage


@dataclasses.dataclass(frozen=True)
class PlannedRequest:
    """One refinement request.

    Attributes:
        step: training iteration at which the clip is rendered.
        key: the clip.
        unlocked: its open frames.
    """

    step: int
    key: SampleKey
    unlocked: int


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A curriculum stage.

    Attributes:
        stage: its name.
        clips: clips that it has.
        start: iteration from which it is open; None if the run ends before.
        requests: refinement requests for its clips.
        missed: clips of it that are never asked for.
        unlocks: ``(iteration, open frames)``, wherever that number changes while the stage is open.
    """

    stage: Stage
    clips: int
    start: int | None
    requests: int
    missed: int
    unlocks: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class PlannedSchedule:
    """The stages, and all requests in order."""

    stages: tuple[PlannedStage, ...]
    requests: tuple[PlannedRequest, ...]


def plan_schedule(config: Config, head: HeadModel) -> PlannedSchedule:
    """Enumerate a run's requests.

    Every request is taken to be answered at once, as in the serial loop. With a window or slack the same requests are
    made, some of them later; a request that is refused as too old or given up is not foreseen.

    Args:
        config: the run's configuration.
        head: any head model: names and numbers of clips do not depend on it.
    """
    keys = list(build_clips(config.curriculum, head, head.neutral(), config.render.size, config.seed))
    schedule, turns = Schedule(config.curriculum), Turns(config, keys)
    policy = StalenessPolicy(config.loop.update_interval)
    requests: list[PlannedRequest] = []
    requested: dict[SampleKey, int] = {}
    starts: dict[Stage, int] = {}
    unlocks: dict[Stage, list[tuple[int, int]]] = {}
    submitted = 0
    for step in range(config.loop.iterations):
        for stage in schedule.open_stages(step):
            starts.setdefault(stage, step)
            seen, frames = unlocks.setdefault(stage, []), schedule.unlocked(stage, step)
            if not seen or seen[-1][1] != frames:
                seen.append((step, frames))
        while policy.may_submit(step, submitted, 0):
            turn = turns.next(submitted, step, requested)
            if turn is not None:
                requested[turn.key] = submitted
                requests.append(PlannedRequest(step, turn.key, turn.unlocked))
            submitted += 1
    return PlannedSchedule(
        stages=tuple(
            PlannedStage(
                stage=stage,
                clips=sum(key.stage == stage for key in keys),
                start=starts.get(stage),
                requests=sum(request.key.stage == stage for request in requests),
                missed=sum(key.stage == stage and key not in requested for key in keys),
                unlocks=tuple(unlocks.get(stage, ())),
            )
            for stage in dict.fromkeys(key.stage for key in keys)
        ),
        requests=tuple(requests),
    )
