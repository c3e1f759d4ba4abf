"""The training command end to end, in seconds, on a stand-in for the synthetic heads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.diffusion.ellipse_clips import EllipseClips
from zero1toa.diffusion.compact import CompactBackbone, read_weights
from zero1toa.diffusion.training import checkpoint
from zero1toa.diffusion.training.__main__ import main
from zero1toa.diffusion.training.data import open_source
from zero1toa.diffusion.training.run import Training
from zero1toa.diffusion.training.settings import TrainingSettings
from zero1toa.diffusion.training.validate import Setting, evaluate, held_out_clips, psnr, summarize
from zero1toa.diffusion.training.validate import main as validate_main
from zero1toa.errors import AssetError, ConfigError

ELLIPSES = "tests.diffusion.ellipse_clips:EllipseClips"
SMALL = [
    *("--data", ELLIPSES, "--device", "cpu", "--size", "32", "--frames", "2", "--short-frames", "2"),
    *("--step-frames", "4", "--image-batch", "4", "--data-clips", "4", "--pool-clips", "8"),
    *("--validation-clips", "2", "--log-seconds", "0.01", "--head-dim", "8", "--final-clips", "0"),
    *("--encoder-widths", "16,16", "--decoder-widths", "16,16", "--unet-widths", "16,32"),
]


def test_command_writes_weights_curve_and_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, "--output", str(tmp_path), "--minutes", "0.08", "--autoencoder-share", "0.5"])
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["settings"]["seed"] == 0
    assert record["diffusion_steps"] >= 1
    assert record["validations"][-1]["gain_by_kind"]
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert {"autoencoder", "diffusion", "validation"} <= {line["stage"] for line in lines}
    weights = tmp_path / "compact.safetensors"
    assert weights.stat().st_size < 40e6
    assert read_weights(weights).autoencoder.std.min() > 0
    report = tmp_path / "report.json"
    arguments = ["--weights", str(weights), "--data", ELLIPSES, "--clips", "2", "--frames", "2", "--size", "32"]
    settings = ["--strengths", "0.3", "--guidances", "1.5", "--device", "cpu", "--output", str(report)]
    validate_main([*arguments, *settings])
    assert len(json.loads(report.read_text())["settings"]) == 5  # twice with source and inverted, once re-enactment
    assert "autoencoder ceiling" in capsys.readouterr().out


def test_a_killed_run_continues(tmp_path: Path) -> None:
    """Kill the command by a signal after its first checkpoint, resume it, and find the clock going on."""
    command = [sys.executable, "-m", "zero1toa.diffusion.training", *SMALL, "--output", str(tmp_path)]
    command += ["--autoencoder-share", "0.9", "--checkpoint-seconds", "0.01", "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [*command, "--minutes", "5"], stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2]
    )
    assert first.stdout is not None
    # A checkpoint follows each line within the same step, so that the fifth line means at least four checkpoints.
    for _ in range(5):
        assert first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    state = checkpoint.load(tmp_path / "checkpoint.pt", torch.device("cpu"))
    assert state["stage"] == "autoencoder"
    assert state["elapsed"] > 0
    minutes = (state["elapsed"] + 2) / 0.9 / 60
    main([*SMALL, "--output", str(tmp_path), "--autoencoder-share", "0.9", "--resume", "--minutes", str(minutes)])
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == "autoencoder" and "loss" in line]
    assert steps == sorted(steps)
    assert steps[-1] > state["steps"]
    assert (tmp_path / "compact.safetensors").is_file()


def test_bad_checkpoints_and_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(AssetError, match="cannot resume"):
        checkpoint.load(tmp_path / "checkpoint.pt", torch.device("cpu"))
    with pytest.raises(ConfigError, match="unknown clip source"):
        open_source("films", 0, torch.device("cpu"))
    with pytest.raises(ConfigError, match="cannot open"):
        open_source("tests.diffusion.ellipse_clips:Squares", 0, torch.device("cpu"))


def test_failing_compilation_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object, dynamic: bool) -> object:
        def call(*arguments: object) -> None:
            raise RuntimeError("no compiler here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    main([*SMALL, "--output", str(tmp_path), "--minutes", "0.06", "--autoencoder-share", "0.5", "--compile"])
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    notes = [line["note"] for line in lines if "note" in line]
    assert any("no compiler here" in note for note in notes)
    assert (tmp_path / "compact.safetensors").is_file()


@pytest.mark.slow
def test_training_brings_unseen_ellipses_closer_to_the_truth(tmp_path: Path) -> None:
    """Two minutes on a CPU teach a tiny network to undo the stand-in's blur and tint on unseen identities."""
    settings = TrainingSettings(
        minutes=2.5, autoencoder_share=0.4, size=32, frames=4, short_frames=4, step_frames=32, image_batch=16,
        data_clips=8, pool_clips=256, validation_clips=4, rate=2e-3, autoencoder_rate=3e-3, ema=0.98,
        encoder_widths=(32, 48), decoder_widths=(48, 32), unet_widths=(32, 64), head_dim=16,
    )  # fmt: skip
    cpu = torch.device("cpu")
    training = Training(settings, EllipseClips(0), EllipseClips(10**6), cpu, tmp_path)
    training.natural.names.clear()
    backbone = CompactBackbone(training.run())
    clips = held_out_clips(EllipseClips(10**6), 16, 4, 32, seed=3)
    summary = summarize(evaluate(backbone, clips, Setting(strength=0.3, guidance=1.0)), clips["kind"])
    plain = backbone.decode(backbone.encode(clips["degraded"]))
    through = float(psnr(plain, clips["truth"], clips["mask"]).mean())
    assert summary["after"] > through + 0.5
