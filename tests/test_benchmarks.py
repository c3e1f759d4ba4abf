"""Benchmarks run, at sizes of a test: their figures come from a GPU, where nobody wants to learn that they do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["follow_your_emoji", "aniportrait"])
def test_the_animators_benchmark(model: str, tmp_path: Path) -> None:
    """Every part of it; the public pipelines' structure predicts what the package does."""
    command = [
        sys.executable,
        ROOT / "benchmarks" / "animator_speed.py",
        "--tiny",
        "--device",
        "cpu",
        "--models",
        model,
    ]
    done = subprocess.run([*command, "--output", tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    results = json.loads((tmp_path / "animator_speed.json").read_text())["results"]
    for name in ("step", "inversion"):
        assert f"{model}, compiled: {name} TFLOP/s" in results
    assert results[f"{model}: start-up from files s"]["value"] > 0
    assert results[f"{model}: public / ours"]["value"] > 0
    difference = results[f"{model}, public structure: relative difference to the package's"]["value"]
    assert difference < 1e-3
    assert results[f"{model}: relative difference of compiled to float32"]["value"] == 0  # no kernels on a CPU
