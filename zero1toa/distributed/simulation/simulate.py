"""Simulates a batch, and sums up what happened."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from zero1toa.distributed.simulation.fleet import Fleet
from zero1toa.distributed.simulation.records import Moment, Records
from zero1toa.distributed.simulation.settings import Settings
from zero1toa.distributed.simulation.timeline import Timeline


@dataclasses.dataclass(frozen=True)
class Percentiles:
    """Half, and nineteen in twenty, are no larger.

    Attributes:
        p50: median.
        p95: 95th percentile.
    """

    p50: float
    p95: float


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast it went during a time.

    Attributes:
        seconds: the time's length.
        clips_per_second: clips taken in.
        avatars_per_hour: what that is in avatars.
        refiners_busy: share of the refiners' machine time with a request in hand.
        trainers_busy: share of the trainers' machine time with training or rendering.
    """

    seconds: float
    clips_per_second: float
    avatars_per_hour: float
    refiners_busy: float
    trainers_busy: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What came out of a simulation.

    Attributes:
        done: avatars that were finished.
        failed: avatars that were given up: one of their clips was, or their trainer died three times without gaining
            an iteration.
        makespan: seconds from the beginning to the last avatar's end.
        ramp: seconds until all trainers had an avatar and all refiners were up.
        tail: seconds from the first trainer that found no portrait left to the end.
        whole: rates from beginning to end.
        steady: rates between ramp and tail, or None where these touch.
        wait: seconds that a request waited for a refiner.
        age_seconds: seconds between a clip's render and its refined version.
        age_iterations: training iterations between them.
        effective_interval: training iterations for each clip that came into a dataset.
        requests: requests of all avatars; each ended in one of the following ways.
        committed: came into the dataset.
        superseded: came second.
        expired: came too late.
        given_up: failed three times.
        unanswered: were still open when their avatar had ended.
        gpu_hours: GPU hours held by refiners and trainers, for each finished avatar.
        refiner_deaths: refiners that lost their machine.
        trainer_deaths: trainers that lost theirs.
        clips_lost: clips that refiners had in hand when they died.
        iterations_redone: training iterations lost with trainers.
        leases_expired: leases that ran out though the refiner lived.
    """

    done: int
    failed: int
    makespan: float
    ramp: float
    tail: float
    whole: Rates
    steady: Rates | None
    wait: Percentiles
    age_seconds: Percentiles
    age_iterations: Percentiles
    effective_interval: float
    requests: int
    committed: int
    superseded: int
    expired: int
    given_up: int
    unanswered: int
    gpu_hours: float
    refiner_deaths: int
    trainer_deaths: int
    clips_lost: int
    iterations_redone: int
    leases_expired: int


def simulate(settings: Settings) -> Report:
    """Let a batch run on a simulated clock; the same settings give the same report.

    Raises:
        ConfigError: if machines are lost so often that a real batch would end.
    """
    timeline = Timeline()
    records = Records.on(timeline)
    fleet = Fleet(settings, timeline, records)
    fleet.start()
    timeline.run(lambda: fleet.over)
    return _report(settings, records, fleet)


def _report(settings: Settings, records: Records, fleet: Fleet) -> Report:
    end, done = records.moment(), len(fleet.done)
    states = [avatar.state for avatar in (*fleet.done, *fleet.failed)]
    endings: Counter[str] = Counter()
    for state in states:
        endings.update(state.endings)
    own = sum(avatar.state.endings.get("committed", 0) for avatar in fleet.done)
    # Clips of an avatar, as they are counted between two moments; those redone after a death count again.
    clips_each = end.answers / max(done, 1)
    full, emptying = fleet.full, fleet.emptying or end
    gpus = end.refining_machines * settings.refine_gpus + end.training_machines * settings.reconstruct_gpus
    return Report(
        done=done,
        failed=len(fleet.failed),
        makespan=end.seconds,
        ramp=(full or emptying).seconds,
        tail=end.seconds - emptying.seconds,
        whole=_rates(Moment(0, 0, 0, 0, 0, 0), end, clips_each),
        steady=_rates(full, emptying, clips_each) if full is not None and full.seconds < emptying.seconds else None,
        wait=_percentiles(records.waits),
        age_seconds=_percentiles(records.age_seconds),
        age_iterations=_percentiles(records.age_iterations),
        effective_interval=settings.iterations * done / max(own, 1),
        requests=sum(state.submitted for state in states),
        committed=endings["committed"],
        superseded=endings["superseded"],
        expired=endings["expired"],
        given_up=endings["failed"],
        unanswered=sum(len(state.outstanding) for state in states),
        gpu_hours=gpus / 3600 / max(done, 1),
        refiner_deaths=records.refiner_deaths,
        trainer_deaths=records.trainer_deaths,
        clips_lost=records.clips_lost,
        iterations_redone=records.iterations_redone,
        leases_expired=records.leases_expired,
    )


def _rates(begin: Moment, end: Moment, clips_each: float) -> Rates:
    seconds = end.seconds - begin.seconds
    clips = (end.answers - begin.answers) / seconds
    return Rates(
        seconds=seconds,
        clips_per_second=clips,
        avatars_per_hour=3600 * clips / clips_each if clips_each else 0.0,
        refiners_busy=_share(end.refining - begin.refining, end.refining_machines - begin.refining_machines),
        trainers_busy=_share(end.training - begin.training, end.training_machines - begin.training_machines),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _percentiles(values: Sequence[float]) -> Percentiles:
    if not values:
        return Percentiles(0.0, 0.0)
    half, most = np.percentile(np.asarray(values), [50, 95])
    return Percentiles(float(half), float(most))
