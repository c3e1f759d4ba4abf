"""Frames a second of the CPU rasteriser, beside the plain torch version of the same formulas, and of SSIM.

    python benchmarks/rasteriser.py [--threads 2] [--quick] [--json result.json]

The scene is an ellipsoid shell of Gaussians that covers 70 % of the picture, some 38 of them contributing to each
covered pixel. Wall times are medians of repeated calls, beside whatever else the machine is doing; the processor time
that is printed with them depends much less on that. torch itself is held to one thread: its own threads spin while they
wait, which costs more than they bring here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zero1toa.render.cameras import intrinsics, orbit
from zero1toa.render.rasterize import rasterize
from zero1toa.render.ssim import ssim, ssim_map_torch
from zero1toa.render.threads import available_cores, set_threads

COUNTS, SIZES = (5_000, 20_000, 60_000), (128, 256, 512)
TARGET_RATIO = 25.0


def shell(count: int, size: int, frames: int = 1) -> dict[str, Tensor]:
    """An ellipsoid shell of ``count`` Gaussians that covers 70 % of a ``size`` x ``size`` picture."""
    generator = torch.Generator().manual_seed(0)
    outward = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    radii = torch.tensor([0.085, 0.11, 0.095])
    spacing = math.sqrt(4 * math.pi * 0.097**2 / count)
    azimuths = torch.linspace(-30, 30, frames) if frames > 1 else torch.zeros(1)
    return {
        "means": outward * radii,
        "quats": torch.randn(count, 4, generator=generator),
        "scales": 0.6 * spacing * torch.exp(0.3 * torch.randn(count, 3, generator=generator)),
        "opacities": torch.sigmoid(torch.randn(count, generator=generator) - 1.0),
        "colors": 0.5 + 0.5 * outward * torch.rand(count, 3, generator=generator),
        "viewmats": orbit(azimuths, 5.0, 0.42),
        "Ks": intrinsics(30.5, size).expand(frames, 3, 3),
        "backgrounds": torch.ones(frames, 3),
    }


@dataclass(frozen=True)
class Timing:
    """Milliseconds a frame: wall time and processor time of all threads together."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:8.2f} ms ({1e3 / self.wall:4.0f} fps; {self.processor:7.2f} ms of processor)"


def measure(call: Callable[[], Any], repeats: int, frames: int = 1) -> Timing:
    """Medians over ``repeats`` calls after one to warm up."""
    call()
    wall, processor = [], []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return Timing(1e3 * statistics.median(wall) / frames, 1e3 * statistics.median(processor) / frames)


def time_rasteriser(count: int, size: int, backend: str, repeats: int, frames: int = 1) -> dict[str, Timing]:
    """The forward pass, and forward and backward together."""
    scene = shell(count, size, frames)
    weights = torch.rand(frames, size, size, 3, generator=torch.Generator().manual_seed(1))

    def forward() -> Tensor:
        return rasterize(**scene, width=size, height=size, backend=backend)[0]  # type: ignore[arg-type]

    def both() -> None:
        (forward() * weights).sum().backward()

    result = {"forward": measure(forward, repeats, frames)}
    for name in ("means", "quats", "scales", "opacities", "colors"):
        scene[name].requires_grad_()
    result["forward_backward"] = measure(both, repeats, frames)
    return result


def time_ssim(size: int, repeats: int) -> dict[str, Timing]:
    """SSIM forward and backward on one picture, compiled and in plain torch."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, size, size, 3, generator=generator) for _ in range(2))
    x.requires_grad_()
    return {
        "compiled": measure(lambda: ssim(x, y).backward(), repeats),
        "torch": measure(lambda: ssim_map_torch(x, y).mean().backward(), max(2, repeats // 4)),
    }


def vectorised() -> dict[str, int]:
    """Packed float multiplications in the machine code of the two inner loops; 0 would be a silent slowdown."""
    import numba

    from zero1toa.render.kernels.blending import blend_backward, blend_forward

    packed = re.compile(r"vf?n?m(?:ul|add|sub)\w*ps[^\n]*[yz]mm|mulps\s[^\n]*xmm|fm(?:ul|la|ls)\s+v\d+\.4s")
    found = {}
    for kernel in (blend_forward, blend_backward):
        # numba does not show the machine code of what came from its cache, so it is compiled once more.
        fresh = numba.njit(kernel.py_func, nogil=True, fastmath=kernel.targetoptions["fastmath"], error_model="numpy")
        fresh.compile(kernel.signatures[0])
        found[kernel.py_func.__name__] = sum(len(packed.findall(text)) for text in fresh.inspect_asm().values())
    return found


def main() -> None:
    """Print the table and write it as JSON when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="threads of the kernels (default: all cores)")
    parser.add_argument("--repeats", type=int, default=21, help="calls per figure")
    parser.add_argument("--quick", action="store_true", help="only 20k Gaussians at 256 pixels")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    threads = arguments.threads or available_cores()
    set_threads(threads)
    torch.set_num_threads(1)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    print(f"{threads} threads, torch {torch.__version__}, {platform.machine()}, load before the run {load:.1f}")
    result: dict[str, Any] = {"threads": threads, "load": load, "machine": platform.machine(), "rasteriser": {}}
    for count in (20_000,) if arguments.quick else COUNTS:
        for size in (256,) if arguments.quick else SIZES:
            row = time_rasteriser(count, size, "cpu", arguments.repeats)
            result["rasteriser"][f"{count}x{size}"] = row
            print(f"{count:6,d} Gaussians {size:3d}²  forward            {row['forward']}")
            print(f"                       forward + backward {row['forward_backward']}")
    batch = time_rasteriser(20_000, 256, "cpu", max(5, arguments.repeats // 3), frames=8)
    result["batch_of_8"] = batch
    print(f"20,000 at 256², 8 at once, a frame: forward {batch['forward']}")
    print(f"                       forward + backward {batch['forward_backward']}")
    plain, ours = time_rasteriser(20_000, 256, "torch", 3), result["rasteriser"]["20000x256"]
    result["torch"] = plain
    print(f"the same in plain torch: forward          {plain['forward']}")
    print(f"                       forward + backward {plain['forward_backward']}")
    result["ratio"] = {name: plain[name].processor / ours[name].processor for name in plain}
    ratios = result["ratio"]
    print(
        f"compiled takes {ratios['forward']:.0f} times less processor time forward, {ratios['forward_backward']:.0f} "
        f"times with backward (wanted: {TARGET_RATIO:.0f})"
    )
    result["ssim"] = {}
    for size in (256,) if arguments.quick else SIZES:
        row = time_ssim(size, arguments.repeats)
        result["ssim"][size] = row
        print(f"SSIM forward + backward {size:3d}²: {row['compiled']}")
        print(f"            in plain torch: {row['torch']}")
    result["packed_instructions"] = vectorised()
    print(f"packed multiplications in the inner loops: {result['packed_instructions']}")
    if arguments.json:
        temporary = arguments.json.with_suffix(".part")
        temporary.write_text(json.dumps(result, indent=2, default=asdict))
        os.replace(temporary, arguments.json)


if __name__ == "__main__":
    main()
