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
from zero1toa.diffusion.sampling import refine_latents, seeded_noise
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.diffusion.training.data import HELD_OUT_SEED, KINDS, ClipSource, kind_names, open_source
from zero1toa.diffusion.training.objective import Batch, Draws, losses

_CHUNK = 16  # clips at a time
_NOISE_LEVELS = (99, 299, 499, 699, 899)
STRENGTHS = (0.1, 0.3, 0.5, 1.0)
GUIDANCES = (1.0, 1.5)
_QUALITIES = ((0.0, 18.0), (18.0, 22.0), (22.0, 25.0), (25.0, 99.0))


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a clip is refined.

    Attributes:
        steps: steps over the whole noise range.
        strength: share of the range.
        guidance: classifier-free guidance.
        source: whether the network is shown the latents of the clip, which are then noised; else they are inverted.
        from_noise: start from pure noise, with strength 1 and no source: re-enactment.
    """

    steps: int = 10
    strength: float = 0.1
    guidance: float = 1.0
    source: bool = True
    from_noise: bool = False

    def __str__(self) -> str:
        if self.from_noise:
            return f"re-enactment cfg {self.guidance:g}"
        return f"strength {self.strength:g} cfg {self.guidance:g}{'' if self.source else ' inverted'}"


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
    refined = refine_latents(
        backbone,
        latents,
        reference,
        control,
        steps=setting.steps,
        strength=setting.strength,
        guidance=setting.guidance,
        noise=seeded_noise(latents, seed) if setting.source or setting.from_noise else None,
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
    """The settings of a table: a grid with the source, inversion without it, and re-enactment from pure noise."""
    grid = [Setting(steps, strength, guidance) for strength, guidance in itertools.product(strengths, guidances)]
    inverted = Setting(steps, 0.3, 1.5, source=False)
    return [*grid, inverted, Setting(25, 1.0, 1.5, source=False, from_noise=True)]


def report(backbone: CompactBackbone, clips: Mapping[str, Any], settings: Sequence[Setting]) -> dict[str, Any]:
    """Measure settings on the same clips and print a line for each, and for each with its detail kept."""
    ceiling = autoencoder_ceiling(backbone, clips)
    count, frames = clips["truth"].shape[:2]
    copied = float(torch.cat([psnr(_copied(part), part["truth"], part["mask"]) for part in _chunks(clips)]).mean())
    loss = denoising_loss(backbone, clips)
    print(f"{count} clips of {frames} frames, autoencoder ceiling {ceiling:.2f} dB, denoising loss {loss:.4f}")
    print(f"the reference picture copied {copied:.2f} dB")
    lines: list[dict[str, Any]] = []
    for setting in settings:
        results = evaluate(backbone, clips, setting)
        for variant in ("after",) if setting.from_noise else ("after", "detail"):
            summary = summarize(results, clips["kind"], variant)
            lines.append({"setting": dataclasses.asdict(setting), "keep_detail": variant == "detail", **summary})
            print(table_line(f"{setting} {'+detail' if variant == 'detail' else ''}", summary), flush=True)
    measured = {"ceiling": ceiling, "denoising_loss": loss, "reference_copied": copied}
    return {"clips": count, "frames": frames, **measured, "settings": lines}


def _copied(clips: Mapping[str, Any]) -> Tensor:
    """The reference pictures in place of every frame ``[B, T, H, W, 3]``."""
    reference: Tensor = clips["reference"]
    return reference[:, None].expand(-1, clips["truth"].shape[1], -1, -1, -1)


@torch.no_grad()
def denoising_loss(backbone: CompactBackbone, clips: Mapping[str, Any], seed: int = 0) -> float:
    """Mean squared error of v on clean clips with reference and landmarks, over five noise levels."""
    tables = NoiseSchedule.from_config(backbone.spec.scheduler).tables(backbone.device)
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for part in _chunks(clips):
        truth = backbone.encode(part["truth"])
        count, frames = truth.shape[:2]
        batch = Batch(
            truth=truth,
            degraded=truth,
            maps=part["maps"],
            reference=backbone.encode(part["reference"][:, None])[:, 0],
            reference_map=part["reference_map"],
            positions=torch.arange(frames, device=truth.device),
        )
        none, every = torch.zeros(count, device=truth.device), torch.ones(count, device=truth.device)
        for level in _NOISE_LEVELS:
            draws = Draws(
                timesteps=torch.full((count,), level, device=truth.device),
                repair=none.bool(),
                share=none,
                landmarks=every,
                source=none,
                noise=torch.randn(truth.shape, generator=generator).to(truth.device),
            )
            found.append(losses(backbone.model.unet, batch, draws, tables, 1.0, 1.0, count, backbone.dtype))
    return float(torch.cat(found).mean())


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
    parser.add_argument("--grid-only", action="store_true", help="leave out inversion and re-enactment")
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
