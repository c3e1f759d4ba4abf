"""How exactly does inversion with the compact backbone come back to the render? ``python benchmarks/round_trip.py``.

Renders of held-out synthetic people, exact ones and ones as a half-trained avatar gives them, are encoded, inverted and
denoised at guidance 1 with the same reference and landmarks in both directions and without their source, and decoded.
PSNR says how near the pictures come to the render after the autoencoder alone (the error of the round trip itself), in
the whole frame and on the head, and to the render (the autoencoder's error on top): means over the clips, and the
worst clip. Evaluations of the network are of one clip, both directions together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zero1toa.diffusion.compact import CompactBackbone, read_weights
from zero1toa.diffusion.sampling import refine_latents
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.diffusion.training.data import HELD_OUT_SEED, open_source
from zero1toa.diffusion.training.validate import held_out_clips, psnr

GOAL = 30.0
"""dB that a round trip should reach."""

Triple = tuple[int, float, int]
"""Steps, strength, fixed-point iterations."""

SETTINGS: tuple[Triple, ...] = (
    *((10, strength, iterations) for strength in (0.3, 1.0) for iterations in (0, 1, 2)),
    *((25, 0.3, iterations) for iterations in (0, 1)),
    *((25, 1.0, iterations) for iterations in (0, 1, 2)),
    *((50, strength, iterations) for strength in (0.3, 1.0) for iterations in (0, 1)),
)
"""Those of the table in docs/compact_backbone.md."""


def held_out_renders(clips: int, frames: int, seed: int, device: torch.device) -> dict[str, Any]:
    """Exact and half-trained renders of the same people one after the other, with reference, landmarks and mask."""
    found = held_out_clips(open_source("synthetic", seed, device), clips, frames, 128, seed)
    twice = {name: torch.cat([found[name]] * 2) for name in ("reference", "reference_map", "maps", "mask")}
    return {"renders": torch.cat([found["truth"], found["degraded"]]), **twice}


@torch.no_grad()
def measure(backbone: CompactBackbone, clips: dict[str, Any], settings: Sequence[Triple]) -> list[dict[str, float]]:
    """Round trips of all clips in all settings (steps, strength, fixed-point iterations); prints a line for each."""
    renders, mask = clips["renders"], clips["mask"]
    latents = backbone.encode(renders)
    reference = backbone.prepare_reference(clips["reference"], clips["reference_map"].float() / 255)
    control = backbone.prepare_control(clips["maps"].float() / 255)
    plain = backbone.decode(latents)
    schedule = NoiseSchedule.from_config(backbone.spec.scheduler)
    print("steps strength  fixed-point  evaluations | frame  worst | head   worst | to the render  worst")
    _line("autoencoder alone", [psnr(plain, renders, torch.ones_like(mask))])
    lines: list[dict[str, float]] = []
    for steps, strength, iterations in settings:
        refined = refine_latents(
            backbone, latents, reference, control,
            steps=steps, strength=strength, guidance=1.0, fixed_point_iterations=iterations,
        )  # fmt: skip
        pictures = backbone.decode(refined)
        everywhere = torch.ones_like(mask)
        found = [
            psnr(pictures, plain, everywhere),
            psnr(pictures, plain, mask),
            psnr(pictures, renders, everywhere),
        ]
        evaluations = len(schedule.timesteps(steps, strength)) * (2 + iterations)
        reached = [float(values.min()) >= GOAL for values in found[:2]]
        verdict = "frame and head" if all(reached) else "frame" if reached[0] else "neither"
        title = f"{steps:5d} {strength:8g} {iterations:12d} {evaluations:12d}"
        _line(title, found, f"{GOAL:g} dB in every clip: {verdict}")
        line = {"steps": steps, "strength": strength, "fixed_point_iterations": iterations, "evaluations": evaluations}
        for name, values in zip(("frame", "head", "render"), found, strict=True):
            line[name], line[f"{name}_worst"] = float(values.mean()), float(values.min())
        lines.append(line)
    return lines


def _line(title: str, columns: Sequence[Tensor], end: str = "") -> None:
    figures = " | ".join(f"{float(values.mean()):5.1f}  {float(values.min()):5.1f}" for values in columns)
    print(f"{title:<40s} | {figures}  {end}", flush=True)


def _triple(text: str) -> Triple:
    steps, strength, iterations = text.split(",")
    return int(steps), float(strength), int(iterations)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2, help="people; each gives an exact and a half-trained render")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED + 2)
    parser.add_argument(
        "--settings", type=_triple, nargs="+", default=SETTINGS, metavar="STEPS,STRENGTH,FIXED_POINT_ITERATIONS"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    backbone = CompactBackbone(read_weights(), device)  # float32: half precision would be part of the error
    clips = held_out_renders(options.clips, options.frames, options.seed, device)
    lines = measure(backbone, clips, options.settings)
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, "lines": lines}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
