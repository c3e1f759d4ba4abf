"""What goes wrong around a batch: bad photos, a second job, a cluster that is too small, a disk that fills up."""

import json
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from fleet import CHECKPOINT_EVERY, check_all_done, fleet, redone_iterations
from omegaconf import OmegaConf
from PIL import Image
from typer.testing import CliRunner

from zero1toa.batch.ledger import Ledger
from zero1toa.cli import app
from zero1toa.config import to_dict
from zero1toa.distributed import refiner_pool
from zero1toa.distributed.batch import run_batch
from zero1toa.distributed.records import Served
from zero1toa.distributed.refinement import RefinementActor
from zero1toa.distributed.session import ray_session
from zero1toa.errors import StorageError
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_session(7):
        yield


def test_a_clip_that_kills_whoever_serves_it_fails_its_avatar_alone(tmp_path, monkeypatch):
    """With one refiner, whose deaths are all in a row; the output is out of reach of anything but fsspec."""
    curse = tmp_path / "curse"

    class Mortal(RefinementActor):
        def run(self):
            def refine(requests, reference):
                (request,) = requests
                if request.render_step >= 4 and not curse.exists():
                    curse.write_text(request.request_id)
                if curse.exists() and curse.read_text() == request.request_id:
                    os._exit(1)
                return [request.frames], {"denoise": 0.0}

            return Served(self.serve(refine), 0, False)

    monkeypatch.setattr(refiner_pool, "RefinementActor", Mortal)
    output = Storage(f"dir::file://{tmp_path}/out")
    entries = fleet(tmp_path / "photos", output, 2, "distributed.refiners=1", "batch.at_once=2")
    rows = run_batch(entries, output, entries[0][1]).rows.values()
    failed, done = sorted(rows, key=lambda row: row.state, reverse=True)
    assert (failed.state, done.state) == ("failed", "done")
    assert "could not be refined in 3 attempts: the refiner's process died; it may be out of memory" in failed.reason
    assert output.exists(f"{done.bundle}/avatar.json")
    assert {row.id: row.state for row in Ledger(output).history()} == {failed.id: "failed", done.id: "done"}


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


@pytest.mark.slow
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
        app,
        [
            "batch",
            photos,
            "--output",
            str(tmp_path / "other"),
            "device=cpu",
            "distributed.refiners=50",
            "distributed.wait=1",
        ],
    )
    assert small.exit_code == 2
    told = " ".join(small.output.split())
    assert "50 refiners" in told
    assert "the cluster has 7" in told


@pytest.mark.timeout(600)
def test_bad_portraits_stop_nothing_and_are_named(tmp_path):
    output, photos = Storage(tmp_path / "out"), tmp_path / "photos"
    ((good, config),) = fleet(photos, output, 1, "distributed.refiners=1")
    (photos / "again.png").write_bytes((photos / "p0.png").read_bytes())
    (photos / "text.png").write_text("not a picture")
    Image.new("RGB", (200, 200), "white").save(photos / "empty.png")
    manifest = tmp_path / "portraits.csv"
    names = ("p0", "again", "text", "empty", "gone")
    manifest.write_text("\n".join(["id,photo", *(f"{name},photos/{name}.png" for name in names)]))
    file = tmp_path / "config.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))
    command = ["batch", str(manifest), "--output", output.url, "--config", str(file)]

    first = CliRunner().invoke(app, command)
    assert first.exit_code == 3, first.output
    rows = Ledger(output).rows()
    assert {row.id: row.state for row in rows.values()} == {
        good.id: "done",
        "again": "duplicate",
        "text": "rejected",
        "empty": "rejected",
        "gone": "rejected",
    }
    assert rows["again"].reason == "its photo is that of p0"
    for name, words in {"text": "is not an image", "empty": "(?i)no face", "gone": "gone.png"}.items():
        assert re.search(words, rows[name].reason), rows[name].reason
    status = json.loads(output.read_text("status.json"))
    assert status["complete"]
    assert {state: status["counts"][state] for state in ("done", "rejected", "duplicate")} == {
        "done": 1,
        "rejected": 3,
        "duplicate": 1,
    }
    page = output.read_text("fleet.html")
    assert all(name in page for name in rows)
    assert "Clips refined a minute" in page

    again = CliRunner().invoke(app, command)  # nothing is left to do
    assert again.exit_code == 3
    assert len(Ledger(output).history()) == 5
    assert output.read_text("fleet.html") == page

    manifest.write_text("\n".join(["id,photo,seed", *(f"{name},photos/{name}.png,3" for name in names)]))
    other = CliRunner().invoke(app, command)  # the avatar of p0 has another seed
    assert other.exit_code == 2
    assert re.search(r"avatar of 'p0' .* \(seed was 0 and is 3\)", " ".join(other.output.split())), other.output
