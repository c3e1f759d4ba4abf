"""Tracking never stops a run, and forgets nothing."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from zero1toa.config import TrackingConfig
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.tracking.jsonl import read_log
from zero1toa.tracking.tracker import Tracker


class FakeRun:
    """The part of a W&B run that is used; it can be told to break."""

    def __init__(self, broken: bool = False):
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None
        self.broken = broken

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        if self.broken:
            raise RuntimeError("the service died\nwith details")
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb(types.ModuleType):
    """Stands in for the library: modes listed in ``failing`` cannot start."""

    def __init__(self, failing: tuple[str, ...] = (), broken: bool = False):
        super().__init__("wandb")
        self.failing, self.run, self.calls = failing, FakeRun(broken), []

    def init(self, **kwargs: Any) -> FakeRun:
        self.calls.append(kwargs)
        if kwargs["mode"] in self.failing:
            raise ConnectionError(f"no {kwargs['mode']}")
        return self.run

    def Settings(self, **kwargs: Any) -> dict[str, Any]:
        return kwargs

    def Image(self, path: str) -> str:
        return path

    def Video(self, path: str, format: str) -> str:
        return path


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
    assert {call["id"] for call in fake.calls} == {"job-1-me"}
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


def test_previews_are_rate_limited(tmp_path: Path, use_wandb: Any):
    fake = use_wandb(FakeWandb())
    with Tracker(tmp_path, TrackingConfig(), "me", {}) as tracker:
        for i in range(12):
            tracker(_event("preview", iteration=i, preview=tmp_path / f"{i}.png"))
    assert len([values for values in fake.run.logged if "preview" in values]) == 3


def test_a_real_offline_run_is_written(tmp_path: Path):
    with Tracker(tmp_path, TrackingConfig(), "me", {"seed": 3}) as tracker:
        assert tracker.wandb.mode == "offline"
        tracker(_event(losses={"total": 0.5}))
    assert list((tmp_path / "wandb").glob("offline-run-*-me/run-me.wandb"))
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert (first["kind"], first["wandb"], first["config"]) == ("run", "offline", {"seed": 3})
