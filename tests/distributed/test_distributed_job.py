"""Twenty portraits through ``ray job submit``, with a refiner and a trainer killed on the way: all done, none twice."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from machines import machines
from PIL import Image
from processes import workers

from zero1toa.batch.ledger import Ledger
from zero1toa.evaluation.synthetic.held_out import held_out_subject
from zero1toa.head.sculpt.drawing import draw, random_face
from zero1toa.storage import Storage

DRAWN, SYNTHETIC = 16, 4
ROOT = Path(__file__).parent.parent.parent
TINY = """
preset: preview
device: cpu
portrait: {size: 128}
render: {size: 64}
avatar: {gaussians_per_triangle: 1}
curriculum:
  {frames: 4, spatial_clips: 2, synthetic_clips: 1, real_clips: 1, unlock_interval: 2, temporal_start: 3, real_start: 5}
loop: {iterations: 6, update_interval: 2, batch_frames: 2, checkpoint_every: 2, preview_every: 6}
diffusion: {steps: 2, landmarks: project}
distributed: {refiners: 1, window: 1, slack: 0, threads: 1}
batch: {at_once: 2, look_ahead: 2, refresh: 2}
tracking: {wandb: disabled}
"""


def portraits(folder: Path) -> None:
    """Drawn faces, and people of the synthetic world."""
    folder.mkdir()
    for number in range(DRAWN):
        Image.fromarray(draw(random_face(np.random.default_rng(number)))).save(folder / f"drawn-{number:02d}.png")
    for number in range(SYNTHETIC):
        Image.fromarray(held_out_subject(number).portrait(256)).save(folder / f"synthetic-{number}.png")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    while not condition():
        assert job.poll() is None, "the job has ended"
        time.sleep(0.2)


def submitted(command: list[str], log: Path) -> subprocess.Popen[str]:
    """The job's submission; again while Ray says that its agent has not started yet, however slowly that goes."""
    while True:
        with log.open("w") as file:
            job = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, text=True)
        while job.poll() is None and "submitted successfully" not in log.read_text():
            time.sleep(0.2)
        if job.poll() is None or "No available agent" not in log.read_text():
            return job


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_portraits_are_done_once_whoever_dies(tmp_path):
    portraits(tmp_path / "photos")
    for name in ("zero1toa", "ray_jobs", "configs"):  # what a clean checkout sends, and no outputs of this one
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tiny.yaml").write_text(TINY)
    output, count = Storage(tmp_path / "out"), DRAWN + SYNTHETIC
    port = free_port()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # The agent that takes jobs has one port for all clusters of a machine, unless it is given another.
    head = {
        "num_cpus": 4,
        "include_dashboard": True,
        "dashboard_port": port,
        "dashboard_agent_listen_port": free_port(),
    }
    with machines(head, {"PATH": path}):
        command = (
            f"ray job submit --address http://127.0.0.1:{port} --working-dir {tmp_path}/checkout -- "
            f"python -m ray_jobs.generate --config {tmp_path}/tiny.yaml input={tmp_path}/photos output={tmp_path}/out"
        ).split()
        job = submitted(command, tmp_path / "log")
        for after, kind in ((2, "RefinementActor"), (5, "ReconstructionActor")):
            wait_for(lambda after=after: len(output.files("ledger/rows")) >= after, job)
            os.kill(workers(f"ray::{kind}", os.getpid())[0], signal.SIGKILL)
        assert job.wait() == 0, (tmp_path / "log").read_text()
    rows = Ledger(output).history()
    assert len(rows) == len({row.id for row in rows}) == count
    assert {row.state for row in rows} == {"done"}
    assert all(output.exists(f"{row.bundle}/avatar.json") for row in rows)
    assert json.loads(output.read_text("status.json"))["counts"]["done"] == count
