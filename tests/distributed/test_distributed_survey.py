"""What is looked at before machines are asked for, and a cluster whose room is gone. There is no GPU on this one."""

from types import SimpleNamespace

import pytest
import ray
from fleet import fleet
from tiny import tiny_config, tiny_portrait

from zero1toa.batch.records import Entry
from zero1toa.distributed import coordinator, generate
from zero1toa.distributed.batch import run_batch
from zero1toa.distributed.generate import generate_batch
from zero1toa.distributed.records import Job
from zero1toa.distributed.session import ray_session
from zero1toa.errors import ConfigError
from zero1toa.storage import Storage


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_session(2):
        yield


def test_only_a_usable_photo_needs_a_gpu(tmp_path):
    output, photos = Storage(tmp_path / "out"), tmp_path / "photos"
    ((good, config),) = fleet(photos, output, 1, "device=cuda", "distributed.refiners=1")
    entries = []
    for number in range(20):
        path = photos / f"text{number}.jpg"
        path.write_text(f"no picture {number}")
        entries.append((Entry(path.stem, str(path)), config))
    result = run_batch(entries, output, config)
    assert (result.counts["rejected"], len(result.rows), result.served) == (20, 20, ())
    assert output.exists("fleet.html")
    with pytest.raises(ConfigError, match="no GPU"):
        run_batch([*entries, (good, config)], output, config)


def test_a_job_whose_room_was_taken_says_so_and_does_not_hang(tmp_path, monkeypatch):
    """As by another job, between the look at the cluster and the placing of the actors."""

    @ray.remote(num_cpus=2)
    class Other:
        def here(self):
            return True

    def take(*arguments, **options):
        taken.append(Other.remote())
        assert ray.get(taken[0].here.remote())

    taken = []
    monkeypatch.setattr(generate, "await_room", take)
    monkeypatch.setattr(coordinator, "_PATIENCE", 1.0)
    config = tiny_config("distributed.wait=0")
    with pytest.raises(ConfigError, match=r"asked for 1 refiner .* and 1 trainer .*; free in the cluster are 0"):
        generate_batch([Job(tiny_portrait(), Storage(tmp_path / "out"))], config, at_once=1)
    ray.kill(taken[0])
    monkeypatch.undo()
    (outcome,) = generate_batch([Job(tiny_portrait(), Storage(tmp_path / "out"))], tiny_config(), at_once=1)
    assert not isinstance(outcome, Exception)


def test_a_refiner_that_died_had_room_so_that_its_successor_is_waited_for(monkeypatch):
    """Within the first minute nobody has asked yet whether it was placed."""
    monkeypatch.setattr(coordinator, "free_rooms", list)
    monkeypatch.setattr(coordinator, "shortfall", lambda *_, **__: "free in the cluster are 0")

    def waiting():
        waits = object.__new__(coordinator.Coordinator)
        waits._placed, waits._look_for_room, waits._placement = False, 0.0, None
        waits._refiners = SimpleNamespace(placed=lambda: False, ended=lambda reference: "refiner-0 died", count=1)
        waits._trainers = SimpleNamespace(trainings=[], count=1)
        return waits

    with pytest.raises(ConfigError, match="free in the cluster are 0"):
        waiting()._end_without_room()
    killed = waiting()
    killed._refiner_ended("reference")
    killed._end_without_room()
