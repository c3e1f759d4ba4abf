"""A comparison of backbones in W&B: one table, the pictures, and the figures of each setting."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tracking"))

from fake_wandb import FakeWandb

from zero1toa.batch.backbone_table import COLUMNS, Comparison
from zero1toa.config import load
from zero1toa.distributed.backbone_report import contact_sheet, log_comparison
from zero1toa.storage import Storage

ROWS = [
    Comparison("slow", "compact", 3, 3, psnr=25.5, seconds_per_clip=2.0, memory="process"),
    Comparison("quick", "fake", 3, 2, psnr=21.25, problem="bert: no face"),
]


@pytest.mark.parametrize("kind", ["path", "objects"])
def test_a_comparison_is_one_run_of_its_group(kind, tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    output = Storage(tmp_path / "out" if kind == "path" else f"memory://{tmp_path.name}/out")
    output.write("comparison.png", contact_sheet(["ada", "bert"], {"slow": {}, "quick": {}}))
    log_comparison(load(), output, "trial", ROWS, "comparison.png", pytest.fail)
    (call,) = wandb.calls
    assert (call["group"], call["job_type"]) == ("trial", "comparison")
    table = next(values["backbones"] for values in wandb.run.logged if "backbones" in values)
    assert table[0] == list(COLUMNS)
    rows = [dict(zip(table[0], row, strict=True)) for row in table[1]]
    assert [(row["setting"], row["done"], row["psnr"]) for row in rows] == [("slow", 3, 25.5), ("quick", 2, 21.25)]
    assert any("avatars" in values for values in wandb.run.logged)
    assert wandb.run.summary["quick/psnr"] == 21.25
    assert "quick/seconds_per_clip" not in wandb.run.summary  # it was not measured
    assert wandb.run.exit_code == 0
