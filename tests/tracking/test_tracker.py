"""Tracking never stops a run, and forgets nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_wandb import FakeWandb

from zero1toa import media
from zero1toa.config import TrackingConfig
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.tracking.jsonl import read_log
from zero1toa.tracking.tracker import Tracker


@pytest.fixture
def use_wandb(monkeypatch: pytest.MonkeyPatch):
    def use(fake: FakeWandb) -> FakeWandb:
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return use


def _event(kind: Any = "iteration", iteration: int = 5, **more: Any) -> ProgressEvent:
    return ProgressEvent(kind, "a", "spatial", iteration, 10, **more)


def test_online_falls_back_to_offline(tmp_path: Path, use_wandb: Any):
    fake, said = use_wandb(FakeWandb(failing=("online",))), []
    with Tracker(tmp_path, TrackingConfig(wandb="online", group="job/1"), "me", {}, said.append) as tracker:
        assert tracker.wandb.mode == "offline"
    assert said == ["W&B online is not available: no online"]
    assert [call["mode"] for call in fake.calls] == ["online", "offline"]
    assert {call["id"] for call in fake.calls} == {tracker.run_id}
    assert fake.run.exit_code == 0


def test_without_wandb_the_log_is_still_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises ImportError
    with Tracker(tmp_path, TrackingConfig(), "me", {"seed": 3}) as tracker:
        tracker(_event(losses={"total": 0.123456789, "l1": 0.1}))
        tracker(_event("answered", message="committed", timings={"invert": 0.25}, refined=1))
        tracker(_event("notice", message="a fallback"))
    assert tracker.wandb.mode == "disabled"
    records = list(read_log(tmp_path / "log.jsonl"))
    assert [r["kind"] for r in records] == ["notice", "run", "iteration", "answered", "notice"]
    assert records[2]["losses"] == {"total": 0.123457, "l1": 0.1}
    assert records[3]["timings"] == {"invert": 0.25}
    assert tracker.notices[-1] == "a fallback"


def test_the_age_of_a_clip_is_kept(tmp_path: Path, use_wandb: Any):
    fake = use_wandb(FakeWandb())
    with Tracker(tmp_path, TrackingConfig(), "me", {}) as tracker:
        tracker(_event("answered", iteration=4, message="spatial/jawOpen committed", age=0))
        tracker(_event("answered", iteration=6, message="spatial/jawOpen expired", age=30))
        tracker(_event("answered", iteration=8, message="spatial/jawOpen duplicate"))
    ages = [record["age"] for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "answered"]
    assert ages == [0, 30, None]
    assert [values.get("refine/age") for values in fake.run.logged] == [0, 30, None]
    assert "refine/age" not in fake.run.logged[-1]


def test_a_service_that_dies_is_left_out_once(tmp_path: Path, use_wandb: Any):
    use_wandb(FakeWandb(broken=True))
    said: list[str] = []
    with Tracker(tmp_path, TrackingConfig(), "me", {}, said.append) as tracker:
        for i in range(0, 20, 5):
            tracker(_event(iteration=i, losses={"total": 1.0}))
    assert said == ["W&B stopped working and is left out from here: the service died"]
    assert sum(r["kind"] == "iteration" for r in read_log(tmp_path / "log.jsonl")) == 4


def test_failure_is_marked(tmp_path: Path, use_wandb: Any):
    fake = use_wandb(FakeWandb())
    with pytest.raises(ValueError, match="boom"), Tracker(tmp_path, TrackingConfig(), "me", {}):
        raise ValueError("boom")
    assert fake.run.exit_code == 1
    assert list(read_log(tmp_path / "log.jsonl"))[-1]["error"] == "ValueError: boom"


@pytest.mark.parametrize(("every", "sent"), [(5, [0, 5, 10]), (1, list(range(12))), (0, [])])
def test_previews_are_rate_limited(tmp_path: Path, use_wandb: Any, every: int, sent: list[int]):
    fake = use_wandb(FakeWandb())
    media.write_png(tmp_path / "preview.png", np.zeros((4, 6, 3), np.uint8))
    with Tracker(tmp_path, TrackingConfig(media_every=every), "me", {}) as tracker:
        for i in range(12):
            tracker(_event("preview", iteration=i, preview=str(tmp_path / "preview.png")))
        tracker.results({}, tmp_path / "preview.png", tmp_path / "preview.mp4")
    assert [step for values, step in zip(fake.run.logged, fake.run.steps, strict=True) if "preview" in values] == sent
    assert [list(values) for values in fake.run.logged[-2:]] == [["contact_sheet"], ["preview_video"]]


def test_previews_come_from_any_storage(tmp_path: Path, use_wandb: Any):
    fake = use_wandb(FakeWandb())
    media.write_png(tmp_path / "preview.png", np.zeros((4, 6, 3), np.uint8))
    Storage("memory://previews").write("preview.png", (tmp_path / "preview.png").read_bytes())
    with Tracker(tmp_path, TrackingConfig(media_every=1), "me", {}) as tracker:
        tracker(_event("preview", preview="memory://previews/preview.png"))
        tracker(_event("preview", preview="memory://previews/lost.png"))
        tracker(_event(iteration=10))
    assert [list(values) for values in fake.run.logged] == [["preview"], list(fake.run.logged[-1])]
    assert fake.run.logged[0]["preview"] == (6, 4)
    assert "iteration" in fake.run.logged[1]


def test_a_continued_avatar_continues_its_run(tmp_path: Path, use_wandb: Any):
    first = use_wandb(FakeWandb())
    config = TrackingConfig(wandb="online", group="job")
    with Tracker(tmp_path, config, "me", {}) as tracker:
        for i in range(0, 41, 10):
            tracker(_event(iteration=i))
        kept = tracker.run_id
    second = use_wandb(FakeWandb())
    with Tracker(tmp_path, TrackingConfig(wandb="online", group="renamed"), "me", {}, run_id=kept) as tracker:
        assert tracker.run_id == kept == "job-me"
        for i in range(30, 71, 10):  # from the checkpoint at 30
            tracker(_event(iteration=i))
    assert (first.calls[0]["id"], first.calls[0]["resume"]) == ("job-me", None)
    assert (second.calls[0]["id"], second.calls[0]["resume"]) == ("job-me", "allow")
    assert first.run.steps + second.run.steps == [0, 10, 20, 30, 40, 50, 60, 70]
    assert sum(r["kind"] == "iteration" for r in read_log(tmp_path / "log.jsonl")) == 10


def test_a_trainer_that_goes_back_repeats_no_step(tmp_path: Path, use_wandb: Any):
    fake = use_wandb(FakeWandb())
    with Tracker(tmp_path, TrackingConfig(), "me", {}) as tracker:
        for i in (10, 20, 30, 15, 20, 25, 30, 35):
            tracker(_event(iteration=i))
    assert fake.run.steps == [10, 20, 30, 30, 35]


def test_a_real_offline_run_is_written(tmp_path: Path):
    media.write_png(tmp_path / "preview.png", np.zeros((4, 6, 3), np.uint8))
    with Tracker(tmp_path, TrackingConfig(), "me", {"seed": 3}) as tracker:
        tracker(_event(losses={"total": 0.5}))
        tracker(_event("preview", preview=str(tmp_path / "preview.png")))
        media.write_video(tmp_path / "preview.mp4", [np.zeros((16, 16, 3), np.uint8)] * 2, 25)
        tracker.results({"psnr": 20.0}, tmp_path / "preview.png", tmp_path / "preview.mp4")
        assert tracker.wandb.mode == "offline"
    (run,) = (tmp_path / "wandb").glob("offline-run-*-me")
    assert (run / "run-me.wandb").is_file()
    assert len(list((run / "files" / "media" / "images").iterdir())) == 2
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert (first["kind"], first["wandb"], first["config"]) == ("run", "offline", {"seed": 3})
