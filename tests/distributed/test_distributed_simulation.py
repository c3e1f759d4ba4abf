"""The simulation against closed formulas, cases worked out by hand, and the real loop on a clock that it moves."""

import contextlib
import dataclasses
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from zero1toa.commands.simulate import print_simulation
from zero1toa.config import Config, LoopConfig
from zero1toa.distributed.simulation import bounds
from zero1toa.distributed.simulation.fleet import Fleet
from zero1toa.distributed.simulation.records import Records
from zero1toa.distributed.simulation.settings import Settings, read_settings
from zero1toa.distributed.simulation.simulate import simulate
from zero1toa.distributed.simulation.timeline import Timeline
from zero1toa.errors import ConfigError, OutputError
from zero1toa.storage import Storage
from zero1toa.symgen.alternation import alternate
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.types import LandmarkTrack, Receipt, RefineRequest, SampleKey

# Nothing but training and refinement, and neither varies.
PLAIN = Settings(
    portraits=1,
    refiners=1,
    iterations=300,
    update_interval=30,
    stages=(),
    iteration_seconds=1 / 3,
    render_seconds=0,
    refine_seconds=30,
    refine_variation=0,
    lease_seconds=0,
    commit_seconds=0,
    prepare_seconds=0,
    look_ahead=1000,
    finish_seconds=0,
    refiner_start_seconds=0,
    trainer_start_seconds=0,
    restart_seconds=0,
)


def settings(**values):
    return dataclasses.replace(PLAIN, **values)


def machine_repair(refiners, avatars, service, think):
    """Utilisation of R servers by N customers, M/M/R//N: birth and death over the number in service or waiting.

    p(k) = p(k - 1) (N - k + 1) / think / (min(k, R) / service); busy servers on average over R.
    """
    weights = [1.0]
    for k in range(1, avatars + 1):
        weights.append(weights[-1] * (avatars - k + 1) / think * service / min(k, refiners))
    busy = sum(min(k, refiners) * weight for k, weight in enumerate(weights))
    return busy / sum(weights) / refiners


# The queue wants exponential services; with those, its utilisation depends on the mean of the thinking time alone.
@pytest.mark.parametrize("thinking", [1.0, 0.0])
@pytest.mark.parametrize(("refiners", "avatars"), [(1, 1), (1, 3), (4, 5), (4, 8), (8, 12)])
def test_utilisation_is_that_of_the_machine_repair_queue(refiners, avatars, thinking):
    updates = 12_000 // avatars
    report = simulate(
        settings(
            portraits=avatars,
            at_once=avatars,
            refiners=refiners,
            iterations=updates,
            update_interval=1,
            iteration_seconds=10,
            checkpoint_every=updates,
            refine_variation=1,
            training_variation=thinking,
        )
    )
    expected = machine_repair(refiners, avatars, 30, 10)
    assert report.steady.refiners_busy == pytest.approx(expected, rel=0.025)
    assert report.steady.clips_per_second == pytest.approx(expected * refiners / 30, rel=0.03)


@pytest.mark.parametrize(
    ("refiners", "avatars", "utilisation", "two", "wait"),
    [(1, 1, 0.75, 1.00, 20), (4, 5, 0.91, 1.00, 35), (4, 6, 0.986, 1.00, 50), (8, 12, 0.99, 1.00, 50)],
)
def test_utilisation_at_windows_of_one_and_two(refiners, avatars, utilisation, two, wait):
    """Figures of an earlier, separate event simulation at a variation of 0.1."""
    values = {"portraits": avatars, "at_once": avatars, "refiners": refiners, "iterations": 6000}
    values |= {"refine_variation": 0.1, "training_variation": 0.1}
    assert simulate(settings(**values)).steady.refiners_busy == pytest.approx(utilisation, abs=0.01)
    ahead = simulate(settings(**values, window=2, slack=1.0))
    assert ahead.steady.refiners_busy == pytest.approx(two, abs=0.01)
    assert ahead.wait.p50 == pytest.approx(wait, abs=1)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("slack", [0.0, 0.5, 1.0, 2.0])
def test_no_schedule_exceeds_the_bounds_and_far_from_the_knee_they_are_reached(window, slack):
    for avatars in (1, 4, 5, 40):
        what = settings(
            portraits=avatars, at_once=avatars, refiners=4, iterations=3000, window=window, slack=slack, max_age=10**6
        )
        rate = simulate(what).steady.clips_per_second
        most = bounds.throughput(what)
        assert rate <= most * 1.015  # each avatar has 100 clips, of which one more or less counts at the ends
        if avatars == 40:
            assert rate == pytest.approx(4 / 30, rel=0.02)
        if avatars == 1 and window == 1 and slack == 0:
            assert rate == pytest.approx(1 / 40, rel=0.01)
    assert bounds.knee(settings(refiners=4)) == pytest.approx(4 * (30 + 10) / 30)


def test_throughput_grows_with_the_refiners():
    rates = {
        refiners: simulate(
            settings(portraits=12, at_once=12, refiners=refiners, iterations=3000, refine_variation=0.1)
        ).steady.clips_per_second
        for refiners in (1, 2, 4, 8)
    }
    for refiners, rate in rates.items():
        assert 0.95 * refiners <= rate / rates[1] <= 1.01 * refiners


def test_alternation_keeps_the_interval_and_no_clip_ages():
    report = simulate(settings(portraits=20, refiners=3, iterations=900, refine_variation=0.5, training_variation=0.3))
    assert report.effective_interval == 30
    assert (report.age_iterations.p50, report.age_iterations.p95) == (0, 0)
    assert (report.superseded, report.expired, report.unanswered) == (0, 0, 0)
    assert report.requests == report.committed == 20 * 30


def test_what_runs_ahead_is_as_old_as_its_slack_and_expires_by_age_and_stage():
    ahead = {"iterations": 900, "window": 2, "slack": 1.0}
    assert simulate(settings(**ahead)).age_iterations.p50 == 30
    # Of 30 requests the last is unanswered, and the first was answered in the middle of training.
    late = simulate(settings(**ahead, max_age=29))
    assert (late.requests, late.unanswered) == (30, 1)
    assert late.expired + late.committed == 29
    assert late.expired >= 28
    staged = simulate(settings(**ahead, stages=(300, 600)))
    assert staged.expired == 2  # the clip that was rendered an interval before each stage


def test_makespan_by_hand():
    # Ten rounds of 10 s of training and 30 s of refinement.
    assert simulate(PLAIN).makespan == pytest.approx(400)
    # Each part by itself: 7 + 5 before, 10 (1 + 0.5 + 30 + 0.25 + 10) in between, 3 after.
    parts = {"prepare_seconds": 7, "trainer_start_seconds": 5, "finish_seconds": 3}
    parts |= {"render_seconds": 1, "lease_seconds": 0.5, "commit_seconds": 0.25}
    assert simulate(settings(**parts)).makespan == pytest.approx(7 + 5 + 10 * 41.75 + 3)
    # The second avatar takes the first one's trainer, and was prepared meanwhile.
    two = simulate(settings(**parts, portraits=2, at_once=1))
    assert two.makespan == pytest.approx(7 + 5 + 2 * (10 * 41.75 + 3))
    assert two.tail == pytest.approx(0)
    assert two.gpu_hours == pytest.approx((two.makespan + 0.25 * (two.makespan - 7)) / 3600 / 2)
    # With nothing prepared ahead of a free trainer's need but one, three trainers begin 7 s after each other.
    slow = simulate(settings(**parts, portraits=3, at_once=3, refiners=3, look_ahead=1))
    assert slow.makespan == pytest.approx(21 + 5 + 10 * 41.75 + 3)
    assert (slow.ramp, slow.tail) == (pytest.approx(26), pytest.approx(14))
    # A refiner that takes 100 s to start holds up the first clip.
    assert simulate(settings(refiner_start_seconds=100)).makespan == pytest.approx(500)
    # Two avatars and one refiner: it works without a pause but for the first's last 10 s of training.
    assert simulate(settings(portraits=2, at_once=2)).makespan == pytest.approx(2 * 10 * 30 + 10)
    # Two requests at once: submitted at 0 and 10 s, answered at 30 and 60 s, and so on; training ends 10 s after the
    # ninth answer, with the tenth request open.
    ahead = simulate(settings(window=2, slack=1.0))
    assert ahead.makespan == pytest.approx(9 * 30 + 10)
    assert ahead.unanswered == 1


def test_commits_hold_up_a_refiner_only_when_they_take_longer_than_refinement():
    values = {"portraits": 8, "at_once": 8, "iterations": 3000}
    assert simulate(settings(**values, commit_seconds=20)).steady.clips_per_second == pytest.approx(1 / 30, rel=0.01)
    assert simulate(settings(**values, commit_seconds=60)).steady.clips_per_second == pytest.approx(1 / 60, rel=0.01)


def test_the_tail_is_widened_when_refiners_are_idle():
    tail = simulate(settings(refiners=2, tail_window=2))
    assert tail.makespan == simulate(settings(refiners=2, window=2, slack=1.0)).makespan
    busy = {"portraits": 3, "at_once": 3, "iterations": 900}
    assert simulate(settings(**busy, tail_window=2)) == simulate(settings(**busy))


def test_micro_batches_pay_below_a_marginal_cost_of_one():
    """About as in an earlier, separate event simulation; alone, four refiners do 480 clips an hour."""
    expected = {(6, 1.0): 465, (8, 1.0): 474, (6, 0.8): 508, (8, 0.8): 538, (6, 0.5): 592, (8, 0.5): 674}
    for (avatars, marginal), rate in expected.items():
        values = {"portraits": avatars, "at_once": avatars, "refiners": 4, "iterations": 9000, "marginal": marginal}
        values |= {"window": 2, "slack": 1.0, "refine_variation": 0.1, "training_variation": 0.3, "micro_batch": 4}
        hour = 3600 * simulate(settings(**values)).steady.clips_per_second
        assert hour == pytest.approx(rate, rel=0.12)
        assert marginal == 0.8 or (hour > 480) == (marginal == 0.5)


def test_spot_refiners_do_what_their_lives_allow():
    rate, start, down, service = 6.0 / 3600, 60.0, 240.0, 30.0
    report = simulate(
        settings(
            portraits=40,
            at_once=40,
            refiners=8,
            iterations=9000,
            checkpoint_every=9000,
            refiner_kills=6,
            refiner_start_seconds=start,
            restart_seconds=down,
        )
    )
    # A life is exponential; of it the start is lost, and so is the clip in hand at its end.
    clips = math.exp(-rate * start) / math.expm1(rate * service)
    assert report.steady.clips_per_second == pytest.approx(8 * clips / (1 / rate + down), rel=0.03)
    assert report.clips_lost <= report.refiner_deaths


def conserved(what):
    """Simulate, and check that everything ended once; returns the report."""
    timeline = Timeline()
    records = Records.on(timeline)
    fleet = Fleet(what, timeline, records)
    fleet.start()
    timeline.run(lambda: fleet.over)
    ended = [avatar.name for avatar in (*fleet.done, *fleet.failed)]
    assert sorted(ended) == sorted(f"portrait-{number}" for number in range(what.portraits))
    for avatar in fleet.done:
        assert avatar.state.step == what.iterations
    for avatar in (*fleet.done, *fleet.failed):
        assert avatar.state.submitted == sum(avatar.state.endings.values()) + len(avatar.state.outstanding)
    report = simulate(what)
    assert report.done + report.failed == what.portraits
    endings = report.committed + report.superseded + report.expired + report.given_up + report.unanswered
    assert endings == report.requests
    assert report.iterations_redone <= report.trainer_deaths * what.checkpoint_every
    assert report.clips_lost <= 2 * what.micro_batch * report.refiner_deaths
    return report


SPOT = {"portraits": 30, "refiners": 3, "iterations": 900, "refiner_kills": 6, "trainer_kills": 6}
SPOT |= {"refiner_start_seconds": 20, "trainer_start_seconds": 10, "restart_seconds": 60, "prepare_seconds": 5}
SPOT |= {"lease_seconds": 0.1, "commit_seconds": 0.3, "render_seconds": 0.5, "refine_variation": 0.5}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"window": 2, "slack": 1.0, "stages": (300, 600)},
        {"window": 3, "slack": 2.5, "max_age": 40, "micro_batch": 3, "at_once": 9},
        {"tail_window": 2, "look_ahead": 1, "checkpoint_every": 45},
        {"refine_variation": 3.0, "training_variation": 2.0},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_everything_ends_once_whatever_dies(more, seed):
    what = settings(**{**SPOT, **more}, seed=seed)
    report = conserved(what)
    assert report.refiner_deaths
    assert report.trainer_deaths
    assert report.done


def test_a_committed_clip_is_not_refined_again():
    what = settings(portraits=10, refiners=2, iterations=3000, trainer_kills=4, checkpoint_every=50)
    report = conserved(what)
    assert report.iterations_redone
    assert report.committed == 10 * 100
    assert report.whole.refiners_busy * 2 * report.makespan == pytest.approx(30 * report.committed)


def test_a_lease_that_is_too_short_gives_a_clip_to_two_refiners():
    # Three services set the lease to three times the slowest; strong variation outlasts it now and then.
    report = conserved(settings(portraits=12, at_once=12, refiners=8, iterations=9000, refine_variation=3.0))
    assert report.leases_expired
    assert report.committed + report.given_up == report.requests


def test_a_clip_that_kills_three_refiners_is_given_up_and_fails_its_avatar():
    report = conserved(settings(portraits=16, refiners=8, at_once=16, iterations=900, refiner_kills=140))
    assert report.given_up
    assert report.failed == report.given_up
    with pytest.raises(ConfigError, match=r"refiner_kills=3600: 27 refiners die in a row"):
        simulate(settings(refiners=8, refiner_kills=3600, refiner_start_seconds=60))
    # A trainer that never outlives its start gains nothing in three lives.
    hopeless = conserved(settings(trainer_kills=3600, trainer_start_seconds=60))
    assert (hopeless.failed, hopeless.trainer_deaths) == (1, 3)


def test_one_seed_gives_one_result():
    what = settings(**SPOT, training_variation=0.2)
    assert simulate(what) == simulate(what)
    assert simulate(what) != simulate(dataclasses.replace(what, seed=1))


class Clock:
    now = 0.0


class Servers:
    """A refinery for the real loop: R servers, first come first served, on a clock that waiting moves."""

    def __init__(self, clock, what):
        self.clock, self.what = clock, what
        self.free = [0.0] * what.refiners
        self.ends = []  # time and request, in order
        self.observed = [(0.0, 0, 0)]
        self.versions, self.ages = {}, []

    def submit(self, request):
        server = self.free.index(min(self.free))
        self.free[server] = max(self.clock.now, self.free[server]) + self.what.refine_seconds
        self.ends.append((self.free[server], self.clock.now, request))
        self.ends.sort(key=lambda end: end[0])

    def answers(self, *, wait):
        if wait:
            self.clock.now = max(self.clock.now, self.ends[0][0])
        due = [end for end in self.ends if end[0] <= self.clock.now + 1e-9]
        self.ends = self.ends[len(due) :]
        self.ages += [self.clock.now - submitted for _, submitted, _ in due]
        return [self.receipt(moment, request) for moment, _, request in due]

    def receipt(self, moment, request):
        _, step, epoch = [one for one in self.observed if one[0] <= moment + 1e-9][-1]
        current = self.versions.get(request.key, 0)
        verdict = self.what.policy.judge(
            base_version=request.base_version,
            current_version=current,
            epoch=request.epoch,
            current_epoch=epoch,
            age=step - request.render_step,
        )
        if verdict == "accept":
            self.versions[request.key] = current = current + 1
        status = "committed" if verdict == "accept" else verdict
        return Receipt(request.request_id, request.key, current, 0, status)

    def observe(self, step, epoch):
        self.observed.append((self.clock.now, step, epoch))

    def flush(self):
        pass

    def settled(self, versions):
        pass


class Loop:
    """What the real loop needs of a reconstruction."""

    stage, requested, notes, seconds, gaussians, avatar_id = "spatial", 0, (), 0.0, (), "ada"

    def __init__(self, clock, what):
        self.clock, self.what, self.iterations = clock, what, what.iterations
        self.config = dataclasses.replace(Config(), loop=LoopConfig(preview_every=0))
        self.step_count = self.submitted = self.refined = self.superseded = self.expired = 0
        self.outstanding, self.versions, self.ages = {}, {}, []
        self.keys = itertools.cycle([SampleKey("spatial", str(number)) for number in range(what.clips)])
        self.track = LandmarkTrack(np.zeros((1, 478, 2), np.float32), np.ones(1, bool), np.zeros(1, bool))

    @property
    def epoch(self):
        return sum(self.step_count >= start for start in self.what.stages)

    @property
    def done(self):
        return self.step_count >= self.iterations

    def step(self):
        self.clock.now += self.what.iteration_seconds
        self.step_count += 1
        return {}

    def request(self):
        self.clock.now += self.what.render_seconds
        key = next(self.keys)
        request = RefineRequest(
            avatar="ada",
            key=key,
            base_version=self.versions.get(key, 0),
            render_step=self.step_count,
            epoch=self.epoch,
            frames=np.zeros((1, 1, 1, 3), np.uint8),
            landmarks=self.track,
            unlocked=1,
            backbone="none",
            seed=0,
        )
        self.submitted += 1
        self.outstanding[request.request_id] = request
        return request

    def accept(self, receipt):
        request = self.outstanding.pop(receipt.request_id)
        self.ages.append(self.step_count - request.render_step)
        self.versions[receipt.key] = receipt.version
        ending = "refined" if receipt.status == "committed" else receipt.status
        setattr(self, ending, getattr(self, ending) + 1)

    @contextlib.contextmanager
    def timed(self, phase):
        yield

    def checkpoint(self, folder, name):
        pass


@pytest.mark.parametrize("seconds", [0.7, 3.3, 7.1, 16.3, 47.9])  # of a refinement; the training between is 10.2
@pytest.mark.parametrize(
    "pace",
    [
        {},
        {"slack": 0.5},
        {"slack": 1.0},
        {"window": 2, "slack": 1.0},
        {"window": 2, "slack": 1.0, "max_age": 20, "stages": (200, 1200)},
        {"window": 2, "slack": 3.0},
        {"window": 3, "slack": 2.4, "max_age": 65, "refiners": 2, "stages": (500,)},
        {"window": 4, "slack": 5.0, "refiners": 3, "clips": 4},
    ],
)
def test_a_simulated_trainer_decides_as_the_real_loop_does(pace, seconds, tmp_path):
    what = settings(**{"iterations": 1500, "refine_seconds": seconds, "render_seconds": 0.2, **pace})
    clock = Clock()
    loop, servers = Loop(clock, what), Servers(clock, what)
    folder = RunFolder(Storage(tmp_path), "ada")
    assert alternate(loop, servers, what.policy, folder, lambda event: None)
    report = simulate(what)
    assert report.makespan == pytest.approx(clock.now)
    assert (report.requests, report.unanswered) == (loop.submitted, len(loop.outstanding))
    assert (report.committed, report.superseded, report.expired) == (loop.refined, loop.superseded, loop.expired)
    assert report.age_iterations.p50 == np.percentile(loop.ages, 50)
    assert report.age_iterations.p95 == np.percentile(loop.ages, 95)
    assert report.age_seconds.p50 == pytest.approx(np.percentile(servers.ages, 50))
    assert report.age_seconds.p95 == pytest.approx(np.percentile(servers.ages, 95))


def test_settings_are_read_and_mistakes_named():
    read = read_settings(["refiners=64", "slack=1", "stages=[100,200]", "refine_seconds=0.5"])
    assert (read.refiners, read.slack, read.stages, read.refine_seconds) == (64, 1.0, (100, 200), 0.5)
    assert read.avatars == 96
    assert read.gpus == 64 + 96 / 4
    assert read.policy == StalenessPolicy(30, 1, 1.0, 300)
    for override, message in {
        "refinners=3": "no setting 'refinners'; did you mean 'refiners'",
        "refiners": "write key=value",
        "refiners=many": "refiners: ",
        "refiners=0": "refiners=0 is out of range; it must be 1 or more",
        "slack=-1": "slack=-1.0 is out of range",
        "iteration_seconds=0": "iteration_seconds=0.0 is out of range; it must be above 0",
        "refine_seconds=nan": "refine_seconds=nan is out of range",
        "window=41": "a window of 41 requests is more than an avatar has clips",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_settings([override])


def test_the_command_prints_and_writes_what_was_simulated(tmp_path):
    console = Console(width=200, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    overrides = ["portraits=6", "refiners=2", "iterations=300", "refiner_kills=20", "prepare_seconds=1"]
    report = print_simulation(overrides, tmp_path / "out" / "simulation.json", console)
    text = console.export_text()
    assert "6 portraits on 2.75 GPUs: 2 refiners, 3 avatars at once, window 1, slack 0" in text
    assert "6 done, 0 failed" in text
    assert f"{report.refiner_deaths} refiners died" in text
    assert f"{report.whole.avatars_per_hour:.1f}" in text
    written = json.loads((tmp_path / "out" / "simulation.json").read_text())
    assert written["settings"]["refiners"] == 2
    assert written["settings"]["avatars"] == 3
    assert written["report"] == json.loads(json.dumps(dataclasses.asdict(report)))
    with pytest.raises(OutputError, match=r"must end in \.json"):
        print_simulation(overrides, tmp_path / "simulation.txt", console)


def test_a_simulation_loads_neither_torch_nor_ray():
    script = (
        "import sys; from zero1toa.commands.simulate import print_simulation; "
        "print_simulation(['portraits=2', 'iterations=30']); print(*({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
