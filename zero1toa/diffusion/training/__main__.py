"""``python -m zero1toa.diffusion.training``: train the compact backbone and export its weights.

Writes ``compact.safetensors`` (averaged weights, half precision), ``training.json`` (command, settings, versions,
curves, validations), ``training.jsonl`` (the curve as it grows) and ``checkpoint.pt`` into the output folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from zero1toa.diffusion.compact import save_weights
from zero1toa.diffusion.training.data import HELD_OUT_SEED, open_source
from zero1toa.diffusion.training.run import Training
from zero1toa.diffusion.training.settings import TrainingSettings


def settings_from(options: argparse.Namespace) -> TrainingSettings:
    """Settings with the command line's changes."""
    names = {field.name for field in dataclasses.fields(TrainingSettings)}
    changes = {name: value for name, value in vars(options).items() if name in names and value is not None}
    base = TrainingSettings()
    return dataclasses.replace(base.rehearsal() if options.rehearsal else base, **changes)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m zero1toa.diffusion.training", description=__doc__)
    parser.add_argument("--data", default="synthetic", help="clip source: synthetic, or package.module:function")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, curve and checkpoint")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rehearsal", action="store_true", help="all of it in one minute")
    parser.add_argument("--resume", action="store_true", help="continue from the folder's checkpoint")
    parser.add_argument("--compile", action="store_const", const=True, help="use torch.compile for the diffusion step")
    for field in dataclasses.fields(TrainingSettings):
        if field.name != "compile":
            kind = _integers if isinstance(field.default, tuple) else type(field.default)
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"default {field.default}")
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
    )
    model = training.run()
    record = {
        "command": ["python", "-m", "zero1toa.diffusion.training", *(sys.argv[1:] if arguments is None else arguments)],
        "data": options.data,
        "settings": dataclasses.asdict(settings),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "seconds": round(time.time() - started, 1),
        "diffusion_steps": training.steps,
        "validations": training.validations,
        "curve": training.log.lines,
    }
    path = options.output / "training.json"
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    short = {key: record[key] for key in ("data", "settings", "seconds", "diffusion_steps")}
    save_weights(model, options.output / "compact.safetensors", {"training": json.dumps(short)})
    print(f"wrote {options.output / 'compact.safetensors'} and {path}")


if __name__ == "__main__":
    main()
