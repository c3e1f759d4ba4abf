"""The CPU rasteriser against gsplat on a CUDA machine: pictures, gradients and gsplat's times.

    python benchmarks/gsplat_parity.py [--json result.json]

Needs torch with CUDA, gsplat 1.5.3 (which builds its extension at the first call) and numba. Exits with 1 when a
picture reaches less than 45 dB PSNR or a gradient differs by more than 1 %.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rasteriser import shell

from zero1toa.render.rasterize import rasterize, screen_gradient
from zero1toa.render.ssim import ssim_map

LEAVES = ("means", "quats", "scales", "opacities", "colors", "backgrounds")
MIN_PSNR, MAX_ERROR = 45.0, 0.01


def draw(scene: dict[str, Tensor], size: int, backend: str, mode: str) -> dict[str, Tensor]:
    """Picture, alpha and all gradients of a fixed random weighting of both, on the CPU."""
    scene = {name: tensor.detach().clone().requires_grad_(name in LEAVES) for name, tensor in scene.items()}
    picture, alpha, meta = rasterize(
        **scene,  # type: ignore[arg-type]
        width=size,
        height=size,
        backend=backend,
        rasterize_mode=mode,  # type: ignore[arg-type]
    )
    generator = torch.Generator().manual_seed(1)
    weights, alpha_weights = (torch.randn(v.shape, generator=generator).to(v) for v in (picture, alpha))
    ((picture * weights).sum() + (alpha * alpha_weights).sum()).backward()
    found = {"picture": picture, "alpha": alpha, "screen": screen_gradient(meta)}
    gradients = {name: tensor.grad for name, tensor in scene.items() if tensor.grad is not None}
    radii = {"radii": meta["radii"].double()}
    return {name: tensor.detach().cpu() for name, tensor in (found | gradients | radii).items()}


def compare(scene: dict[str, Tensor], size: int, mode: str, name: str) -> dict[str, Any]:
    """PSNR and relative errors of the CPU kernel with gsplat as the yardstick."""
    ours = draw(scene, size, "cpu", mode)
    theirs = draw({key: tensor.cuda() for key, tensor in scene.items()}, size, "gsplat", mode)
    squared = float((ours["picture"] - theirs["picture"]).square().mean())
    errors = {
        key: float((ours[key] - theirs[key]).norm() / theirs[key].norm().clamp(min=1e-30))
        for key in theirs
        if key not in ("picture", "radii")
    }
    return {
        "scene": name,
        "mode": mode,
        "psnr": -10 * math.log10(max(squared, 1e-20)),
        "largest_pixel_error": float((ours["picture"] - theirs["picture"]).abs().max()),
        "radii_that_differ": float((ours["radii"] != theirs["radii"]).double().mean()),
        "relative_errors": errors,
    }


def cloud(count: int, size: int) -> dict[str, Tensor]:
    """Two sets of random splats, needles to discs, seen by two cameras each that are partly inside of them."""
    from zero1toa.render.cameras import intrinsics, orbit

    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator)

    return {
        "means": 0.12 * normal(count, 3),
        "quats": normal(count, 4),
        "scales": 0.01 * torch.exp(0.8 * normal(count, 3)),
        "opacities": torch.sigmoid(1.5 * normal(count)),
        "colors": torch.rand(2, count, 3, generator=generator),
        "viewmats": orbit(torch.tensor([-40.0, 100.0]), 10.0, 0.4).expand(2, 2, 4, 4),
        "Ks": intrinsics(45.0, size).expand(2, 2, 3, 3),
        "backgrounds": torch.rand(2, 2, 3, generator=generator),
    }


def time_gsplat(count: int, size: int, frames: int, repeats: int = 30) -> dict[str, float]:
    """Milliseconds of one call that draws ``frames`` pictures, forward and forward with backward."""
    scene = {name: tensor.cuda() for name, tensor in shell(count, size, frames).items()}
    weights = torch.rand(frames, size, size, 3, device="cuda")

    def forward() -> Tensor:
        return rasterize(**scene, width=size, height=size)[0]  # type: ignore[arg-type]

    def both() -> None:
        (forward() * weights).sum().backward()

    def median(call: Any) -> float:
        times = []
        for _ in range(repeats + 3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times[3:])

    result = {"gaussians": count, "size": size, "frames": frames, "forward": median(forward)}
    for name in LEAVES[:-1]:
        scene[name].requires_grad_()
    return result | {"forward_backward": median(both)}


def compare_ssim() -> dict[str, float]:
    """Largest difference of the SSIM map and relative error of its gradient between the two devices."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 96, 80, 3, generator=generator) for _ in range(2))
    weights = torch.rand(x.shape, generator=generator)
    maps, gradients = [], []
    for device in ("cpu", "cuda"):
        first, second = x.to(device).requires_grad_(), y.to(device)
        similarity = ssim_map(first, second)
        (gradient,) = torch.autograd.grad((similarity * weights.to(device)).sum(), [first])
        maps.append(similarity.detach().cpu())
        gradients.append(gradient.cpu())
    return {
        "largest_difference": float((maps[0] - maps[1]).abs().max()),
        "gradient_error": float((gradients[0] - gradients[1]).norm() / gradients[1].norm()),
    }


def main() -> int:
    """Print everything, write it as JSON when asked, and say whether the two agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("this comparison needs a CUDA device")
        return 2
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "parity": []}
    print(f"{result['device']}, torch {torch.__version__}")
    good = True
    scenes = [("shell of 20k at 256²", shell(20_000, 256, 2), 256), ("cloud of 2 x 5k at 200²", cloud(5_000, 200), 200)]
    for name, scene, size in scenes:
        for mode in ("classic", "antialiased"):
            row = compare(scene, size, mode, name)
            result["parity"].append(row)
            passed = row["psnr"] > MIN_PSNR and max(row["relative_errors"].values()) < MAX_ERROR
            good &= passed
            print(
                f"{name}, {mode}: PSNR {row['psnr']:.1f} dB, largest pixel error {row['largest_pixel_error']:.1e}, "
                f"radii that differ {100 * row['radii_that_differ']:.3f} % {'' if passed else '  <-- DIFFERS'}"
            )
            print("   " + ", ".join(f"{key} {error:.1e}" for key, error in row["relative_errors"].items()))
    result["ssim"] = compare_ssim()
    good &= result["ssim"]["largest_difference"] < 1e-3 and result["ssim"]["gradient_error"] < MAX_ERROR
    print(f"SSIM: {result['ssim']}")
    result["times"] = [
        time_gsplat(*setting) for setting in ((20_000, 256, 1), (20_000, 256, 8), (100_000, 512, 1), (100_000, 512, 8))
    ]
    for row in result["times"]:
        print(
            f"gsplat {row['gaussians']:,d} at {row['size']}², {row['frames']} frames: "
            f"{row['forward']:.2f} ms, with backward {row['forward_backward']:.2f} ms"
        )
    result["agree"] = good
    print("the two agree" if good else "the two DIFFER")
    if arguments.json:
        temporary = arguments.json.with_suffix(".part")
        temporary.write_text(json.dumps(result, indent=2))
        os.replace(temporary, arguments.json)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
