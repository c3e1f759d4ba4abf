"""A fleet of the real dispatcher, stores and actors, whose trainers and refiners sleep: what it does, and how long."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import workers

from zero1toa.config import Config
from zero1toa.distributed.dispatcher import Dispatcher
from zero1toa.distributed.records import DatasetRef, Order, Refined
from zero1toa.distributed.refinement import RefinementActor
from zero1toa.distributed.refinery import RayRefinery
from zero1toa.distributed.rehearsal import Rehearsal, SleepingTrainer, rehearse, simulated
from zero1toa.distributed.session import ray_session
from zero1toa.distributed.simulation.simulate import simulate
from zero1toa.distributed.store_actor import start_stores
from zero1toa.errors import BackboneError
from zero1toa.storage import Storage
from zero1toa.symgen.alternation import alternate
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.symgen.store import Reference, SymGENStore
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey

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
def test_the_simulation_foretells_what_a_fleet_does(name, tmp_path):
    told = simulate(simulated(FLEETS[name]))
    real = rehearse(FLEETS[name], Storage(tmp_path))
    # A fleet that sleeps is never faster. How little slower it is depends on the machine (benchmarks/fleet.py); a wait
    # too many in each round would be a third or more.
    assert 0.999 * told.makespan <= real.seconds <= 1.25 * told.makespan
    assert real.effective_interval == pytest.approx(told.effective_interval, rel=0.05)
    assert (real.superseded, real.expired) == (0, 0)
    assert real.clips == told.committed
    assert real.busy == pytest.approx((told.steady or told.whole).refiners_busy, abs=0.1)  # while all were in work
    ages = told.age_iterations
    assert np.percentile(real.ages, [50, 95]) == pytest.approx([ages.p50, ages.p95], rel=0.05)


def test_a_request_that_nobody_can_serve_fails_its_avatar_and_no_other(tmp_path):
    import ray

    what = Rehearsal(refiners=2, avatars=2, updates=4, interval=2, iteration_seconds=0, clip_seconds=0)
    policy = StalenessPolicy(what.interval)
    dispatcher = ray.remote(Dispatcher).options(num_cpus=0).remote()
    stores = start_stores("sleep", 2, {"num_cpus": 0})
    served = []

    def refine(requests, reference):
        (request,) = requests
        served.append(request.request_id)
        if request.avatar == "cursed" and request.render_step >= 4:
            raise ValueError("the picture is not finite")
        return [request.frames], {"denoise": 0.0}

    def train(name):
        root = Storage(tmp_path / name)
        SymGENStore(root / "dataset", name).put_reference(
            Reference(np.zeros((8, 8, 4), np.uint8), np.zeros((478, 2), np.float32))
        )
        dataset = DatasetRef(name, root / "dataset", policy)
        trainer = SleepingTrainer(what, name)
        refinery = RayRefinery(dataset, dispatcher, stores[0], lambda: False)
        return alternate(trainer, refinery, policy, RunFolder(root, name), lambda event: None)

    with ThreadPoolExecutor(4) as threads:
        workers = [RefinementActor(f"w{number}", Config(), dispatcher, stores, 1) for number in range(2)]
        serving = [threads.submit(worker.serve, refine) for worker in workers]
        runs = [threads.submit(train, name) for name in ("cursed", "lucky")]
        with pytest.raises(BackboneError, match=r"in 3 attempts: w\d: ValueError: the picture is not finite") as error:
            runs[0].result(60)
        assert runs[1].result(60)
        ray.get(dispatcher.close.remote())
        assert sum(worker.result(60) for worker in serving) == 2 + 4  # clips that were refined
    assert str(error.value).startswith("spatial/clip-02")  # the third update
    (cursed,) = {request for request in served if served.count(request) > 1}
    assert served.count(cursed) == 3
    for actor in (dispatcher, *stores):
        ray.kill(actor)


def test_the_next_request_is_fetched_before_a_refinement_ends(tmp_path):
    import ray

    dispatcher = ray.remote(Dispatcher).options(num_cpus=0).remote()
    stores = start_stores("sleep", 3, {"num_cpus": 0})
    leased, late = [], threading.Event()

    def refine(requests, reference):
        (request,) = requests
        late.wait(0.2)  # nobody sets it: that is how long a refinement takes here
        if request.avatar == "cleo":  # the third of the first round: until its worker has two requests in hand
            for _ in range(100):
                leased.append(ray.get(dispatcher.load.remote()).leased)
                if leased[-1] == 2:
                    break
                late.wait(0.1)
        return [request.frames], {"denoise": 0.0}

    worker = RefinementActor("w", Config(), dispatcher, stores, 1)
    requests = []
    for name in ("ada", "bob", "cleo", "dana"):
        dataset = DatasetRef(name, Storage(tmp_path / name), StalenessPolicy(1))
        frames, track = (
            np.zeros((1, 8, 8, 3), np.uint8),
            LandmarkTrack(np.zeros((1, 478, 2), np.float32), *np.ones((2, 1), bool)),
        )
        requests.append(RefineRequest(name, SampleKey("spatial", "clip"), 0, 0, 0, frames, track, 1, "sleep", 0))
        payload = (ray.put(requests[-1]),)
        order = Order(requests[-1].request_id, dataset, frames.shape, payload)
        ray.get(dispatcher.ask.remote(name, [order], [order.request_id], 0))
    with ThreadPoolExecutor(1) as thread:
        serving = thread.submit(worker.serve, refine)
        answers = [ray.get(dispatcher.ask.remote(r.avatar, [], [r.request_id], 60))[0] for r in requests]
        ray.get(dispatcher.close.remote())
        assert serving.result(60) == 4
    assert [answer.status for (answer,) in answers] == ["committed"] * 4
    assert leased[-1] == 2
    for actor in (dispatcher, *stores):
        ray.kill(actor)


def test_a_store_that_dies_in_the_middle_of_commits_loses_and_tears_none(tmp_path):
    import ray

    (store,) = start_stores("none", 3, {"num_cpus": 0})
    datasets = [DatasetRef(name, Storage(tmp_path / name), StalenessPolicy(1)) for name in ("ada", "bob", "cleo")]
    frames = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    track = LandmarkTrack(np.zeros((2, 478, 2), np.float32), np.ones(2, bool), np.zeros(2, bool))
    killed, over = [], threading.Event()

    def client(dataset):
        number = 0
        while not over.is_set() or number < 20:
            key = SampleKey("spatial", f"clip-{number}")
            request = RefineRequest(dataset.avatar, key, 0, 0, 0, frames, track, 1, "none", number)
            answer = ray.get(store.commit.remote(dataset, Refined(request, frames, {})))
            assert answer.status in ("committed", "duplicate")  # a call that was repeated after the death
            number += 1
        return number

    def strike():
        """Kill the store, three times, when it has written pictures and not yet their record."""
        while len(killed) < 3:
            pids = [pid for pid in workers("ray::StoreActor", os.getpid()) if pid not in killed]
            in_the_middle = any(
                len(list(tmp_path.glob(f"{one.avatar}/objects/*/*/*.npz")))
                > len(list(tmp_path.glob(f"{one.avatar}/commits/*.json")))
                for one in datasets
            )
            if pids and in_the_middle:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
        over.set()

    with ThreadPoolExecutor(4) as threads:
        striking = threads.submit(strike)
        counts = list(threads.map(client, datasets))
        striking.result()
    ray.get([store.close.remote(dataset) for dataset in datasets])
    ray.kill(store)
    assert len(killed) == 3
    for dataset, count in zip(datasets, counts, strict=True):
        opened = SymGENStore(dataset.root, dataset.avatar)
        records = opened.records()
        assert [record.sequence for record in records] == list(range(1, count + 1))
        assert {record.key.name for record in records} == {f"clip-{number}" for number in range(count)}
        for record in records:
            assert np.array_equal(opened.load(record.key, record.version), frames)
