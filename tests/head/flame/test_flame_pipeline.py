"""The pipeline on a FLAME-shaped head: fitting a photo, and a whole run of ``generate``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from zero1toa.cli import app
from zero1toa.errors import HeadModelError
from zero1toa.head.arkit import coefficients
from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.flame.model import FlameHead
from zero1toa.portrait.fitting import fit_head, portrait_intrinsics
from zero1toa.portrait.keeping import kept_portrait
from zero1toa.storage import Storage

SMALL = (
    "loop.iterations=6", "loop.update_interval=2", "loop.checkpoint_every=3", "loop.preview_every=3",
    "loop.batch_frames=1", "render.size=64", "avatar.gaussians_per_triangle=1", "curriculum.frames=2",
    "curriculum.temporal_start=2", "curriculum.real_start=4", "diffusion.backbone=fake", "diffusion.steps=2",
    "tracking.wandb=disabled",
)  # fmt: skip


def test_a_photographed_flame_head_is_found_again(flame: FlameHead) -> None:
    """Landmarks of a known head through a pinhole camera 0.9 m away, in float64, give back identity and expression."""
    shape = torch.zeros(300)
    shape[:8] = torch.tensor([0.8, -0.6, 0.5, 0.0, -0.7, 0.4, 0.3, -0.5])
    person = flame.arkit(coefficients({"jawOpen": 0.5, "mouthSmileLeft": 0.7}), flame.neutral().replace(shape=shape))
    with torch.no_grad():
        marks = flame.landmarks.positions(flame.vertices(person), flame.faces).double().numpy()
    camera = (marks - [0.0, 0.0, 0.03]) * [1, -1, -1] + [0.0, 0.0, 0.9]
    pixels = 1500 * camera[:, :2] / camera[:, 2:] + 256
    points = np.concatenate([pixels, 1500 / 0.9 * camera[:, 2:]], axis=1)
    fit = fit_head(points, portrait_intrinsics(points, (256.0, 256.0)), flame)
    assert fit.residual < 0.004
    assert fit.params.model == "flame-2020"
    assert float(fit.arkit[coefficients({"jawOpen": 1}).bool()]) == pytest.approx(0.5, abs=0.2)
    assert float(fit.arkit[coefficients({"mouthSmileLeft": 1}).bool()]) == pytest.approx(0.7, abs=0.35)
    assert float(fit.arkit[coefficients({"mouthSmileRight": 1}).bool()]) < 0.25
    assert abs(fit.yaw) < 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_generate_runs_on_flame(flame_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZERO1TOA_HOME", str(flame_home))
    output = tmp_path / "out"
    arguments = ["generate", "sample:astronaut", "--output", str(output), "--serial", "head=flame2020", *SMALL]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    about = json.loads((output / "avatar" / "avatar.json").read_text())
    assert about["head"]["name"] == "flame-2020"
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["figures"]["fit_residual"] < 0.01
    assert metrics["figures"]["outline_iou"] > 0.9
    portrait = kept_portrait(Storage(output))
    assert portrait is not None
    assert portrait.params.model == "flame-2020"
    with pytest.raises(HeadModelError, match="cannot be mixed"):
        CanonicalHead.load().vertices(portrait.params)
    picture = tmp_path / "x.png"
    shown = CliRunner().invoke(
        app, ["render", str(output), "--expression", "jawOpen=0.8", "--size", "64", "-o", str(picture)]
    )
    assert shown.exit_code == 0, shown.output
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    without = CliRunner().invoke(app, ["render", str(output), "-o", str(picture)])
    assert without.exit_code == 2
    assert "flame2020 is not installed" in without.stderr
