"""The dispatcher without Ray: asyncio calls on a clock that the test turns."""

import asyncio
import dataclasses
import os
import subprocess
import sys

import pytest

from zero1toa.distributed.dispatcher import Dispatcher
from zero1toa.distributed.failures import no_refiner_lives
from zero1toa.distributed.limits import share_threads
from zero1toa.distributed.placement import plan
from zero1toa.distributed.records import DatasetRef, Order
from zero1toa.distributed.session import sweep
from zero1toa.errors import ConfigError
from zero1toa.storage import Storage
from zero1toa.symgen.failure import Failure
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.types import Receipt, SampleKey


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def order(name, avatar="ada", shape=(1, 4, 4, 3)):
    return Order(f"{avatar}-{name}", DatasetRef(avatar, Storage("x"), StalenessPolicy(1)), shape, (None,))


def receipt(order, status="committed"):
    return Receipt(order.request_id, SampleKey("spatial", "clip"), 1, 1, status)


async def submit(dispatcher, *orders):
    for one in orders:
        await dispatcher.ask(one.avatar, [one], [one.request_id], 0)


async def take(dispatcher, worker, patience=0, holding=()):
    """The orders that a worker is given, or the kind of its turn when it gets none."""
    turn = await dispatcher.next(worker, holding, patience)
    return list(turn.orders) or turn.kind


def test_work_goes_out_and_answers_come_back():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        waiting = asyncio.create_task(take(dispatcher, "w1", 10))
        await asyncio.sleep(0)
        asking = asyncio.create_task(dispatcher.ask("ada", [a], [a.request_id], 10))
        assert await waiting == [a]
        await submit(dispatcher, a)  # a repeated submission
        assert await take(dispatcher, "w2") == "idle"
        await dispatcher.done("ada", receipt(a))
        assert await asking == ([receipt(a)], [])
        await submit(dispatcher, a)  # served already: the answer stays
        assert await take(dispatcher, "w2") == "idle"
        assert (await dispatcher.ask("ada", [], [a.request_id], 0))[0] == [receipt(a)]
        await dispatcher.close()
        assert await take(dispatcher, "w1", 10) == "closed"

    asyncio.run(scenario())


def test_a_lost_request_is_asked_for_again():
    async def scenario():
        restarted, a = Dispatcher(), order("a")
        assert await restarted.ask("ada", [], [a.request_id], 10) == ([], [a.request_id])
        await restarted.done("ada", receipt(a))  # by a worker that had taken it from the old one
        assert (await restarted.ask("ada", [], [a.request_id], 10))[0] == [receipt(a)]

    asyncio.run(scenario())


def test_a_request_whose_pictures_are_lost_costs_no_attempt():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        for _ in range(5):
            asking = asyncio.create_task(dispatcher.ask("ada", [a], [a.request_id], 10))
            await asyncio.sleep(0)
            assert await take(dispatcher, "w1") == [a]
            await dispatcher.lost("ada", a.request_id, "w1")
            assert await asking == ([], [a.request_id])

    asyncio.run(scenario())


def test_a_repeated_submission_brings_the_payload_up_to_date():
    async def scenario():
        dispatcher, old = Dispatcher(), order("a")
        new = dataclasses.replace(old, payload=("new",))
        await submit(dispatcher, old, new)
        assert await take(dispatcher, "w1") == [new]

    asyncio.run(scenario())


def test_a_dead_workers_request_goes_to_the_next_one_and_is_given_up_after_three():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        await submit(dispatcher, a)
        for number in range(3):
            assert await take(dispatcher, f"w{number}") == [a]
            if number == 1:
                await dispatcher.fail(a.request_id, "w1", "w1: out of memory")
            else:
                given_up = int(number == 2)
                assert await dispatcher.release(f"w{number}", f"w{number} died") == (False, given_up)
        assert await take(dispatcher, "w3") == "idle"
        answers, lost = await dispatcher.ask("ada", [], [a.request_id], 0)
        assert answers == [Failure(a.request_id, "w0 died; w1: out of memory; w2 died")]
        assert lost == []
        assert (await dispatcher.load()).poisoned == 1
        await submit(dispatcher, a)  # asked for again later: three new attempts
        assert await take(dispatcher, "w4") == [a]

    asyncio.run(scenario())


def test_a_worker_that_died_while_waiting_is_given_nothing():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        orphan = asyncio.create_task(take(dispatcher, "w1", 60))
        await asyncio.sleep(0)  # it waits now; its process dies, and nobody hears its answer
        assert await dispatcher.release("w1", "w1 died") == (True, 0)
        assert await dispatcher.release("w0", "w0 died") == (False, 0)  # while it loaded its weights, say
        await submit(dispatcher, a)
        assert await orphan == "closed"
        assert await take(dispatcher, "w2") == [a]

    asyncio.run(scenario())


def test_a_worker_that_is_to_go_home_finishes_what_it_holds():
    async def scenario():
        dispatcher, a, b, c = Dispatcher(), order("a"), order("b"), order("c")
        await submit(dispatcher, a, b, c)
        assert await take(dispatcher, "w1") == [a]
        waiting = asyncio.create_task(take(dispatcher, "w3", 60))
        assert await waiting == [b]
        await dispatcher.retire("w1")
        await dispatcher.done(a.avatar, receipt(a))  # it still may bring what it has
        assert await take(dispatcher, "w1") == "closed"
        assert (await dispatcher.load()).leased == 1
        assert await take(dispatcher, "w2") == [c]

    asyncio.run(scenario())


def test_a_worker_that_is_to_go_home_is_woken():
    async def scenario():
        dispatcher = Dispatcher()
        waiting = asyncio.create_task(take(dispatcher, "w1", 60))
        await asyncio.sleep(0)
        await dispatcher.retire("w1")
        assert await asyncio.wait_for(waiting, 10) == "closed"

    asyncio.run(scenario())


def test_a_worker_holds_what_it_commits_and_gets_again_what_it_never_heard_of():
    async def scenario():
        dispatcher, a, b = Dispatcher(), order("a"), order("b")
        await submit(dispatcher, a, b)
        assert await take(dispatcher, "w1") == [a]
        assert await take(dispatcher, "w1") == [a]  # the first answer did not arrive
        assert await take(dispatcher, "w1", holding=[a.request_id]) == [b]
        await dispatcher.done("ada", receipt(a))
        assert (await dispatcher.load()).leased == 1

    asyncio.run(scenario())


def test_a_hanging_workers_lease_runs_out():
    async def scenario():
        clock = Clock()
        dispatcher = Dispatcher(clock=clock)
        for name in "abc":  # three services of 30 s set the lease to 90 s
            await submit(dispatcher, order(name))
            await take(dispatcher, "w1")
            clock.now += 30
            await dispatcher.done("ada", receipt(order(name)))
        await submit(dispatcher, order("d"))
        assert await take(dispatcher, "w1") == [order("d")]
        clock.now += 89
        assert await take(dispatcher, "w2") == "idle"
        clock.now += 1
        assert await take(dispatcher, "w2") == [order("d")]
        assert (await dispatcher.load()).expired == 1
        await dispatcher.done("ada", receipt(order("d")))  # by w1 after all
        assert await take(dispatcher, "w2") == "idle"

    asyncio.run(scenario())


def test_an_expired_clip_may_be_asked_for_again():
    async def scenario():
        dispatcher, a = Dispatcher(), order("a")
        await submit(dispatcher, a)
        await take(dispatcher, "w1")
        await dispatcher.done("ada", receipt(a, "expired"))
        await submit(dispatcher, a)
        assert await take(dispatcher, "w1") == [a]

    asyncio.run(scenario())


def test_answers_are_kept_for_their_own_avatar():
    async def scenario():
        dispatcher, a, b = Dispatcher(), order("a", "ada"), order("a", "bob")
        for one in (a, b):
            await submit(dispatcher, one)
            await take(dispatcher, "w1")
            await dispatcher.done(one.avatar, receipt(one))
        await dispatcher.ask("ada", [], ["another id"], 0)  # ada has taken in what it had asked for
        assert await dispatcher.ask("ada", [], [a.request_id], 0) == ([], [a.request_id])
        assert (await dispatcher.ask("bob", [], [b.request_id], 0))[0] == [receipt(b)]
        await dispatcher.forget("bob")
        assert (await dispatcher.ask("bob", [], [b.request_id], 0))[0] == []

    asyncio.run(scenario())


def test_each_worker_is_given_its_even_share_of_what_waits():
    async def scenario():
        dispatcher = Dispatcher(micro_batch=3)
        a, b, c, d, e = (order(name, avatar=name) for name in "abcde")
        other = order("x", avatar="x", shape=(2, 4, 4, 3))
        await submit(dispatcher, a)
        assert await take(dispatcher, "w1") == [a]  # one waits: alone
        await submit(dispatcher, b, other, c, d, e)
        assert await take(dispatcher, "w2") == [b, c, d]  # alike, and at most three
        assert await take(dispatcher, "w3") == [other]
        assert await take(dispatcher, "w4") == [e]
        two = Dispatcher(micro_batch=3)
        turns = [asyncio.create_task(take(two, worker, 10)) for worker in ("w1", "w2")]
        await asyncio.sleep(0)
        await asyncio.gather(submit(two, a), submit(two, b))
        assert await asyncio.gather(*turns) == [[a], [b]]  # both idle: one each
        await submit(two, c, d)
        assert await take(two, "w1", holding=[a.request_id]) == [c]  # the other worker, busy now, will take one too

    asyncio.run(scenario())


def test_the_load_tells_how_much_of_their_time_workers_work():
    async def scenario():
        clock = Clock()
        dispatcher = Dispatcher(clock=clock)
        await submit(dispatcher, order("a"))
        await take(dispatcher, "w1")
        clock.now += 30
        await dispatcher.done("ada", receipt(order("a")))
        waiting = asyncio.create_task(take(dispatcher, "w1", 60))
        await asyncio.sleep(0)
        clock.now += 10
        load = await dispatcher.load()
        assert (load.worked, load.present) == (30, 40)
        await dispatcher.release("w1", "w1 died")
        clock.now += 100
        assert (await dispatcher.load()).present == 40
        assert await waiting == "closed"

    asyncio.run(scenario())


def test_a_worker_that_asks_before_it_is_free_does_not_rest_meanwhile():
    async def scenario():
        clock = Clock()
        dispatcher = Dispatcher(clock=clock)
        await submit(dispatcher, order("a", "ada"), order("b", "bob"))
        await take(dispatcher, "w1")
        clock.now += 9
        ahead = await dispatcher.next("w1", [order("a", "ada").request_id], 0, 1)  # at 9, free at 10
        assert ahead.orders == (order("b", "bob"),)
        clock.now += 1
        await dispatcher.done("ada", receipt(order("a", "ada")))
        clock.now += 9
        waiting = asyncio.create_task(dispatcher.next("w1", [order("b", "bob").request_id], 60, 1))  # at 19
        await asyncio.sleep(0)
        clock.now += 5  # free since 20
        load = await dispatcher.load()
        assert (load.worked, load.present) == (20, 24)
        await submit(dispatcher, order("c", "cleo"))
        assert (await waiting).orders == (order("c", "cleo"),)
        clock.now += 6
        load = await dispatcher.load()
        assert (load.worked, load.present) == (26, 30)
        held = [order("b", "bob").request_id, order("c", "cleo").request_id]
        asking = asyncio.create_task(dispatcher.next("w1", held, 60, 1))
        await asyncio.sleep(0)
        assert await dispatcher.release("w1", "w1 died") == (False, 0)  # it was not free yet
        assert (await asking).kind == "closed"

    asyncio.run(scenario())


def test_a_few_clips_that_kill_their_refiners_do_not_end_the_job():
    """Three deaths each give a clip up; one refiner may lose three clips in a row, and not die for ever."""
    assert [no_refiner_lives(deaths, 1, deaths // 3) for deaths in (3, 5, 6, 8, 9, 11, 12)] == [False] * 6 + [True]
    assert [no_refiner_lives(deaths, 1) for deaths in (5, 6)] == [False, True]  # whoever dies before it has work
    assert [no_refiner_lives(deaths, 4, deaths // 3) for deaths in (20, 21)] == [False, True]


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
    assert 0 < reconstruct <= refine <= 1
    free = [1.0] * count  # as Ray places them: the refiners first, each on the first GPU with room
    for share in [refine] * refiners + [reconstruct] * avatars:
        place = next(index for index, left in enumerate(free) if left >= share)
        free[place] -= share
    if refiners <= count:
        assert refine > 0.5  # so that each has a GPU of its own


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
