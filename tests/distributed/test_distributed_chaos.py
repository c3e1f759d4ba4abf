"""Processes, machines and the head's store of a cluster are killed; the batch ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO

import pytest
from fleet import CHECKPOINT_EVERY, CLIPS, check_all_done, redone_iterations
from machines import machines
from processes import workers

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


def refinements(lines: Iterable[str]) -> int:
    """Clips that were handed to refiners, repetitions included; a dispatcher that is restarted counts from 0 again."""
    counts = [int(line.split()[1]) for line in lines if line.startswith("handed")]
    return sum(after - before if after >= before else after for before, after in pairwise([0, *counts]))


def check(tmp_path: Path, count: int, *, disturbed: int) -> None:
    """All are done, and at most ``disturbed`` avatars repeat at most one checkpoint interval."""
    output = Storage(tmp_path / "out")
    check_all_done(output, count)
    redone = [redone_iterations(output, f"p{number}") for number in range(count)]
    assert sum(iterations > 0 for iterations in redone) <= disturbed
    assert max(redone) <= CHECKPOINT_EVERY


def test_killed_processes_lose_nothing(tmp_path):
    killed = []

    def kill(kind: str) -> None:
        os.kill(workers(f"ray::{kind}", os.getpid())[0], signal.SIGKILL)
        killed.append(kind)

    kinds = ("RefinementActor", "ReconstructionActor", "StoreActor", "Dispatcher", "RefinementActor")
    strikes = {3 * number: partial(kill, kind) for number, kind in enumerate(kinds, 1)}
    with machines({"num_cpus": 4}, {}) as cluster:
        cluster.add_node(num_cpus=3, labels={"role": "recon"})
        with driver(tmp_path, 5, "distributed.refiners=2", "batch.at_once=3") as process:
            code, lines = follow(process, strikes)
    assert (code, len(killed)) == (0, 5)
    check(tmp_path, 5, disturbed=1)
    assert any("its clip is given to another one" in line for line in lines)
    assert any("the trainer's process died" in line for line in lines)
    assert refinements(lines) <= 5 * CLIPS + len(kinds)  # one clip for each death, whatever it was in the middle of


def test_a_killed_driver_is_submitted_again(tmp_path):
    with machines({"num_cpus": 3}, {}) as cluster:
        cluster.add_node(num_cpus=2, labels={"role": "recon"})
        with driver(tmp_path, 4) as process:
            assert follow(process, {15: process.kill})[0] == -signal.SIGKILL
        with driver(tmp_path, 4) as process:
            lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert sum(line.startswith("done") for line in lines) < 4  # what was finished is not made again
    check(tmp_path, 4, disturbed=2)


def test_a_machine_dies_with_its_trainers(tmp_path):
    with machines({"num_cpus": 4}, {}) as cluster:
        node = cluster.add_node(num_cpus=2, labels={"role": "recon"})
        with driver(tmp_path, 3) as process:
            assert follow(process, {7: lambda: cluster.remove_node(node, allow_graceful=False)})[0] == 0
    check(tmp_path, 3, disturbed=2)


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
    assert refinements(lines) <= 3 * CLIPS + 2  # the clips that the trainers waited for when they left


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
    with machines({"num_cpus": 5}, {}), driver(tmp_path, 3) as process:
        process.communicate()
    assert process.returncode == 0
    check(tmp_path, 3, disturbed=2)
