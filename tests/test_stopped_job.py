"""A Ray job in a process of its own, on a cluster that others have started: stopped, continued, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "distributed"))

from fleet import fleet
from machines import machines
from processes import workers

from zero1toa.storage import Storage

ROOT = Path(__file__).parent.parent
# No checkpoint is due in so few iterations: the one that is found was written because the job was stopped.
TINY = """
preset: preview
device: cpu
render: {size: 48}
avatar: {gaussians_per_triangle: 1, landmark_offset: false, hair_volume: false, project_portrait: false}
curriculum:
  {frames: 4, spatial_clips: 2, synthetic_clips: 1, real_clips: 1, unlock_interval: 2, temporal_start: 3, real_start: 5}
loop: {iterations: 24, update_interval: 2, batch_frames: 2, checkpoint_every: 1000, preview_every: 1000}
diffusion: {backbone: fake, steps: 150, landmarks: project}
distributed: {refiners: 1, window: 1, slack: 0, threads: 1}
batch: {at_once: 1, look_ahead: 1, refresh: 1}
tracking: {wandb: disabled}
"""


@pytest.fixture(scope="module", autouse=True)
def jobs() -> Iterator[str]:
    """Where jobs are submitted; as within a submitted one, the environment names the cluster."""
    with socket.socket() as probe, socket.socket() as another:
        for one in (probe, another):
            one.bind(("127.0.0.1", 0))
        port, agent = (int(one.getsockname()[1]) for one in (probe, another))
    # The agent that takes jobs has one port for all clusters of a machine, unless it is given another.
    head = {"num_cpus": 3, "include_dashboard": True, "dashboard_port": port, "dashboard_agent_listen_port": agent}
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    with machines(head, variables):
        yield f"http://127.0.0.1:{port}"


def command(folder: Path) -> list[str]:
    """A job with the portraits of a folder."""
    (folder / "tiny.yaml").write_text(TINY)
    arguments = f"-m ray_jobs.generate --config {folder}/tiny.yaml input={folder}/photos output={folder}/out"
    return [sys.executable, *arguments.split()]


def started(folder: Path) -> subprocess.Popen[str]:
    """The job's process."""
    return subprocess.Popen(command(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], alive: Callable[[], bool]) -> None:
    while not condition():
        assert alive(), "the job has ended"
        time.sleep(0.05)


def avatar(folder: Path) -> tuple[Path, Path]:
    """A portrait whose head is fitted already; the log and the checkpoint of its avatar."""
    fleet(folder / "photos", Storage(folder / "out"), 1)
    return folder / "out/avatars/p0/log.jsonl", folder / "out/avatars/p0/checkpoint/state.pt"


def trains(log: Path) -> bool:
    return log.is_file() and '"kind":"iteration"' in log.read_text()


def hold() -> int:
    """Stop the refiner, so that an avatar waits for its next clip and is not finished before the job is stopped."""
    (refiner,) = workers("ray::RefinementActor", os.getpid())
    os.kill(refiner, signal.SIGSTOP)
    return refiner


@pytest.mark.slow
def test_a_stopped_job_says_so_and_the_same_job_continues(tmp_path: Path):
    log, checkpoint = avatar(tmp_path)
    process = started(tmp_path)

    def alive() -> bool:
        return process.poll() is None

    wait_for(lambda: trains(log), alive)
    refiner = hold()
    process.send_signal(signal.SIGTERM)
    wait_for(checkpoint.is_file, alive)
    os.kill(refiner, signal.SIGCONT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "stopped; the same job continues\n")

    again = started(tmp_path)
    said, errors = again.communicate()
    assert again.returncode == 0, errors
    assert "1 done" in said
    begun = [line for line in log.read_text().splitlines() if '"kind":"started"' in line]
    assert len(begun) == 2
    assert '"iteration":0' not in begun[1]  # it went on where it was stopped


def submit(client: Any, entrypoint: str) -> str:
    """Submit a job, again while Ray says that its agent has not started yet."""
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint)
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            time.sleep(0.2)


@pytest.mark.slow
def test_ray_gives_a_job_that_it_stops_the_time_for_checkpoints(tmp_path: Path, jobs: str):
    from ray.job_submission import JobStatus, JobSubmissionClient

    log, checkpoint = avatar(tmp_path)
    client = JobSubmissionClient(jobs)
    submitted = submit(client, " ".join(command(tmp_path)))

    def alive() -> bool:
        return not client.get_job_status(submitted).is_terminal()

    wait_for(lambda: trains(log), alive)
    refiner = hold()
    client.stop_job(submitted)
    wait_for(checkpoint.is_file, alive)
    os.kill(refiner, signal.SIGCONT)
    wait_for(lambda: not alive(), lambda: True)
    ended = client.get_job_info(submitted)
    assert (ended.status, ended.driver_exit_code) == (JobStatus.STOPPED, None)
    assert client.get_job_logs(submitted).endswith("stopped; the same job continues\n")


def test_a_job_with_failed_portraits_has_its_own_exit_code(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "ada.png").write_bytes(b"no image")
    process = started(tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 3, (process.returncode, said, errors)
    assert "1 rejected" in said
