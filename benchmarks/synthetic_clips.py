"""Clips of synthetic heads per second on the device at hand: ``python benchmarks/synthetic_clips.py``."""

from __future__ import annotations

import argparse
import time

import torch

from zero1toa.evaluation.synthetic import KINDS, SyntheticClips
from zero1toa.evaluation.synthetic.preview import masked_psnr
from zero1toa.head.registry import load_head


def main() -> None:
    """Time :meth:`SyntheticClips.sample` and print the quality of the degraded clips by kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=64 if torch.cuda.is_available() else 2)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8 if torch.cuda.is_available() else 2)
    options = parser.parse_args()
    clips = SyntheticClips(load_head("canonical"), 0, options.device)
    generator = torch.Generator().manual_seed(0)
    clips.sample(generator, options.batch, options.frames, options.size)  # compiles the rasteriser
    times, quality, kinds = [], [], []
    for _ in range(options.rounds):
        _wait(options.device)
        start = time.perf_counter()
        batch = clips.sample(generator, options.batch, options.frames, options.size)
        _wait(options.device)
        times.append(time.perf_counter() - start)
        quality.append(masked_psnr(batch).cpu())
        kinds.append(batch["kind"].cpu())
    median = sorted(times)[len(times) // 2]
    what = f"{options.frames} frames at {options.size} pixels, batch {options.batch}, {options.device}"
    print(f"{options.batch / median:.1f} clips/s ({what}, median of {options.rounds})")
    if options.device.startswith("cuda"):
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    psnr, kind = torch.cat(quality), torch.cat(kinds)
    for index, name in enumerate(KINDS):
        if (kind == index).any():
            print(
                f"degraded, {name}: {float(psnr[kind == index].mean()):.1f} dB over {int((kind == index).sum())} clips"
            )
    low, mid, high = torch.quantile(psnr, torch.tensor([0.1, 0.5, 0.9])).tolist()
    print(f"degraded, all: mean {float(psnr.mean()):.1f} dB, 10/50/90 % {low:.1f} / {mid:.1f} / {high:.1f}")


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
