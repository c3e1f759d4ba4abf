"""Settings compared on the same portraits, on a real Ray: what is in the table, and what stops whom."""

import csv
import dataclasses
import json
import time
from io import BytesIO, StringIO

import numpy as np
import pytest
from fleet import CLIPS, fleet
from PIL import Image

from zero1toa.batch.ledger import Ledger
from zero1toa.distributed import backbone_benchmark
from zero1toa.distributed.backbone_benchmark import Setting, room_for, run_benchmark
from zero1toa.distributed.backbone_measuring import SIDE
from zero1toa.distributed.placement import Room, plan
from zero1toa.distributed.session import ray_session
from zero1toa.errors import StorageError
from zero1toa.storage import Storage

AT_ONCE = ("batch.at_once=1", "distributed.refiners=1", "batch.refresh=0.5")


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZERO1TOA_HOME", str(tmp_path_factory.mktemp("assets")))  # no weights of anything
        with ray_session(6):  # room for two settings: refiner, trainer and a CPU to prepare portraits for each
            yield


def setting(name, tmp_path, output, count, *overrides):
    entries = fleet(tmp_path / "photos", output / name, count, *AT_ONCE, *overrides)
    return Setting(name, entries[0][1], tuple(entries))


@pytest.mark.slow
@pytest.mark.timeout(900)  # three batches, and the measuring of their avatars
def test_settings_are_compared(tmp_path, monkeypatch):
    output = Storage(tmp_path / "out")
    settings = [
        setting("four-steps", tmp_path, output, 2),
        setting("network", tmp_path, output, 2, "diffusion.backbone=compact", "diffusion.steps=2", "render.size=64"),
        setting("missing", tmp_path, output, 2, "diffusion.backbone=aniportrait"),
    ]
    times, original = {}, backbone_benchmark.run_batch

    def run_batch(entries, folder, config, **others):
        began = time.monotonic()
        assert (config.tracking.group, config.tracking.label) == ("trial", folder.name)
        try:
            return original(entries, folder, config, **others)
        finally:
            times[folder.name] = (began, time.monotonic())

    monkeypatch.setattr(backbone_benchmark, "run_batch", run_batch)
    said = []
    rows = run_benchmark(settings, output, name="trial", say=said.append)

    assert said[0] == "3 settings, 2 at a time"
    (began, ended), (other_began, other_ended) = times["four-steps"], times["network"]
    assert max(began, other_began) < min(ended, other_ended)

    assert [row.setting for row in rows] == ["four-steps", "network", "missing"]
    for row, backbone in zip(rows[:2], ("fake", "compact"), strict=True):
        ledger = list(Ledger(output / row.setting).rows().values())
        assert (row.done, row.portraits, row.backbone, row.problem) == (2, 2, backbone, "")
        for name in ("psnr", "ssim", "iou"):
            expected = np.mean([one.metrics[name] for one in ledger])
            assert getattr(row, name) == pytest.approx(expected)
        seconds = sum(one.seconds[phase] for one in ledger for phase in ("encode", "denoise", "decode"))
        assert row.seconds_per_clip == pytest.approx(seconds / (2 * CLIPS))
        assert row.gpu_seconds == 0
        assert row.flicker > 0
        assert 0 <= row.control <= 1
        assert row.memory == "process"
        assert 0.05 < row.peak_memory < 20  # GiB of a process with torch in it
    assert rows[1].seconds_per_clip > rows[0].seconds_per_clip
    missing = rows[2]
    assert (missing.done, missing.portraits, missing.psnr) == (0, 2, None)
    assert "zero1toa assets" in missing.problem

    told = json.loads(output.read_text("backbones.json"))
    assert told["settings"] == [dataclasses.asdict(row) for row in rows]
    assert told["avatars"]["four-steps"]["p1"]["bundle"] == "four-steps/avatars/p1/avatar"
    lines = list(csv.DictReader(StringIO(output.read_text("backbones.csv"))))
    assert float(lines[1]["flicker"]) == pytest.approx(rows[1].flicker)
    assert lines[2]["psnr"] == ""
    assert "| network | compact | 2 of 2 |" in output.read_text("backbones.md")
    with Image.open(BytesIO(output.read("backbones.png"))) as sheet:
        assert sheet.width > 7 * SIDE  # the portrait, and two views for each setting
        assert 2 * SIDE < sheet.height < 3 * SIDE

    # Nothing is left to make; memory, which only refiners know, is remembered.
    again = run_benchmark(settings[:1], output, name="trial")
    assert again[0] == rows[0]


def test_an_output_that_fails_ends_all_settings(tmp_path, monkeypatch):
    stopped = []

    def run_batch(entries, folder, config, *, alive, **others):
        if folder.name == "b":
            raise StorageError("the disk is full")
        end = time.monotonic() + 30
        try:
            while time.monotonic() < end:
                alive()
                time.sleep(0.01)
        except KeyboardInterrupt:
            stopped.append(folder.name)
            raise

    monkeypatch.setattr(backbone_benchmark, "run_batch", run_batch)
    output = Storage(tmp_path / "out")
    settings = [setting(name, tmp_path, output, 1) for name in ("a", "b", "c")]
    with pytest.raises(StorageError, match="disk is full"):
        run_benchmark(settings, output)
    assert "a" in stopped
    assert not output.exists("backbones.json")


@pytest.mark.parametrize(
    ("rooms", "fits"),
    [
        ([Room(16, 3)], 2),  # one and a half GPUs each: a refiner's, and a quarter for each of two trainers
        ([Room(16, 8)], 3),
        ([Room(4, 8)], 1),  # the CPUs do not do
        ([Room(4, 2), Room(4, 2)], 2),
        ([], 1),
    ],
)
def test_settings_run_together_where_there_is_room(rooms, fits):
    placement = plan(device="cuda", gpus=8, refiners=1, avatars=2)
    assert room_for(placement, rooms, 1, 2, 3) == fits
