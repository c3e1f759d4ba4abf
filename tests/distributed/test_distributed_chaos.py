"""Processes, machines and the head's store of a cluster are killed; the batch ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import watched
from fleet import CHECKPOINT_EVERY, check_all_done, redone_iterations
from machines import machines
from processes import kill, workers

from zero1toa.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
FOLDER = Path(__file__).parent
DRAIN = """
import sys, ray
from zero1toa.distributed.drain import drain_node
ray.init(log_to_driver=False)
print("ready", flush=True)
sys.stdin.readline()
for node in sys.argv[1:]:
    drain_node(node, 120, "test")
"""


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    """Refiners note what they do in the test's folder."""
    monkeypatch.setenv(watched.FOLDER, str(tmp_path))


@contextmanager
def started(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that is killed if it is still there in the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent.parent)])}
    python = [sys.executable, *map(str, command)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(python, text=True, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def driver(tmp_path: Path, count: int, *overrides: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """The batch's driver."""
    return started(FOLDER / "driver.py", tmp_path / "photos", tmp_path / "out", count, *overrides)


def pipe(process: subprocess.Popen[str]) -> IO[str]:
    """What a process says."""
    assert process.stdout is not None
    return process.stdout


def send(pids: Iterable[int], what: signal.Signals) -> None:
    """Signal some processes."""
    for pid in pids:
        os.kill(pid, what)


def follow(process: subprocess.Popen[str], strikes: Mapping[int, Callable[[], object]]) -> tuple[int, list[str]]:
    """Call each of ``strikes`` after so many clips; returns the driver's exit code, and what it said."""
    clips, lines = 0, []
    for line in pipe(process):
        lines.append(line)
        clips += line.startswith("answered")
        if line.startswith("answered") and clips in strikes:
            strikes[clips]()
    return process.wait(), lines


def raylet(node: Any) -> int:
    """The process whose children are the actors of a machine."""
    (one,) = node.all_processes["raylet"]
    return one.process.pid


def stop_refiner(tmp_path: Path, ancestor: int) -> tuple[int, set[str]]:
    """Let a refiner stand still in the middle of a clip; returns its process and what its death costs.

    That is the clip, and the one before it if that is not committed yet: one is committed while the next is refined.
    """
    pid = watched.stop_in_the_middle_of_a_clip(tmp_path / "out", ancestor)
    lost = watched.in_hand(pid, tmp_path / "out")
    assert len(lost) in (1, 2)
    return pid, lost


def check(tmp_path: Path, count: int, *, disturbed: int, lost: Collection[str] = (), more: int = 0) -> None:
    """All are done, and little was done twice.

    Args:
        tmp_path: the test's folder.
        count: number of avatars.
        disturbed: how many of them may repeat iterations, at most one checkpoint interval each.
        lost: clips that refiners had in hand when they died, which may be refined again once for each time.
        more: clips besides that may be refined again once; no other is refined more than once.
    """
    output = Storage(tmp_path / "out")
    check_all_done(output, count)
    redone = [redone_iterations(output, f"p{number}") for number in range(count)]
    assert sum(iterations > 0 for iterations in redone) <= disturbed
    assert max(redone) <= CHECKPOINT_EVERY
    assert {note.request_id for note in watched.notes()} == watched.committed(tmp_path / "out")
    unexplained = watched.refined_again() - Counter(lost)
    assert max(unexplained.values(), default=0) <= 1
    assert unexplained.total() <= more


def test_killed_processes_lose_nothing(tmp_path):
    at_once, lost = 3, Counter()

    def kill_refiner() -> None:
        pid, mine = stop_refiner(tmp_path, os.getpid())
        kill(pid)
        lost.update(mine)

    def kill_store() -> None:
        kill(watched.stop_in_the_middle_of_a_commit(tmp_path / "out", os.getpid()))

    def kill_trainer() -> None:
        kill(workers("ray::ReconstructionActor", os.getpid())[0])

    def kill_dispatcher() -> None:
        assert not watched.refined_again() - lost  # up to here, only what the dead had in hand
        pid, _ = stop_refiner(tmp_path, os.getpid())
        kill(workers("ray::Dispatcher", os.getpid())[0])
        while not workers("ray::Dispatcher", os.getpid()):
            pass
        os.kill(pid, signal.SIGCONT)  # with a clip in hand that the new one does not know of

    strikes = {3: kill_refiner, 6: kill_trainer, 9: kill_store, 12: kill_refiner, 15: kill_dispatcher}
    with machines({"num_cpus": 4}, {}) as cluster:
        cluster.add_node(num_cpus=3, labels={"role": "recon"})
        with driver(tmp_path, 5, "distributed.refiners=2", f"batch.at_once={at_once}") as process:
            code, lines = follow(process, strikes)
    assert code == 0
    dead = {line.split()[2] for line in lines if "its clip is given to another one" in line}  # told to every avatar
    assert len(dead) == 2
    assert any("the trainer's process died" in line for line in lines)
    assert watched.refined_again().total() >= 2  # what the two refiners were in the middle of
    # When the dispatcher dies, each trainer asks again for its clip, and the next dispatcher does not know which of
    # them refiners have in hand.
    check(tmp_path, 5, disturbed=1, lost=lost, more=at_once)


def test_a_killed_driver_is_submitted_again(tmp_path):
    with machines({"num_cpus": 3}, {}) as cluster:
        cluster.add_node(num_cpus=2, labels={"role": "recon"})
        with driver(tmp_path, 4) as process:
            assert follow(process, {15: process.kill})[0] == -signal.SIGKILL
        refiners = {note.pid for note in watched.notes()}
        with driver(tmp_path, 4) as process:
            lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert sum(line.startswith("done") for line in lines) < 4  # what was finished is not made again
    check(tmp_path, 4, disturbed=2, lost=watched.last_in_hand(refiners))


def test_a_machine_dies_with_its_trainers(tmp_path):
    with machines({"num_cpus": 4}, {}) as cluster:
        node = cluster.add_node(num_cpus=2, labels={"role": "recon"})
        with driver(tmp_path, 3) as process:
            assert follow(process, {7: lambda: cluster.remove_node(node, allow_graceful=False)})[0] == 0
    check(tmp_path, 3, disturbed=2)


def test_a_machine_dies_with_its_refiner(tmp_path):
    lost = set()

    def strike() -> None:
        pid, mine = stop_refiner(tmp_path, raylet(node))
        lost.update(mine)
        cluster.remove_node(node, allow_graceful=False)
        kill(pid)  # it stands still, and does not notice that its machine is gone

    with machines({"num_cpus": 4}, {}) as cluster:
        node = cluster.add_node(num_cpus=1, labels={"role": "refine"})
        with driver(tmp_path, 3) as process:
            code, lines = follow(process, {5: strike})
    assert code == 0
    assert any("refiner-0 died; its clip is given to another one" in line for line in lines)
    assert watched.refined_again().total() >= 1
    check(tmp_path, 3, disturbed=0, lost=lost)


def test_a_machine_dies_with_store_and_dispatcher(tmp_path):
    """Services prefer a machine that is labelled as the head; this one is not Ray's, whose death ends the job."""
    services = []

    def strike() -> None:
        services.extend(workers("ray::StoreActor", raylet(node)) + workers("ray::Dispatcher", raylet(node)))
        cluster.remove_node(node, allow_graceful=False)

    with machines({"num_cpus": 3, "labels": {"role": "recon"}}, {}) as cluster:
        cluster.add_node(num_cpus=1, labels={"role": "refine"})  # so that nothing else is on the machine that dies
        node = cluster.add_node(num_cpus=1, labels={"role": "head"})
        with driver(tmp_path, 3) as process:
            assert follow(process, {5: strike})[0] == 0
    assert len(services) == 2
    check(tmp_path, 3, disturbed=0, more=2)  # what the two trainers waited for, as when the dispatcher dies alone


def test_trainers_and_refiners_leave_machines_that_are_about_to_go(tmp_path):
    leaves = "its machine is about to go; it continues"
    with machines({"num_cpus": 4}, {}) as cluster:
        nodes = [cluster.add_node(num_cpus=n, labels={"role": role}) for n, role in ((2, "recon"), (1, "refine"))]
        with (
            started("-c", DRAIN, *(node.node_id for node in nodes)) as announcer,
            driver(tmp_path, 3) as process,
        ):
            assert pipe(announcer).readline() == "ready\n"
            refiners, lines = [], []
            for line in pipe(process):
                lines.append(line)
                if line.startswith("answered") and not refiners:
                    refiners = workers("ray::RefinementActor", os.getpid())
                    send(refiners, signal.SIGSTOP)  # no avatar ends before its trainer has heard of the machine's end
                    announcer.communicate("now\n")
                if leaves in line:
                    send(refiners, signal.SIGCONT)
            assert (announcer.returncode, process.wait(), len(refiners)) == (0, 0, 1)
        said = "".join(lines)
        assert sum(leaves in line for line in lines) in (1, 2), said  # as many as trained there
        assert "refiner-0 left its machine" in said
        assert "died" not in said
    check(tmp_path, 3, disturbed=0)  # they saved their work before they left


def test_the_heads_store_dies_and_comes_back(tmp_path):
    """With Ray's store of the cluster's state on disk, the batch goes on; without, it is submitted again."""
    state = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "gcs")}

    def strike() -> None:
        cluster.head_node.kill_gcs_server()
        cluster.head_node.start_gcs_server()

    with machines({"num_cpus": 3}, state) as cluster:
        cluster.add_node(num_cpus=2, labels={"role": "recon"})
        with driver(tmp_path, 3) as process:
            assert follow(process, {5: strike})[0] == 0
    check(tmp_path, 3, disturbed=0)


def test_the_heads_store_dies_for_good(tmp_path):
    short = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    with machines({"num_cpus": 3}, short) as cluster:
        cluster.add_node(num_cpus=2, labels={"role": "recon"})
        with driver(tmp_path, 3) as process:
            assert follow(process, {5: cluster.head_node.kill_gcs_server})[0] != 0
    refiners = {note.pid for note in watched.notes()}
    with machines({"num_cpus": 5}, {}), driver(tmp_path, 3) as process:
        process.communicate()
    assert process.returncode == 0
    check(tmp_path, 3, disturbed=2, lost=watched.last_in_hand(refiners))
