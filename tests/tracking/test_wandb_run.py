"""Ids of W&B runs, the run of a batch, and the report that draws both kinds."""

import ast
import itertools
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_wandb import FakeWandb

from zero1toa import media
from zero1toa.batch.records import Row, Sample
from zero1toa.config import TrackingConfig
from zero1toa.errors import ConfigError, UserError
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.tracking.system_run import SystemRun
from zero1toa.tracking.tracker import Tracker
from zero1toa.tracking.wandb_report import build_report, read_report, save_report
from zero1toa.tracking.wandb_run import WandbRun, run_identity


@pytest.fixture
def use_wandb(monkeypatch: pytest.MonkeyPatch):
    def use(fake: FakeWandb) -> FakeWandb:
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return use


def test_ids_are_stable_and_differ():
    assert run_identity("job", "face_01.a") == "job-face_01.a"
    assert run_identity("", "me") == "me"
    assert run_identity("job", "system", "system") == "job-system"
    ids = [
        run_identity(group, name, kind)
        for group in ("job", "a job", "a/job", "j" * 80)
        for name, kind in (("system", "avatar"), ("system", "system"), ("Zoë", "avatar"), ("Zo-", "avatar"))
    ]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", one) for one in ids)


@pytest.mark.parametrize(
    ("mode", "version", "resume"),
    [("online", "0.28.0", "allow"), ("offline", "0.28.0", None), ("offline", "0.31.0", "allow")],
)
def test_offline_runs_resume_where_w_and_b_can(tmp_path: Path, use_wandb: Any, mode: str, version: str, resume: Any):
    fake = use_wandb(FakeWandb(version=version))
    for run_id in ("", "kept"):
        WandbRun(TrackingConfig(wandb=mode), tmp_path, "me", {}, print, run_id=run_id)
    assert [call["resume"] for call in fake.calls] == [None, resume]


def test_steps_that_the_server_has_are_left_out(tmp_path: Path, use_wandb: Any):
    fake = use_wandb(FakeWandb(starting_step=21))
    run = WandbRun(TrackingConfig(wandb="online"), tmp_path, "me", {}, print, run_id="kept")
    for step in (10, 20, 21, 30):
        run.log({"a": step}, step)
    assert fake.run.steps == [21, 30]


def _samples() -> list[Sample]:
    more = {"waiting": 9, "preparing": 1, "training": 4, "finishing": 1, "failed": 2}
    return [
        Sample(0.0, done=0, clips=0, iterations=0, **more),
        Sample(1200.0, done=2, clips=40, iterations=1200, queue=3, busy=0.75, age=12.0, **more),
        Sample(2400.0, done=5, clips=40, iterations=1500, **more),
        Sample(3600.0, done=9, clips=100, iterations=4500, **more),
    ]


def test_the_batch_has_its_run(tmp_path: Path, use_wandb: Any):
    fake = use_wandb(FakeWandb())
    with SystemRun(tmp_path, TrackingConfig(), "job", {"seed": 1}, attempt=3) as run:
        for sample in _samples():
            run.sample(sample)
        run.ledger(
            [
                Row("a", "done", attempts=1, gpu_seconds=5.0, metrics={"psnr": 20.0, "clips": 3}, thumbnail="a/t.jpg"),
                Row("b", "failed", reason="no face", attempts=3),
            ]
        )
        assert run.run_id == "job-system"
    (call,) = fake.calls
    assert (call["id"], call["job_type"], call["group"]) == ("job-system", "system", "job")
    assert call["resume"] is None  # offline
    assert fake.run.steps == [20_000_000 + seconds for seconds in (0, 1200, 2400, 3600, 3600)]
    logged = fake.run.logged
    assert logged[1]["batch/queue_depth"] == 3
    assert logged[1]["batch/refiner_utilisation"] == 0.75
    assert logged[1]["batch/clip_age"] == 12.0
    assert logged[1]["portraits/training"] == 4
    # Half an hour back from 2400 s lies between the first two samples; from 3600 s it is the one at 1200 s.
    assert [one.get("batch/avatars_per_hour") for one in logged[:4]] == [None, 6.0, 7.5, 10.5]
    assert [one.get("batch/effective_interval") for one in logged[:4]] == [None, 30.0, 37.5, 55.0]
    columns, data = logged[4]["ledger"]
    assert columns == ["id", "state", "reason", "attempts", "gpu_seconds", "clips", "psnr", "thumbnail"]
    assert data == [
        ["a", "done", "", 1, 5.0, 3.0, 20.0, "a/t.jpg"],
        ["b", "failed", "no face", 3, 0.0, None, None, ""],
    ]
    assert fake.run.summary == {"ledger/done": 1, "ledger/failed": 1}
    assert fake.run.exit_code == 0


def test_batches_of_one_group_have_runs_of_their_own(tmp_path: Path, use_wandb: Any):
    fake = use_wandb(FakeWandb())
    for label in ("one", "two"):
        tracking = TrackingConfig(group="trial", label=label)
        with SystemRun(tmp_path, tracking, f"job-{label}", {}), Tracker(tmp_path / label, tracking, "me", {}):
            pass
    with SystemRun(tmp_path, TrackingConfig(group="trial"), "job", {}):
        pass
    assert {call["group"] for call in fake.calls} == {"trial"}
    ids = ["trial-one-system", "trial-one-me", "trial-two-system", "trial-two-me", "trial-job-system"]
    assert [call["id"] for call in fake.calls] == ids


@pytest.mark.parametrize(("attempt", "resume", "steps"), [(1, None, [0, 1200]), (2, "allow", [10_000_000, 10_001_200])])
def test_a_job_that_is_submitted_again_continues(
    tmp_path: Path, use_wandb: Any, attempt: int, resume: Any, steps: list[int]
):
    fake = use_wandb(FakeWandb(starting_step=3601 if attempt == 2 else 0))
    with SystemRun(tmp_path, TrackingConfig(wandb="online"), "job", {}, attempt=attempt) as run:
        for sample in _samples()[:2]:
            run.sample(sample)
    assert fake.calls[0]["resume"] == resume
    assert fake.run.steps == steps


def test_a_batch_outlives_w_and_b(tmp_path: Path, use_wandb: Any):
    use_wandb(FakeWandb(broken=True))
    said: list[str] = []
    with SystemRun(tmp_path, TrackingConfig(), "job", {}, said.append) as run:
        for sample in _samples():
            run.sample(sample)
        run.ledger([Row("a", "done")])
    assert said == ["W&B stopped working and is left out from here: the service died"]


def test_the_real_library_takes_samples_and_the_ledger(tmp_path: Path):
    said: list[str] = []
    with SystemRun(tmp_path, TrackingConfig(), "job", {}, said.append) as run:
        run.sample(Sample(0.0))
        run.ledger([Row("a", "done", metrics={"psnr": 20.0}), Row("b", "rejected", reason="no face")])
    assert said == []
    assert list(tmp_path.glob("wandb/offline-run-*-job-system/files/media/table/ledger*.json"))


def test_the_report_draws_what_is_logged_and_nothing_else(tmp_path: Path, use_wandb: Any):
    batch = use_wandb(FakeWandb())
    with SystemRun(tmp_path, TrackingConfig(), "job", {}) as system:
        for sample in _samples():
            system.sample(sample)
        system.ledger([])
    avatar = use_wandb(FakeWandb())
    picture = tmp_path / "preview.png"
    media.write_png(picture, np.zeros((4, 6, 3), np.uint8))
    with Tracker(tmp_path, TrackingConfig(), "me", {}) as tracker:
        timings = {"encode": 0.1, "denoise": 0.2, "decode": 0.1}
        tracker(ProgressEvent("iteration", "me", "spatial", 5, 10, losses={"total": 1.0}))
        tracker(ProgressEvent("answered", "me", "spatial", 5, 10, timings=timings))
        tracker(ProgressEvent("preview", "me", "spatial", 5, 10, preview=str(picture)))
        tracker.results({}, picture, picture)
    logged = {
        "system": {key for values in batch.run.logged for key in values},
        "avatar": {key for values in avatar.run.logged for key in values},
    }
    spec = read_report()
    for grid in spec.grids:
        for panel in grid.panels:
            assert set(panel.keys) <= logged[grid.runs], panel.title
            assert panel.x in {"", "iteration", "RelativeTime(Wall)"}
            assert bool(panel.x) == (panel.kind == "lines")
        for a, b in itertools.combinations([panel.box for panel in grid.panels], 2):
            apart = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0]
            assert apart or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1], (a, b)
    drawn = {key for grid in spec.grids if grid.runs == "system" for panel in grid.panels for key in panel.keys}
    assert drawn == logged["system"]


class _Made:
    """Any object of wandb-workspaces: its class's name and what it was given."""

    def __init__(self, name: str, given: dict[str, Any]):
        self.name, self.given = name, given

    def save(self) -> Any:
        raise ConnectionError("no network\nat all")


class _Package(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **given: _Made(name, {**dict(enumerate(args)), **given})


@pytest.fixture
def workspaces(monkeypatch: pytest.MonkeyPatch):
    package, reports = types.ModuleType("wandb_workspaces"), types.ModuleType("wandb_workspaces.reports")
    reports.v2 = _Package("wandb_workspaces.reports.v2")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb_workspaces", package)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", reports)


def _selected(filters: str) -> dict[str, str]:
    """What a filter asks for, after the package has put its own operators for those that it finds in the text."""
    text = re.sub(r"(?<![!<>=])=(?!=)", "==", filters)
    text = re.sub(r">(?!=)", ">=", re.sub(r"<(?!=)", "<=", text))
    (test,) = (node for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.BoolOp))
    assert isinstance(test.op, ast.And)
    wanted = {}
    for value in test.values:
        left, (operator, right) = ast.unparse(value.left), (value.ops[0], value.comparators[0])
        assert isinstance(operator, ast.Eq)
        wanted[left] = ast.literal_eval(right)
    return wanted


@pytest.mark.parametrize("job", ["my job", "lr=3", "a<b>c", 'it\'s "one"', "back\\slash", "Zoë/#1"])
def test_a_report_is_about_one_job(workspaces: None, job: str):
    report = build_report(read_report(), "team", "project", job)
    assert report.given["title"] == f"zero1toa: {job}"
    grids = [block.given for block in report.given["blocks"] if block.name == "PanelGrid"]
    assert [_selected(grid["runsets"][0].given["filters"]) for grid in grids] == [
        {"Metric('JobType')": kind, "Metric('Group')": job} for kind in ("system", "avatar", "avatar")
    ]
    panels = grids[0]["panels"]
    assert [panel.name for panel in panels] == ["LinePlot"] * 8 + ["WeavePanelSummaryTable"]
    assert panels[0].given["plot_type"] == "stacked-area"
    assert panels[1].given["y"] == ["batch/avatars_per_hour"]
    assert panels[1].given["layout"].given == {"x": 12, "y": 0, "w": 12, "h": 8}
    assert grids[1]["panels"][0].given["groupby_aggfunc"] == "mean"


def test_without_network_one_line_says_so(workspaces: None):
    with pytest.raises(UserError, match=r"^cannot save the report in team/project: no network; try `wandb login`$"):
        save_report("team", "project", "job")


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match="pip install wandb-workspaces"):
        save_report("team", "project", "job")


@pytest.mark.parametrize(
    "text",
    ["title: x\ngrids: [{heading: a, runs: avatar, colour: red, panels: []}]", "title: x\ngrids: 3", "- 1"],
)
def test_a_wrong_definition_is_refused(tmp_path: Path, text: str):
    (tmp_path / "report.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"report\.yaml"):
        read_report(tmp_path / "report.yaml")


def test_a_panel_of_no_known_kind_is_refused(tmp_path: Path):
    panel = "{kind: pie, title: p, keys: [a], box: [0, 0, 1, 1]}"
    (tmp_path / "report.yaml").write_text(f"title: x\ngrids: [{{heading: a, runs: avatar, panels: [{panel}]}}]")
    with pytest.raises(ConfigError, match="kind 'pie'"):
        read_report(tmp_path / "report.yaml")
