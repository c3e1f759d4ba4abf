"""``zero1toa doctor``: for each part, what this machine uses, what would be better, and what to do for it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from zero1toa import __version__, assets
from zero1toa.config import PortraitConfig
from zero1toa.errors import HeadModelError


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row of the diagnosis.

    Attributes:
        part: part of the pipeline.
        used: what runs here.
        best: whether nothing better is known to this version.
        ok: whether the part works at all.
        advice: what to do for something better, or to make it work.
    """

    part: str
    used: str
    best: bool
    ok: bool = True
    advice: str = ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _landmarks() -> Finding:
    part, version = "Landmarks, segmentation", _version("mediapipe")
    if version is None:
        return Finding(part, "nothing", False, ok=False, advice="pip install mediapipe==0.10.21 (needs numpy 1.26)")
    spec = importlib.util.find_spec("mediapipe")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    if any(list(folder.glob("modules/face_landmark/*.tflite")) for folder in folders):
        return Finding(part, f"MediaPipe {version}, models in the package", True)
    task = assets.get("face-landmarker")
    if task.find():
        return Finding(part, f"MediaPipe {version} with {task.file}; no segmentation of its own", True)
    advice = f"install mediapipe==0.10.21, or zero1toa assets install {task.name} {task.file}"
    return Finding(part, f"MediaPipe {version} without its models", False, ok=False, advice=advice)


def _matting() -> Finding:
    part, version = "Background removal", _version("rembg")
    asset = assets.get(PortraitConfig().matting_model)
    others = [name for name in assets.REMBG_MODELS if name != asset.name and assets.find(name)] if version else []
    choice = f"{', '.join(others)} with portrait.matting_model" if others else ""
    if asset.find() and version:
        return Finding(part, f"rembg {version} with {asset.file}" + (f"; {choice}" if choice else ""), True)
    advice = f"better hair edges: zero1toa assets install {asset.name} {asset.download}"
    return Finding(part, asset.instead, False, advice=f"{advice}, or {choice}" if choice else advice)


def _head() -> Finding:
    from zero1toa.head.flame.editions import EDITIONS
    from zero1toa.head.registry import load_head

    try:
        head = load_head("canonical")
    except HeadModelError as error:
        return Finding("Head geometry", "nothing", False, ok=False, advice=str(error))
    here = [key for key in EDITIONS if assets.find(key)]
    used = f"{head.name}, in the package" + "".join(f"; {key} with head={key}" for key in here)
    absent = [f"{key} {edition.files[0]}" for key, edition in EDITIONS.items() if key not in here]
    advice = f"FLAME: zero1toa assets install {', or '.join(absent)}" if absent else ""
    return Finding("Head geometry", used, True, advice=advice)


def _diffusion() -> Finding:
    from zero1toa.diffusion.compact import WEIGHTS

    part = "Video diffusion"
    if not WEIGHTS.is_file():
        advice = f"{WEIGHTS} is missing: install the package again, or use diffusion.enabled=false"
        return Finding(part, "nothing", False, ok=False, advice=advice)
    return Finding(part, f"compact backbone, {WEIGHTS.stat().st_size / 1e6:.0f} MB in the package", True)


def _animators() -> Finding:
    from zero1toa.diffusion import aniportrait, echomimic, follow_your_emoji
    from zero1toa.diffusion.animator.networks import missing_assets

    part, ready, lacking = "Portrait animators", [], []
    for module in (follow_your_emoji, aniportrait, echomimic):
        names = [asset.name for asset in missing_assets(module.FILES)]
        if names:
            lacking.append(f"{module.SPEC.name} needs {', '.join(names)}")
        else:
            ready.append(module.SPEC.name)
    advice = f"zero1toa assets says where from: {'; '.join(lacking)}" if lacking else ""
    if ready:
        return Finding(part, f"{', '.join(ready)}, by diffusion.backbone", True, advice=advice)
    return Finding(part, "none; the compact backbone refines", False, advice=advice)


def _perceptual() -> Finding:
    asset = assets.get("vgg16")
    if asset.find() and _version("lpips"):
        return Finding("Perceptual loss", f"LPIPS {_version('lpips')} with {asset.file}", True)
    return Finding("Perceptual loss", asset.instead, False, advice=f"zero1toa assets install vgg16 {asset.file}")


def _rasteriser() -> Finding:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if _version("gsplat"):
            return Finding("Rasteriser", f"gsplat {_version('gsplat')} on {name}", True)
        return Finding("Rasteriser", f"none for {name}", False, ok=False, advice="pip install gsplat==1.5.3")
    used = f"compiled CPU kernel (numba {_version('numba')}, {os.cpu_count()} cores)"
    return Finding("Rasteriser", used, False, advice="a CUDA GPU is found by torch and used by itself")


def _tracking() -> Finding:
    version = _version("wandb")
    if version is None:
        return Finding("Tracking", "JSONL log", False, advice="pip install wandb for its offline runs")
    if os.environ.get("WANDB_API_KEY"):
        return Finding("Tracking", f"JSONL log, W&B {version}; a key is set", False, advice="tracking.wandb=online")
    return Finding("Tracking", f"JSONL log, W&B {version} offline", True)


def _cluster() -> Finding:
    version = _version("ray")
    if version is None:
        return Finding("Ray", "nothing", False, ok=False, advice="pip install 'ray[default]', or use --serial")
    if address := os.environ.get("RAY_ADDRESS"):
        return Finding("Ray", f"Ray {version}, cluster {address}", True)
    return Finding("Ray", f"Ray {version} on this machine", True)


def diagnose() -> list[Finding]:
    """Look at this machine, part by part; loads torch but no model."""
    return [
        _landmarks(),
        _matting(),
        _head(),
        _diffusion(),
        _animators(),
        _rasteriser(),
        _perceptual(),
        _tracking(),
        _cluster(),
    ]


def print_diagnosis() -> None:
    """Print the machine and the table of findings; exit code 1 when a part cannot work."""
    import torch

    console = Console()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    console.print(
        f"zero1toa {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {_version('numpy')}; {os.cpu_count()} cores, {memory:.0f} GB memory, {free:.0f} GB free here",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in ("", "Part", "Used here", "What to do"):
        table.add_column(column, overflow="fold")
    findings = diagnose()
    for finding in findings:
        mark = "[red]✗[/]" if not finding.ok else "[green]✓[/]" if finding.best else "[yellow]○[/]"
        table.add_row(mark, finding.part, finding.used, finding.advice)
    console.print(table)
    if all(finding.ok for finding in findings):
        console.print("Everything runs. ✓ best this version knows, ○ embedded fallback.")
    else:
        console.print("[red]✗ does not work here; see the last column.[/]")
        sys.exit(1)
