"""``python -m zero1toa.diffusion.training``: train the compact backbone and export its weights.

Writes ``compact.safetensors`` (averaged weights, half precision), ``training.json`` (command, settings, versions,
curves, validations), ``training.jsonl`` (the curve as it grows) and ``checkpoint.pt`` into the output folder.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zero1toa.diffusion.compact import CompactBackbone, CompactModel, read_weights, save_weights
from zero1toa.diffusion.training.data import HELD_OUT_SEED, open_source
from zero1toa.diffusion.training.run import Training
from zero1toa.diffusion.training.settings import TrainingSettings
from zero1toa.diffusion.training.validate import GUIDANCES, STRENGTHS, Setting, choices, held_out_clips, report


def settings_from(options: argparse.Namespace) -> TrainingSettings:
    """Settings with the command line's changes."""
    names = {field.name for field in dataclasses.fields(TrainingSettings)}
    changes = {name: value for name, value in vars(options).items() if name in names and value is not None}
    base = TrainingSettings()
    return dataclasses.replace(base.rehearsal() if options.rehearsal else base, **changes)


def final_report(model: CompactModel, training: Training, count: int) -> dict[str, Any]:
    """The table of settings on ``count`` held-out clips, other ones than those validated on during training."""
    settings = training.settings
    backbone = CompactBackbone(copy.deepcopy(model), training.device, training.dtype)
    source = training.held_out_source
    clips = held_out_clips(source, count, settings.frames, settings.size, settings.seed + 1)
    return report(backbone, clips, choices(Setting().steps, STRENGTHS, GUIDANCES))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m zero1toa.diffusion.training", description=__doc__)
    parser.add_argument("--data", default="synthetic", help="clip source: synthetic, or package.module:function")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, curve and checkpoint")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rehearsal", action="store_true", help="all of it in one minute")
    parser.add_argument("--init", type=Path, help="weights to start from; keeps their autoencoder")
    parser.add_argument("--resume", action="store_true", help="continue from the folder's checkpoint")
    parser.add_argument("--compile", action="store_const", const=True, help="use torch.compile for the diffusion step")
    for field in dataclasses.fields(TrainingSettings):
        if field.name != "compile":
            kind = _integers if isinstance(field.default, tuple) else type(field.default)
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"default {field.default}")
    parser.add_argument("--final-clips", type=int, default=128, help="held-out clips of the final table; 0 skips it")
    options = parser.parse_args(arguments)

    settings = settings_from(options)
    device = torch.device(options.device)
    started = time.time()
    training = Training(
        settings,
        open_source(options.data, settings.seed, device),
        open_source(options.data, HELD_OUT_SEED + settings.seed, device),
        device,
        options.output,
        options.resume,
        None if options.init is None else read_weights(options.init),
    )
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # few shapes, each met thousands of times
    model = training.run()
    summary = {
        "data": options.data,
        "settings": dataclasses.asdict(settings),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "seconds": round(time.time() - started, 1),
        "diffusion_steps": training.steps,
    }
    weights = options.output / "compact.safetensors"
    save_weights(model, weights, {"training": json.dumps(summary)})
    record: dict[str, Any] = {
        "command": ["python", "-m", "zero1toa.diffusion.training", *(sys.argv[1:] if arguments is None else arguments)],
        **summary,
        "validations": training.validations,
        "curve": training.log.lines,
    }
    _write(options.output / "training.json", record)
    print(f"wrote {weights}", flush=True)
    if options.final_clips:
        record["report"] = final_report(model, training, options.final_clips)
        _write(options.output / "training.json", record)


def _write(path: Path, record: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
