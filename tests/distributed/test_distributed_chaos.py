"""Drivers, machines and the head's store of a cluster are killed; the batch ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet import CHECKPOINT_EVERY, check_all_done, redone_iterations
from machines import machines

from zero1toa.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FOLDER = Path(__file__).parent
DRAIN = """
import sys, ray
from zero1toa.distributed.drain import drain_node
ray.init(log_to_driver=False)
drain_node(sys.argv[1], 120, "test")
"""


@contextmanager
def driver(tmp_path: Path, count: int) -> Iterator[subprocess.Popen[str]]:
    """The batch's driver, a process that is killed if it is still there in the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent.parent)])}
    command = [sys.executable, str(FOLDER / "driver.py"), str(tmp_path / "photos"), str(tmp_path / "out"), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def follow(process: subprocess.Popen[str], after: int, strike: Callable[[], object]) -> int:
    """Call ``strike`` after so many clips, and return the driver's exit code."""
    return listen(process, after, strike)[0]


def listen(process: subprocess.Popen[str], after: int, strike: Callable[[], object]) -> tuple[int, list[str]]:
    """The same, with what the driver said."""
    clips, lines = 0, []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        clips += line.startswith("answered")
        if line.startswith("answered") and clips == after:
            strike()
    return process.wait(), lines


def check(tmp_path: Path, count: int, *, disturbed: int) -> None:
    """All are done, and at most ``disturbed`` avatars repeat at most one checkpoint interval."""
    output = Storage(tmp_path / "out")
    check_all_done(output, count)
    redone = [redone_iterations(output, f"p{number}") for number in range(count)]
    assert sum(iterations > 0 for iterations in redone) <= disturbed
    assert max(redone) <= CHECKPOINT_EVERY


def test_a_killed_driver_is_submitted_again(tmp_path):
    with machines({"num_cpus": 5}, {}):
        with driver(tmp_path, 4) as process:
            assert follow(process, 15, lambda: os.kill(process.pid, signal.SIGKILL)) == -signal.SIGKILL
        with driver(tmp_path, 4) as process:
            lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert sum(line.startswith("done") for line in lines) < 4  # what was finished is not made again
    check(tmp_path, 4, disturbed=2)


def test_a_machine_dies_with_its_trainers(tmp_path):
    with machines({"num_cpus": 4}, {}) as cluster:
        node = cluster.add_node(num_cpus=2, labels={"role": "recon"})
        with driver(tmp_path, 3) as process:
            assert follow(process, 7, lambda: cluster.remove_node(node, allow_graceful=False)) == 0
    check(tmp_path, 3, disturbed=2)


def test_trainers_leave_a_machine_that_is_about_to_go(tmp_path):
    with machines({"num_cpus": 4}, {}) as cluster:
        node = cluster.add_node(num_cpus=2, labels={"role": "recon"})
        announce = [sys.executable, "-c", DRAIN, node.node_id]
        with driver(tmp_path, 3) as process:
            code, lines = listen(process, 4, lambda: subprocess.run(announce, check=True))
        assert code == 0
        assert sum("its machine is about to go" in line for line in lines) in (1, 2)  # as many as trained there
    check(tmp_path, 3, disturbed=0)  # they saved their work before they left


def test_the_heads_store_dies_and_comes_back(tmp_path):
    """With Ray's store of the cluster's state on disk, the batch goes on; without, it is submitted again."""
    state = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "gcs")}

    def strike() -> None:
        cluster.head_node.kill_gcs_server()
        cluster.head_node.start_gcs_server()

    with machines({"num_cpus": 5}, state) as cluster, driver(tmp_path, 3) as process:
        assert follow(process, 5, strike) == 0
    check(tmp_path, 3, disturbed=0)


def test_the_heads_store_dies_for_good(tmp_path):
    short = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    with machines({"num_cpus": 5}, short) as cluster, driver(tmp_path, 3) as process:
        assert follow(process, 5, cluster.head_node.kill_gcs_server) != 0
    with machines({"num_cpus": 5}, {}), driver(tmp_path, 3) as process:
        process.communicate()
    assert process.returncode == 0
    check(tmp_path, 3, disturbed=2)
