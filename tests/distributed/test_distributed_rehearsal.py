"""The simulation against a fleet of the real dispatcher, stores and actors, whose trainers and refiners sleep."""

import pytest

from zero1toa.distributed.rehearsal import Rehearsal, rehearse, simulated
from zero1toa.distributed.session import ray_session
from zero1toa.distributed.simulation.simulate import simulate
from zero1toa.storage import Storage

# Seconds of sleep per update, so that what the system itself costs (hundredths of a second) is a small share.
FLEETS = {
    "trainers wait": Rehearsal(refiners=2, avatars=2, updates=4, interval=5, iteration_seconds=0.6, clip_seconds=3.0),
    "refiners are busy": Rehearsal(
        refiners=1, avatars=3, updates=4, interval=5, iteration_seconds=0.3, clip_seconds=2.0
    ),
    "window 2": Rehearsal(
        refiners=2, avatars=2, updates=8, interval=5, iteration_seconds=0.6, clip_seconds=3.0, window=2, slack=1.0
    ),
    "micro-batches": Rehearsal(
        refiners=1,
        avatars=3,
        updates=4,
        interval=5,
        iteration_seconds=0.3,
        clip_seconds=2.0,
        micro_batch=2,
        marginal=0.5,
    ),
}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_session(4):
        yield


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FLEETS)
def test_the_simulation_foretells_a_fleet_within_five_percent(name, tmp_path):
    told = simulate(simulated(FLEETS[name]))
    rehearsals = []
    for attempt in range(3):
        rehearsals.append(rehearse(FLEETS[name], Storage(tmp_path / str(attempt))))
        if rehearsals[-1].seconds <= 1.05 * told.makespan:
            break  # whatever else the machine does can only make a rehearsal longer
    real = min(rehearsals, key=lambda one: one.seconds)
    assert 0.999 * told.makespan <= real.seconds <= 1.05 * told.makespan
    assert real.effective_interval == pytest.approx(told.effective_interval, rel=0.05)
    assert (real.superseded, real.expired) == (0, 0)
