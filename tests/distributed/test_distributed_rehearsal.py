"""The simulation foretells a real fleet: its dispatcher, stores and actors, with trainers and refiners that sleep."""

import statistics

import pytest

from zero1toa.distributed.rehearsal import Rehearsal, rehearse
from zero1toa.distributed.session import ray_session
from zero1toa.distributed.simulation.settings import Settings
from zero1toa.distributed.simulation.simulate import simulate
from zero1toa.storage import Storage


def settings(what: Rehearsal) -> Settings:
    """The same fleet for the simulation, without what a rehearsal does not have."""
    return Settings(
        portraits=what.avatars,
        refiners=what.refiners,
        at_once=what.avatars,
        iterations=what.updates * what.interval,
        update_interval=what.interval,
        window=what.window,
        slack=what.slack,
        stages=(),
        iteration_seconds=what.iteration_seconds,
        render_seconds=0.0,
        refine_seconds=what.clip_seconds,
        refine_variation=0.0,
        lease_seconds=0.0,
        commit_seconds=0.0,
        prepare_seconds=0.0,
        look_ahead=what.avatars,
        finish_seconds=0.0,
        refiner_start_seconds=0.0,
        trainer_start_seconds=0.0,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        # Long enough that what a busy machine adds to a clip, some ten milliseconds, is within the five percent.
        Rehearsal(refiners=2, avatars=2, updates=8, interval=5, iteration_seconds=0.3, clip_seconds=1.5),
        Rehearsal(refiners=2, avatars=4, updates=8, interval=5, iteration_seconds=0.15, clip_seconds=1.5),
        Rehearsal(
            refiners=2, avatars=2, updates=8, interval=5, iteration_seconds=0.3, clip_seconds=1.5, window=2, slack=1.0
        ),
    ],
    ids=["trainers wait", "refiners are busy", "window 2"],
)
def test_the_simulation_agrees_within_five_percent(what: Rehearsal, tmp_path):
    with ray_session(2):
        real = rehearse(what, Storage(tmp_path))
    told = simulate(settings(what))
    assert real.seconds == pytest.approx(told.makespan, rel=0.05)
    assert real.clips / real.seconds == pytest.approx(told.whole.clips_per_second, rel=0.05)
    assert real.effective_interval == pytest.approx(told.effective_interval, rel=0.05)
    assert statistics.median(real.ages) == pytest.approx(told.age_iterations.p50, abs=1)
