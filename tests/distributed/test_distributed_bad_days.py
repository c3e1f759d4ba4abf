"""What goes wrong around a batch: a second job, a cluster that is too small, a disk that fills up."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from fleet import CHECKPOINT_EVERY, check_all_done, fleet, redone_iterations
from typer.testing import CliRunner

from zero1toa.batch.ledger import Ledger
from zero1toa.cli import app
from zero1toa.distributed.batch import run_batch
from zero1toa.distributed.session import ray_session
from zero1toa.errors import StorageError
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_session(7):
        yield


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 48 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write until there is no room for another byte."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0
    return path


@pytest.mark.timeout(600)
def test_a_full_disk_ends_the_batch_cleanly_and_room_lets_it_go_on(small_disk, tmp_path):
    output = Storage(small_disk / "out")

    def entries():
        return fleet(tmp_path / "photos", output, 3, "diffusion.steps=30", "distributed.refiners=2")

    clips, filler = 0, None

    def hear(key, event):
        nonlocal clips, filler
        clips += isinstance(event, ProgressEvent) and event.kind == "answered"
        if clips == 8 and filler is None:
            filler = fill(small_disk)

    some = entries()
    config = some[0][1]
    config.batch.at_once, config.batch.refresh = 2, 0.5
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device"):
        run_batch(some, output, config, hear=hear)
    assert filler is not None
    # What was acknowledged is there, and nothing half-written is taken for it.
    ended = Ledger(output).rows()
    assert len(ended) < 3
    filler.unlink()
    result = run_batch(entries(), output, config)
    assert {row.state for row in result.rows.values()} == {"done"}
    check_all_done(output, 3)
    assert max(redone_iterations(output, f"p{number}") for number in range(3)) <= CHECKPOINT_EVERY
    assert ended.items() <= Ledger(output).rows().items()  # avatars that were done were not made again


@pytest.mark.timeout(600)
def test_a_second_job_and_a_cluster_that_is_too_small_are_refused_in_one_line(tmp_path):
    output = Storage(tmp_path / "out")
    entries = fleet(tmp_path / "photos", output, 1, "distributed.refiners=1")
    photos = str(tmp_path / "photos")
    refused = []

    def hear(key, event):
        if not refused and isinstance(event, ProgressEvent) and event.kind == "answered":
            refused.append(CliRunner().invoke(app, ["batch", photos, "--output", output.url]))

    run_batch(entries, output, entries[0][1], hear=hear)
    assert refused[0].exit_code == 2
    assert "error: job out" in refused[0].output
    assert "wait until it has ended, stop it, or choose another output" in refused[0].output
    check_all_done(output, 1)

    small = CliRunner().invoke(
        app, ["batch", photos, "--output", str(tmp_path / "other"), "device=cpu", "distributed.refiners=50"]
    )
    assert small.exit_code == 2
    told = " ".join(small.output.split())
    assert "50 refiners" in told
    assert "the cluster has 7" in told
