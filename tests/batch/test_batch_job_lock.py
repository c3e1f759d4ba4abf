"""One job at a time: the kernel's lock with real kills, and leases in simulated time."""

import contextlib
import dataclasses
import heapq
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zero1toa.batch.holder import Holder
from zero1toa.batch.job_lock import LEASE, LOCK, JobLock
from zero1toa.batch.lease import Lease, Times
from zero1toa.errors import OutputError, StorageError
from zero1toa.storage import Storage

_UNIQUE = itertools.count()

# The kernel's lock, and leases, with real processes.

HOLD = """
import sys
from zero1toa.batch.job_lock import JobLock
from zero1toa.batch.lease import Times
from zero1toa.storage import Storage
with JobLock(Storage(sys.argv[1]), "faces-1", times=Times(beat=0.05, settle=0.0, contest=0.0)) as lock:
    print("held", flush=True)
    sys.stdin.readline()
    lock.check()
print("released", flush=True)
"""


@contextlib.contextmanager
def holder(url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


FAST = Times(beat=0.05, stale=60.0, settle=0.0, contest=0.0, look=0.02)


@pytest.mark.parametrize("kind", ["path", "remote"])
def test_a_second_job_is_refused_while_the_first_lives(kind: str, tmp_path: Path):
    url = str(tmp_path / "out") if kind == "path" else f"dir::file://{tmp_path}/out"
    with holder(url) as first:
        with pytest.raises(OutputError) as caught, JobLock(Storage(url), "faces-2", patience=0.0, times=FAST):
            pass
        message = str(caught.value)
        assert message.startswith(f"job faces-1 (process {first.pid} on ")
        assert f"is working in {url}; wait until it has ended" in message
        assert len(message.splitlines()) == 1
        assert first.communicate("end\n")[0] == "released\n"
        with JobLock(Storage(url), "faces-2", patience=0.0, times=FAST) as lock:  # at once: nothing is left to outlive
            lock.check()
    assert kind == "path" or Storage(url).files() == []


def test_a_killed_job_leaves_no_lock(tmp_path: Path):
    with holder(str(tmp_path)) as first:
        first.kill()
        with JobLock(Storage(tmp_path), "faces-2"):
            assert json.loads((tmp_path / LOCK).read_text())["job"] == "faces-2"


def test_a_killed_job_leaves_a_lease_that_is_outlived(tmp_path: Path):
    url, said = f"dir::file://{tmp_path}/out", []
    with holder(url) as first:
        first.kill()
        first.wait()
        short = dataclasses.replace(FAST, stale=0.3)
        with JobLock(Storage(url), "faces-2", times=short, say=said.append) as lock:
            lock.check()
            assert json.loads(Storage(url).read(LEASE))["job"] == "faces-2"
    assert said[0].startswith("waiting up to 0 s to see whether job faces-1 (process ")


def test_a_job_that_ends_is_waited_for(tmp_path: Path):
    with holder(str(tmp_path)) as first:
        assert first.stdin is not None
        first.stdin.write("end\n")
        first.stdin.flush()
        with JobLock(Storage(tmp_path), "faces-2", patience=60.0):
            pass


def test_a_lock_that_says_nothing_is_a_lock(tmp_path: Path):
    with holder(str(tmp_path)):
        for text in ("", "[]", '{"job": 1}'):
            (tmp_path / LOCK).write_text(text)
            with pytest.raises(OutputError, match=r"^another job is working in "), JobLock(Storage(tmp_path), "x", 0.0):
                pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot lock .*file"), JobLock(Storage(tmp_path / "file" / "out"), "x"):
        pass


def test_the_lease_is_renewed_in_the_background_and_given_back():
    storage = Storage(f"memory://lock-{next(_UNIQUE)}")
    before = threading.active_count()
    with JobLock(storage, "faces-1", times=FAST):
        end, beats = time.monotonic() + 60, 0
        while beats < 4 and time.monotonic() < end:
            beats = json.loads(storage.read(LEASE))["beat"]
        assert beats >= 4
    assert storage.files() == []
    assert threading.active_count() == before


def test_a_job_whose_lease_was_taken_learns_it_and_leaves_the_other_alone():
    storage = Storage(f"memory://lock-{next(_UNIQUE)}")
    theirs = json.dumps({"owner": "b", "beat": 1, **dataclasses.asdict(Holder.here("faces-2"))})
    with JobLock(storage, "faces-1", times=FAST) as lock:
        lock.check()

        def go_on() -> None:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                storage.write(LEASE, theirs)  # again, should a renewal have been on its way
                lock.check()

        with pytest.raises(OutputError, match=r"^job faces-2 \(.*\) has taken over .* this job stops$"):
            go_on()
    assert storage.read_text(LEASE) == theirs


# Leases in simulated time.


class World:
    """Threads that take turns by a simulated clock, so that a test chooses how they interleave."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, threading.Semaphore]] = []
        self._order = itertools.count()
        self._turn_over = threading.Semaphore(0)
        self._errors: list[BaseException] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        mine = threading.Semaphore(0)
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), mine))
        self._turn_over.release()
        mine.acquire()

    def run(self, *jobs: Callable[[], object]) -> None:
        threads = [threading.Thread(target=self._thread, args=(job,), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
            self._turn_over.acquire()  # every job begins by sleeping
        while self._queue:
            self.now, _, turn = heapq.heappop(self._queue)
            turn.release()
            self._turn_over.acquire()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _thread(self, job: Callable[[], object]) -> None:
        try:
            self.sleep(0.0)
            job()
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._turn_over.release()


class Slow(Storage):
    """A bucket whose requests take simulated time; what they do happens somewhere within it."""

    def __init__(self, url: str, world: World, latency: Callable[[], float]):
        super().__init__(url)
        self._world, self._latency = world, latency

    def read(self, name):
        self._world.sleep(self._latency())
        try:
            return super().read(name)
        finally:
            self._world.sleep(self._latency())

    def write(self, name, content):
        self._world.sleep(self._latency())
        super().write(name, content)
        self._world.sleep(self._latency())

    def delete(self, name):
        self._world.sleep(self._latency())
        super().delete(name)


TIMES = Times()


def lease(storage: Storage, world: World, owner: str, since: str = "then") -> Lease:
    return Lease(storage, LEASE, owner, Holder(owner, "host", 1, since), TIMES, clock=world.clock, sleep=world.sleep)


def alone(job: Callable[[World, Storage], object]) -> World:
    world, storage = World(), Storage(f"memory://lock-{next(_UNIQUE)}")
    world.run(lambda: job(world, storage))
    return world


def test_a_free_lease_is_taken_soon():
    def job(world: World, storage: Storage) -> None:
        lease(storage, world, "a").acquire()
        assert world.now == TIMES.settle

    alone(job)


def test_a_dead_owner_is_outlived_by_ones_own_clock():
    def job(world: World, storage: Storage) -> None:
        lease(storage, world, "a", since="2999-01-01").acquire()  # its machine's clock is far ahead
        start = world.now
        lease(storage, world, "b", since="1970-01-01").acquire()
        assert TIMES.stale <= world.now - start - TIMES.contest <= TIMES.stale + TIMES.look

    alone(job)


def test_a_living_owner_is_noticed_at_its_next_renewal():
    world, storage = World(), Storage(f"memory://lock-{next(_UNIQUE)}")

    def first() -> None:
        mine = lease(storage, world, "a")
        mine.acquire()
        for _ in range(20):
            world.sleep(TIMES.beat)
            mine.renew()
        mine.check()

    def second() -> None:
        world.sleep(50.0)
        with pytest.raises(OutputError, match=r"job a .* is working in"):
            lease(storage, world, "b").acquire()
        assert world.now <= 50.0 + TIMES.beat + TIMES.look

    world.run(first, second)


def test_of_two_at_once_one_wins():
    world, won = World(), []
    storage = Slow(f"memory://lock-{next(_UNIQUE)}", world, lambda: 0.3)  # each looks before any has written

    def job(name: str) -> None:
        with contextlib.suppress(OutputError):
            lease(storage, world, name).acquire()
            won.append(name)

    world.run(lambda: job("a"), lambda: job("b"), lambda: job("c"))
    assert len(won) == 1


def scripted(url: str, world: World, *latencies: float) -> Slow:
    """A bucket whose first requests take as long as given, and others no time."""
    times = iter(latencies)
    return Slow(url, world, lambda: next(times, 0.0))


def work(mine: Lease, world: World, seconds: float) -> float:
    """Time until which the lease was held, at most for ``seconds`` from now."""
    end = world.now + seconds
    next_beat = world.now + TIMES.beat
    with contextlib.suppress(OutputError):
        while world.now < end:
            world.sleep(0.5)
            if world.now >= next_beat:
                next_beat += TIMES.beat
                mine.renew()
            mine.check()
    return world.now


@pytest.mark.parametrize("released", [False, True])
def test_who_claims_slowly_starts_after_the_one_it_wrote_over_has_stopped(released: bool):
    world, url, times = World(), f"memory://lock-{next(_UNIQUE)}", {}
    if released:  # the slow one has watched an earlier owner, and sees that its lease is gone
        Storage(url).write(LEASE, "earlier")

    def quick() -> None:
        if released:
            world.sleep(TIMES.look)
            Storage(url).delete(LEASE)
        world.sleep(1.5)
        mine = lease(Storage(url), world, "quick")
        mine.acquire()
        times["quick stopped"] = work(mine, world, 100)

    def slow() -> None:
        latencies = (0.0, 0.0, 1.0, 5.0) if released else (0.0, 5.0)  # it sees no lease, and writes five seconds later
        mine = lease(scripted(url, world, *latencies), world, "slow")
        mine.acquire()
        times["slow began"] = world.now

    world.run(slow, quick)
    assert TIMES.settle < times["quick stopped"] <= times["slow began"]


def test_an_owner_that_stalls_in_a_renewal_and_revives_keeps_the_lease():
    world, url, refused = World(), f"memory://lock-{next(_UNIQUE)}", []

    def stalling() -> None:
        # To acquire: read, write, read. To renew: the lease is its own when read, and is written a minute later.
        mine = lease(scripted(url, world, *[0.0] * 6, 0.0, 0.0, 65.0), world, "stalling")
        mine.acquire()
        world.sleep(TIMES.beat)
        mine.renew()
        assert work(mine, world, 50) >= world.now

    def second() -> None:
        world.sleep(TIMES.beat)
        try:
            lease(Storage(url), world, "second").acquire()
        except OutputError as error:
            refused.append((world.now, str(error)))

    world.run(stalling, second)
    ((moment, message),) = refused
    assert message.startswith("job stalling ")
    assert moment > TIMES.stale + TIMES.contest  # it had taken over already, and had not begun to work


def test_a_bucket_out_of_reach_is_no_loss_until_another_may_have_come(monkeypatch: pytest.MonkeyPatch):
    def job(world: World, storage: Storage) -> None:
        mine = lease(storage, world, "a")
        mine.acquire()
        read = Storage.read

        def unplugged(self, name):
            raise StorageError("cannot reach")

        monkeypatch.setattr(Storage, "read", unplugged)
        with pytest.raises(StorageError):
            mine.renew()
        world.sleep(TIMES.stale - 1)
        mine.check()
        world.sleep(2)
        with pytest.raises(StorageError, match="cannot reach"):
            mine.check()
        monkeypatch.setattr(Storage, "read", read)
        mine.check()  # nobody came

    alone(job)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"beat": 1}', b"\xff\xfe"])
def test_a_file_that_is_no_lease_is_outlived_like_one(text: bytes):
    def job(world: World, storage: Storage) -> None:
        storage.write(LEASE, text)
        lease(storage, world, "a").acquire()
        assert world.now >= TIMES.stale

    alone(job)


def test_a_lease_that_was_deleted_is_lost():
    def job(world: World, storage: Storage) -> None:
        mine = lease(storage, world, "a")
        mine.acquire()
        storage.delete(LEASE)
        mine.renew()
        with pytest.raises(OutputError, match="which has ended since, has taken over"):
            mine.check()
        assert storage.files() == []

    alone(job)


PLANS = st.lists(
    st.tuples(
        st.floats(0, 150),  # when the job starts
        st.floats(0, 200),  # how long it works
        st.sampled_from(["ends", "dies", "stalls"]),
        st.floats(0, 200),  # how long it stands still, after which it goes on as if nothing had happened
    ),
    min_size=2,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(plans=PLANS, seed=st.integers(0, 2**32 - 1))
def test_two_jobs_never_work_at_the_same_time(plans, seed: int):
    """Jobs start, end, die and stand still as drawn, in a bucket that is slow as drawn. Each may work while it holds
    the lease and its last check, made every second, was good."""
    world, dice = World(), random.Random(seed)
    storage = Slow(f"memory://lock-{next(_UNIQUE)}", world, lambda: dice.choice([0.0, 0.02, 0.3, 0.7]))
    worked: list[tuple[float, float]] = []

    def job(number: int) -> None:
        start, length, fate, pause = plans[number]
        world.sleep(start)
        mine = lease(storage, world, f"job-{number}")
        try:
            mine.acquire()
        except OutputError:
            return
        begun = last = renewed = world.now
        stalled = False
        with contextlib.suppress(OutputError):
            while world.now - begun < length:
                mine.check()
                worked.append((last, world.now))
                last = world.now
                world.sleep(1.0)
                if fate == "stalls" and not stalled and world.now - begun > length / 2:
                    stalled = True
                    world.sleep(pause)
                    last = world.now  # nothing was worked meanwhile
                if world.now - renewed >= TIMES.beat:
                    renewed = world.now
                    mine.renew()
            if fate != "dies":
                mine.release()

    world.run(*(lambda number=number: job(number) for number in range(len(plans))))
    spans = sorted(worked)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), spans
