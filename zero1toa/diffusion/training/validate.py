"""Does refinement bring clips closer to the truth? Gain, by kind of clip and by quality, and sharpness.

``python -m zero1toa.diffusion.training.validate --clips 128`` prints one line per setting for held-out clips. Settings
are to be chosen on one ``--seed`` and reported on another.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.diffusion.compact import WEIGHTS, CompactBackbone, read_weights
from zero1toa.diffusion.landmark_map import draw_landmarks
from zero1toa.diffusion.sampling import denoise, guided, refine_latents
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.diffusion.training.data import HELD_OUT_SEED, KINDS, ClipSource, kind_names, open_source

_CHUNK = 16  # clips at a time
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 1.0)
GUIDANCES = (1.0, 1.5, 2.0)
_QUALITIES = ((0.0, 18.0), (18.0, 22.0), (22.0, 25.0), (25.0, 99.0))


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a clip is refined.

    Attributes:
        steps: steps over the whole noise range.
        strength: share of the range.
        guidance: classifier-free guidance.
        source: whether the network sees the latents of the clip.
        from_noise: start from Gaussian noise instead of the inverted clip, with strength 1.
    """

    steps: int = 10
    strength: float = 0.3
    guidance: float = 1.5
    source: bool = True
    from_noise: bool = False

    def __str__(self) -> str:
        start = "noise" if self.from_noise else f"strength {self.strength:g}"
        return f"{start} cfg {self.guidance:g}{'' if self.source else ' no source'}"


def psnr(images: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """PSNR of clips in dB ``[B]`` within a mask; images ``[B, T, H, W, 3]`` in [0, 1], mask ``[B, T, H, W, 1]``."""
    error = ((images - truth).square() * mask).flatten(1).sum(1) / (3 * mask.flatten(1).sum(1)).clamp(min=1e-6)
    return -10 * error.clamp(min=1e-10).log10()


def sharpness(images: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Gradient energy over that of the truth ``[B]``, within the mask: 1 is as sharp, less is softer."""

    def energy(values: Tensor) -> Tensor:
        across = (values.diff(dim=3).square() * mask[:, :, :, 1:]).flatten(1).sum(1)
        return across + (values.diff(dim=2).square() * mask[:, :, 1:]).flatten(1).sum(1)

    return energy(images) / energy(truth).clamp(min=1e-6)


def held_out_clips(source: ClipSource, count: int, frames: int, size: int, seed: int) -> dict[str, Any]:
    """Clips with their landmark maps; ``kind`` as names. The same seed gives the same clips on one kind of device."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[Mapping[str, Any]] = []
    for start in range(0, count, _CHUNK):
        parts.append(source.sample(generator, min(_CHUNK, count - start), frames, size))
    names = ("truth", "degraded", "mask", "reference", "landmarks", "reference_landmarks")
    clips: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in names}
    maps = [draw_landmarks(part["landmarks"].flatten(0, 1), size) for part in parts]
    clips["maps"] = torch.cat(maps).unflatten(0, (count, frames))
    clips["reference_map"] = draw_landmarks(clips["reference_landmarks"], size)
    clips["kind"] = [kind for part in parts for kind in kind_names(part["kind"])]
    return clips


@torch.no_grad()
def refine(backbone: CompactBackbone, clips: Mapping[str, Any], setting: Setting, seed: int = 0) -> Tensor:
    """Refined frames ``[B, T, H, W, 3]`` of clips from :func:`held_out_clips`, decoded."""
    latents = backbone.encode(clips["degraded"])
    reference = backbone.prepare_reference(clips["reference"], clips["reference_map"].float() / 255)
    control = backbone.prepare_control(clips["maps"].float() / 255, latents if setting.source else None)
    if setting.from_noise:
        schedule = NoiseSchedule.from_config(backbone.spec.scheduler)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents.device)
        model = guided(backbone, reference, control, setting.guidance)
        return backbone.decode(denoise(model, schedule, noise, schedule.timesteps(setting.steps)))
    refined = refine_latents(
        backbone,
        latents,
        reference,
        control,
        steps=setting.steps,
        strength=setting.strength,
        guidance=setting.guidance,
    )
    return backbone.decode(refined)


def evaluate(backbone: CompactBackbone, clips: Mapping[str, Any], setting: Setting) -> dict[str, NDArray[np.float64]]:
    """Measure every clip, in dB of masked PSNR and in sharpness, each ``[B]``.

    Returns:
        ``before`` (the degraded clip), ``after`` (refined), ``detail`` (the degraded clip plus the change made by
        refinement between autoencoded frames, which keeps what the autoencoder loses), and the same three with
        ``_sharpness``.
    """
    results: dict[str, list[Tensor]] = {}
    for part in _chunks(clips):
        refined = refine(backbone, part, setting)
        plain = backbone.decode(backbone.encode(part["degraded"]))
        frames = {
            "before": part["degraded"],
            "after": refined,
            "detail": (part["degraded"] + refined - plain).clamp(0, 1),
        }
        for name, images in frames.items():
            results.setdefault(name, []).append(psnr(images, part["truth"], part["mask"]))
            results.setdefault(f"{name}_sharpness", []).append(sharpness(images, part["truth"], part["mask"]))
    return {name: torch.cat(values).double().cpu().numpy() for name, values in results.items()}


def autoencoder_ceiling(backbone: CompactBackbone, clips: Mapping[str, Any]) -> float:
    """Mean PSNR in dB of the truth through the autoencoder, within the mask: no refinement can be better."""
    values = [
        psnr(backbone.decode(backbone.encode(part["truth"])), part["truth"], part["mask"]) for part in _chunks(clips)
    ]
    return float(torch.cat(values).mean())


def summarize(
    results: Mapping[str, NDArray[np.float64]], kinds: Sequence[str], variant: str = "after"
) -> dict[str, Any]:
    """Means over clips: PSNR before and after, gain in all and by kind and input quality, share of clips worse.

    Args:
        results: from :func:`evaluate`.
        kinds: kind of each clip.
        variant: ``after`` or ``detail``.
    """
    before = results["before"]
    gain = results[variant] - before
    names = np.asarray(kinds)
    by_kind = {kind: float(gain[names == kind].mean()) for kind in KINDS if (names == kind).any()}
    by_quality = {
        f"{low:g}-{high:g} dB": float(gain[(before >= low) & (before < high)].mean())
        for low, high in _QUALITIES
        if ((before >= low) & (before < high)).any()
    }
    return {
        "before": float(before.mean()),
        "after": float(results[variant].mean()),
        "gain": float(gain.mean()),
        "worse": float((gain < 0).mean()),
        "gain_by_kind": by_kind,
        "gain_by_quality": by_quality,
        "sharpness_before": float(results["before_sharpness"].mean()),
        "sharpness_after": float(results[f"{variant}_sharpness"].mean()),
    }


def table_line(name: str, summary: Mapping[str, Any]) -> str:
    """One line of the table."""
    kinds = " ".join(f"{kind} {summary['gain_by_kind'].get(kind, float('nan')):+.2f}" for kind in KINDS)
    quality = " ".join(f"[{name}] {value:+.2f}" for name, value in summary["gain_by_quality"].items())
    return (
        f"{name:<26} {summary['before']:.2f} -> {summary['after']:.2f} dB  gain {summary['gain']:+.2f}  {kinds}  "
        f"worse {summary['worse']:4.0%}  sharp {summary['sharpness_before']:.2f} -> {summary['sharpness_after']:.2f}  "
        f"{quality}"
    )


def choices(steps: int, strengths: Sequence[float], guidances: Sequence[float]) -> list[Setting]:
    """The settings of a table: a grid with the source, its middle without, and both from pure noise."""
    grid = [Setting(steps, strength, guidance) for strength, guidance in itertools.product(strengths, guidances)]
    default = Setting()
    without = Setting(steps, default.strength, default.guidance, source=False)
    noise = [Setting(25, 1.0, default.guidance, source, from_noise=True) for source in (True, False)]
    return [*grid, without, *noise]


def report(backbone: CompactBackbone, clips: Mapping[str, Any], settings: Sequence[Setting]) -> dict[str, Any]:
    """Measure settings on the same clips and print a line for each, and for each with its detail kept."""
    ceiling = autoencoder_ceiling(backbone, clips)
    count, frames = clips["truth"].shape[:2]
    print(f"{count} clips of {frames} frames, autoencoder ceiling {ceiling:.2f} dB")
    lines: list[dict[str, Any]] = []
    for setting in settings:
        results = evaluate(backbone, clips, setting)
        for variant in ("after",) if setting.from_noise else ("after", "detail"):
            summary = summarize(results, clips["kind"], variant)
            lines.append({"setting": dataclasses.asdict(setting), "keep_detail": variant == "detail", **summary})
            print(table_line(f"{setting} {'+detail' if variant == 'detail' else ''}", summary), flush=True)
    return {"clips": count, "frames": frames, "ceiling": ceiling, "settings": lines}


def _chunks(clips: Mapping[str, Any]) -> list[dict[str, Any]]:
    count = len(clips["truth"])
    return [
        {name: values[start : start + _CHUNK] for name, values in clips.items()} for start in range(0, count, _CHUNK)
    ]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m zero1toa.diffusion.training.validate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="safetensors file (default: the package's)")
    parser.add_argument("--data", default="synthetic", help="clip source")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED + 1, help="seed of the held-out clips")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--strengths", type=_floats, default=STRENGTHS, metavar="A,B")
    parser.add_argument("--guidances", type=_floats, default=GUIDANCES, metavar="A,B")
    parser.add_argument("--grid-only", action="store_true", help="leave out the rows without source and from noise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args(arguments)

    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    backbone = CompactBackbone(read_weights(options.weights), device, dtype)
    source = open_source(options.data, options.seed, device)
    clips = held_out_clips(source, options.clips, options.frames, options.size, options.seed)
    settings = choices(options.steps, options.strengths, options.guidances)
    if options.grid_only:
        settings = settings[: len(options.strengths) * len(options.guidances)]
    content = report(backbone, clips, settings)
    if options.output:
        options.output.write_text(json.dumps({"seed": options.seed, **content}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
