"""Speed of the compact backbone on this machine: each part, and a whole refinement of a clip.

    python benchmarks/compact_backbone.py [--frames 16] [--threads 2] [--device cpu] [--untrained] [--json result.json]

Times do not depend on the weights, so that ``--untrained`` measures the same without the weights file. The median of
several calls is printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from zero1toa.diffusion.compact import CompactBackbone, CompactModel, read_weights
from zero1toa.diffusion.landmark_map import draw_landmarks
from zero1toa.diffusion.sampling import refine_latents, seeded_noise


def milliseconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median wall time of a call after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def measure(frames: int, size: int, device: torch.device, repeats: int, untrained: bool) -> dict[str, float]:
    """Milliseconds by part, for one clip."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    backbone = CompactBackbone(CompactModel() if untrained else read_weights(), device, dtype)
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(1, frames, size, size, 3, generator=generator).to(device)
    landmarks = torch.rand(frames, 478, 2, generator=generator).to(device)
    maps = draw_landmarks(landmarks, size)[None] / 255
    latents = backbone.encode(clip)
    reference = backbone.prepare_reference(clip[:, 0], maps[:, 0])
    control = backbone.prepare_control(maps, latents)

    noise = seeded_noise(latents, 0)

    def refine(steps: int, strength: float, inverted: bool = False) -> Callable[[], object]:
        def run() -> object:
            encoded = backbone.encode(clip)
            guide = backbone.prepare_control(maps, None if inverted else encoded)
            refined = refine_latents(
                backbone, encoded, reference, guide, steps=steps, strength=strength, noise=None if inverted else noise
            )
            return backbone.decode(refined)

        return run

    calls: dict[str, Callable[[], object]] = {
        "draw landmark maps": lambda: draw_landmarks(landmarks, size),
        "encode": lambda: backbone.encode(clip),
        "decode": lambda: backbone.decode(latents),
        "reference features": lambda: backbone.prepare_reference(clip[:, 0], maps[:, 0]),
        "landmark features": lambda: backbone.prepare_control(maps, latents),
        "predict": lambda: backbone.predict(latents, 299, reference, control, conditional=True),
        "predict with guidance": lambda: backbone.predict_guided(latents, 299, reference, control, 1.5),
        "refine from noise, 1 step (strength 0.1 of 10)": refine(10, 0.1),
        "refine from noise, 3 steps (strength 0.3 of 10)": refine(10, 0.3),
        "refine by inversion, 3 + 3 steps (strength 0.3 of 10)": refine(10, 0.3, inverted=True),
        "refine by inversion, 25 + 25 steps (strength 1)": refine(25, 1.0, inverted=True),
    }
    return {name: milliseconds(call, 1 if "25 +" in name else repeats, device) for name, call in calls.items()}


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    times = measure(options.frames, options.size, device, options.repeats, options.untrained)
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, {options.frames} frames at {options.size}")
    for part, value in times.items():
        print(f"{part:<42} {value:10.1f} ms")
    if options.json:
        record = {"device": name, "threads": options.threads, "frames": options.frames, "milliseconds": times}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
