"""What does ``preset=fast`` trade against ``preset=paper``? ``python benchmarks/fast_preset.py``.

Three tables. Network evaluations of one refinement by backbone, counted as ``zero1toa plan`` counts them, and seconds
where a rate was measured. Refinements of one clip by the tiny networks of the recorded tensors: how far fast is from
paper, beside how far paper is from itself with twice the steps, which says what the choice of steps is worth anyway
(their weights are random, so these are distances and no qualities). And the gain of the compact backbone on held-out
clips at both settings, as ``python -m zero1toa.diffusion.training.validate`` measures it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zero1toa.config import DiffusionConfig, load
from zero1toa.diffusion.compact import CompactBackbone, read_weights
from zero1toa.diffusion.facts import backbone_spec
from zero1toa.diffusion.sampling import refine_latents
from zero1toa.diffusion.training.data import HELD_OUT_SEED, open_source
from zero1toa.diffusion.training.validate import Setting, evaluate, held_out_clips, summarize, table_line
from zero1toa.planning.counting import count_work
from zero1toa.planning.rates import DIFFUSION

BACKBONES = ("follow_your_emoji", "aniportrait", "echomimic", "compact")


def count(presets: dict[str, DiffusionConfig], frames: int) -> None:
    """Print evaluations, and predicted seconds, of one refinement."""
    print(f"one refinement of {frames} frames: network evaluations (frames), seconds where a rate was measured")
    for name in BACKBONES:
        parts = []
        for preset, config in presets.items():
            work = count_work(backbone_spec(name), dataclasses.replace(config, backbone=name), frames)
            rate = DIFFUSION.get(name)
            seconds = ""
            if rate is not None:
                total = work.single_frames * rate.single + work.guided_frames * rate.guided
                total += work.encoded_frames * rate.encode + work.decoded_frames * rate.decode
                seconds = f", {total / rate.frames:.2f} s on {rate.gpu}"
            parts.append(f"{preset} {work.frame_evaluations:.0f}{seconds}")
        print(f"{name:<18s} {'; '.join(parts)}")


def compare_recorded(presets: dict[str, DiffusionConfig]) -> None:
    """Print distances of refined latents and frames, by the three animators at the size of the recordings."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the recordings are read by the tests
    from tests.diffusion import golden
    from tests.diffusion.tiny_animators import NAMES, Recording

    if not golden.FOLDER.is_dir():
        print(f"recorded tensors: none in {golden.FOLDER}, left out")
        return
    print("recorded tiny networks: RMS of latents over their standard deviation, PSNR of decoded frames")
    finer = dataclasses.replace(presets["paper"], steps=2 * presets["paper"].steps)
    for name in NAMES:
        run = Recording(name)
        clip = run.output("ddim4/latents")[-1]
        refined = {
            label: _refined(run, clip, config) for label, config in {**presets, "paper, twice the steps": finer}.items()
        }
        pairs = [("fast", "paper"), ("paper", "paper, twice the steps"), ("fast", "clip"), ("paper", "clip")]
        for one, other in pairs:
            a, b = refined[one], clip if other == "clip" else refined[other]
            relative = float((a - b).square().mean().sqrt() / b.std())
            frames = (run.backbone.decode(a) - run.backbone.decode(b)).square().mean()
            print(
                f"{name:<18s} {one} to {other:<24s} {relative:6.3f}  {float(-10 * frames.log10()):6.2f} dB", flush=True
            )


def _refined(run: Any, clip: Tensor, config: DiffusionConfig) -> Tensor:
    return refine_latents(
        run.backbone, clip, run.reference, run.control,
        steps=config.steps, strength=config.strength, guidance=config.guidance,
    )  # fmt: skip


def compare_compact(presets: dict[str, DiffusionConfig], clips: int, frames: int, seed: int) -> None:
    """Print the compact backbone's gain on held-out clips."""
    device = torch.device("cpu")
    backbone = CompactBackbone(read_weights(), device)
    held_out = held_out_clips(open_source("synthetic", seed, device), clips, frames, 128, seed)
    print(f"compact backbone, {clips} held-out clips of {frames} frames, decoded")
    for preset, config in presets.items():
        setting = Setting(config.steps, config.strength, config.guidance)
        print(table_line(preset, summarize(evaluate(backbone, held_out, setting), held_out["kind"])), flush=True)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8, help="of the compact backbone's table")
    parser.add_argument("--frames", type=int, default=8, help="likewise")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED + 2)
    options = parser.parse_args()
    configs = {name: load([f"preset={name}"]) for name in ("paper", "fast", "standard")}
    presets = {name: config.diffusion for name, config in configs.items()}
    trading = {name: presets[name] for name in ("paper", "fast")}
    count(trading, configs["paper"].curriculum.frames)
    compare_recorded(trading)
    compare_compact(presets, options.clips, options.frames, options.seed)


if __name__ == "__main__":
    main()
