"""The portraits of a batch without its cluster: what is known of each from its events, and what its row says."""

import dataclasses

import pytest
import ray
from fleet import fleet
from tiny import tiny_config, tiny_portrait

from zero1toa.batch.job_file import config_digest
from zero1toa.batch.ledger import Ledger
from zero1toa.distributed.placement import Placement
from zero1toa.distributed.portraits import Portraits
from zero1toa.distributed.reconstruction import Outcome
from zero1toa.errors import BackboneError
from zero1toa.storage import Storage
from zero1toa.symgen.loop import generate_serial

REFINER, TRAINER = 0.75, 0.25  # shares of a GPU


class Task:
    """Stands for a task of Ray: it is done here and now."""

    def __init__(self, function):
        self.function = function

    def options(self, **options):
        return self

    def remote(self, *arguments):
        return Made(self.function(*arguments))


@dataclasses.dataclass(eq=False)
class Made:
    value: object


class StopError(Exception):
    pass


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """A batch of one portrait, which a trainer has just begun, with the trainer's job."""
    monkeypatch.setattr(ray, "remote", Task)
    monkeypatch.setattr(ray, "wait", lambda references, **options: (references, []))
    monkeypatch.setattr(ray, "get", lambda reference: reference.value)
    output = Storage(tmp_path / "out")
    portraits = Portraits(
        fleet(tmp_path / "photos", output, 1, "seed=7"),
        Ledger(output),
        output,
        "job-1",
        look_ahead=1,
        retry_failed=False,
        keep_dataset=True,
        background=(1.0, 1.0, 1.0),
        alive=lambda load: None,
        heard=lambda key, event: None,
    )
    portraits.placed(Placement({"num_gpus": REFINER}, {"num_gpus": TRAINER}, {}))
    seen = [dict(portraits.doing)]
    while (taken := portraits.take()) is None:
        portraits.tick(None)
        seen.append(dict(portraits.doing))
    assert {"p0": "waiting"} in seen
    assert {"p0": "preparing"} in seen
    portraits.begun("p0")
    return portraits, taken[1]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Events and result of an avatar whose process ended between two checkpoints and began again."""
    events, folder = [], tmp_path_factory.mktemp("generated")

    def stop(event):
        events.append(event)
        if (event.kind, event.iteration) == ("iteration", 7):
            raise StopError

    with pytest.raises(StopError):
        generate_serial(tiny_portrait(), tiny_config(), folder, stop)
    result = generate_serial(tiny_portrait(), tiny_config(), folder, events.append)
    assert sum(event.kind == "answered" for event in events) > result.refined
    return events, result


def test_a_failed_portrait_keeps_the_time_that_was_spent_on_it(batch, generated, tmp_path):
    portraits, _ = batch
    events, result = generated
    for event in events[:-1]:
        portraits.event("p0", event)
    portraits.ended("p0", BackboneError("spatial/jawOpen could not be refined"))
    row = Ledger(Storage(tmp_path / "out")).rows()["p0"]
    assert (row.state, row.reason) == ("failed", "BackboneError: spatial/jawOpen could not be refined")
    phases = {name: result.timings[name] for name in ("encode", "denoise", "decode")}
    assert {name: row.seconds[name] for name in phases} == pytest.approx(phases)
    assert row.seconds["total"] == events[-2].seconds
    assert row.seconds["triage"] > 0
    assert row.gpu_seconds == pytest.approx(REFINER * sum(phases.values()) + TRAINER * events[-2].seconds)


def test_an_avatar_that_cannot_be_measured_keeps_all_its_phases(batch, generated, tmp_path):
    portraits, _ = batch
    events, result = generated
    for event in events:
        portraits.event("p0", event)
    portraits.ended("p0", RuntimeError("cannot be read back"))
    row = Ledger(Storage(tmp_path / "out")).rows()["p0"]
    assert {**result.timings, "total": result.seconds}.items() <= row.seconds.items()


def test_a_portrait_whose_trainer_said_nothing_has_no_time_of_it(batch, tmp_path):
    portraits, _ = batch
    portraits.ended("p0", BackboneError("no folder"))
    row = Ledger(Storage(tmp_path / "out")).rows()["p0"]
    assert set(row.seconds) == {"triage", "prepare"}
    assert row.gpu_seconds == 0


def test_a_finished_avatar_is_measured_before_it_is_done(batch, generated):
    portraits, _ = batch
    events, result = generated
    stages = []
    for event in events:
        portraits.event("p0", event)
        stages.append(portraits.doing["p0"])
    assert stages == [*["training"] * (len(events) - 1), "finishing"]
    portraits.begun("p0")  # its trainer died while it measured
    assert portraits.doing == {"p0": "training"}
    portraits.event("p0", events[-1])
    portraits.ended("p0", Outcome(result))
    assert portraits.doing == {}


def test_the_row_counts_what_nobody_answered_and_names_the_portraits_own_configuration(batch, generated, tmp_path):
    portraits, job = batch
    _, result = generated
    ended = dataclasses.replace(result, requested=11, refined=6, superseded=2, expired=1)
    portraits.ended("p0", Outcome(ended))
    row = Ledger(Storage(tmp_path / "out")).rows()["p0"]
    counts = {name: row.metrics[name] for name in ("refined", "superseded", "expired", "unanswered")}
    assert counts == {"refined": 6, "superseded": 2, "expired": 1, "unanswered": 2}
    assert row.seconds["total"] == result.seconds
    refining = sum(result.timings[name] for name in ("encode", "denoise", "decode"))
    assert row.gpu_seconds == pytest.approx(REFINER * refining + TRAINER * result.seconds)
    assert job.config.seed == 7
    assert row.config == config_digest(job.config)
