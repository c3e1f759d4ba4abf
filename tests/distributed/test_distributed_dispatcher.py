"""The dispatcher without Ray: asyncio calls on a clock that the test turns."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zero1toa.distributed.dispatcher import Dispatcher
from zero1toa.distributed.limits import share_threads
from zero1toa.distributed.placement import plan
from zero1toa.distributed.records import DatasetRef, Order
from zero1toa.distributed.session import sweep
from zero1toa.errors import ConfigError
from zero1toa.symgen.refinery import Failure
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.types import LandmarkTrack, Receipt, RefineRequest, SampleKey


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def order(name, avatar="ada"):
    track = LandmarkTrack(np.zeros((1, 478, 2), np.float32), np.ones(1, bool), np.zeros(1, bool))
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    request = RefineRequest(avatar, SampleKey("spatial", name), 0, 0, 0, frames, track, 1, "fake", 0)
    return Order(request, DatasetRef(avatar, Path("x"), StalenessPolicy(1)))


def receipt(order, status="committed"):
    return Receipt(order.request.request_id, order.request.key, 1, 1, status)


def test_work_goes_out_and_answers_come_back():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        waiting = asyncio.create_task(dispatcher.next("w1", 10))
        asking = asyncio.create_task(dispatcher.answers("ada", [a.request.request_id], 10))
        await dispatcher.submit(a)
        assert (await waiting).order is a
        await dispatcher.submit(a)  # a repeated submission
        assert (await dispatcher.next("w2", 0)).kind == "idle"
        await dispatcher.done("ada", receipt(a))
        # The question may have been asked before the submission; it is then told to submit again, and asks anew.
        await asking
        answers, lost = await dispatcher.answers("ada", [a.request.request_id], 10)
        assert (answers, lost) == ([receipt(a)], [])
        await dispatcher.submit(a)  # served already: the answer stays
        assert (await dispatcher.next("w2", 0)).kind == "idle"
        await dispatcher.close()
        assert (await dispatcher.next("w1", 10)).kind == "closed"

    asyncio.run(scenario())


def test_a_lost_request_is_asked_for_again():
    async def scenario():
        restarted, a = Dispatcher(), order("a")
        answers, lost = await restarted.answers("ada", [a.request.request_id], 10)
        assert (answers, lost) == ([], [a.request.request_id])
        await restarted.done("ada", receipt(a))  # by a worker that had taken it from the old one
        assert (await restarted.answers("ada", [a.request.request_id], 10))[0] == [receipt(a)]

    asyncio.run(scenario())


def test_a_dead_workers_request_goes_to_the_next_one_and_is_given_up_after_three():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        await dispatcher.submit(a)
        for number in range(3):
            assert (await dispatcher.next(f"w{number}", 0)).order is a
            if number == 1:
                await dispatcher.fail(a.request.request_id, "w1", "w1: out of memory")
            else:
                await dispatcher.release(f"w{number}", f"w{number} died")
        assert (await dispatcher.next("w3", 0)).kind == "idle"
        answers, lost = await dispatcher.answers("ada", [a.request.request_id], 0)
        assert answers == [Failure(a.request.request_id, "w0 died; w1: out of memory; w2 died")]
        assert lost == []
        await dispatcher.submit(a)  # asked for again later: three new attempts
        assert (await dispatcher.next("w4", 0)).order is a

    asyncio.run(scenario())


def test_a_worker_that_died_while_waiting_is_given_nothing():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        orphan = asyncio.create_task(dispatcher.next("w1", 60))
        await asyncio.sleep(0)  # it waits now; its process dies, and nobody hears its answer
        await dispatcher.release("w1", "w1 died")
        await dispatcher.submit(a)
        assert (await orphan).kind == "closed"
        assert (await dispatcher.next("w2", 0)).order is a

    asyncio.run(scenario())


def test_a_hanging_workers_lease_runs_out():
    async def scenario():
        clock = Clock()
        dispatcher = Dispatcher(clock)
        for name in "abc":  # three services of 30 s set the lease to 90 s
            await dispatcher.submit(order(name))
            await dispatcher.next("w1", 0)
            clock.now += 30
            await dispatcher.done("ada", receipt(order(name)))
        await dispatcher.submit(order("d"))
        assert (await dispatcher.next("w1", 0)).kind == "work"
        clock.now += 89
        assert (await dispatcher.next("w2", 0)).kind == "idle"
        clock.now += 1
        assert (await dispatcher.next("w2", 0)).kind == "work"
        await dispatcher.done("ada", receipt(order("d")))  # by w1 after all
        assert (await dispatcher.next("w2", 0)).kind == "idle"

    asyncio.run(scenario())


def test_an_expired_clip_may_be_asked_for_again():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        await dispatcher.submit(a)
        await dispatcher.next("w1", 0)
        await dispatcher.done("ada", receipt(a, "expired"))
        await dispatcher.submit(a)
        assert (await dispatcher.next("w1", 0)).order is a

    asyncio.run(scenario())


def test_answers_are_kept_for_their_own_avatar():
    async def scenario():
        dispatcher, a, b = Dispatcher(), order("a", "ada"), order("a", "bob")
        for one in (a, b):
            await dispatcher.submit(one)
            await dispatcher.next("w1", 0)
            await dispatcher.done(one.request.avatar, receipt(one))
        await dispatcher.answers("ada", ["another id"], 0)  # ada has taken in what it had asked for
        assert await dispatcher.answers("ada", [a.request.request_id], 0) == ([], [a.request.request_id])
        assert (await dispatcher.answers("bob", [b.request.request_id], 0))[0] == [receipt(b)]
        await dispatcher.forget("bob")
        assert (await dispatcher.answers("bob", [b.request.request_id], 0))[0] == []

    asyncio.run(scenario())


def gpus(placement):
    return placement.refinement["num_gpus"], placement.reconstruction["num_gpus"]


def test_placement_shares_gpus():
    assert gpus(plan(device="cpu", gpus=8, refiners=1, avatars=1)) == (0, 0)
    assert gpus(plan(device="auto", gpus=0, refiners=1, avatars=1)) == (0, 0)
    assert gpus(plan(device="auto", gpus=8, refiners=6, avatars=8)) == (1, 0.25)
    with pytest.raises(ConfigError, match="no GPU"):
        plan(device="cuda", gpus=0, refiners=1, avatars=1)


@pytest.mark.parametrize(("count", "refiners", "avatars"), [(1, 1, 1), (1, 1, 2), (2, 2, 3), (4, 4, 6), (3, 7, 9)])
def test_placement_on_few_gpus_fits_without_splitting_an_actor(count, refiners, avatars):
    refine, reconstruct = gpus(plan(device="auto", gpus=count, refiners=refiners, avatars=avatars))
    assert 0 < refine == reconstruct <= 1
    assert int(1 / refine + 1e-9) * count >= refiners + avatars


def test_placement_prefers_labelled_nodes_where_there_are_some():
    placement = plan(device="cpu", gpus=0, refiners=1, avatars=1, labels=[{"role": "refine"}, {}])
    assert placement.refinement["label_selector"] == {"role": "refine"}
    assert "fallback_strategy" in placement.refinement
    assert "label_selector" not in placement.reconstruction


def test_folders_of_killed_processes_are_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {f"z1a-{dead.pid}-x": False, f"z1a-{os.getpid()}-x": True, "z1a-x": True, "other-1-x": True}
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
    sweep(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_threads_are_shared():
    assert share_threads(3, 2) == 3
    assert share_threads(0, 10_000) == 1
