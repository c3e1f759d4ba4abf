"""What ``generate`` leaves besides the bundle: video, contact sheet, figures and report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zero1toa import media
from zero1toa.commands.evaluate import checks_of, figures_of
from zero1toa.config import Config, to_dict
from zero1toa.evaluation.control import control_of
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.evaluation.portrait_view import PortraitFigures, measure_portrait
from zero1toa.evaluation.preview import FPS, preview_frames, preview_sheet
from zero1toa.head.protocol import HeadModel
from zero1toa.symgen.result import GenerationResult
from zero1toa.symgen.store import SymGENStore
from zero1toa.tracking.console import STAGE_NAMES, duration
from zero1toa.tracking.overlay import fit_overlay
from zero1toa.tracking.report import RefinedClip, Report, write_report
from zero1toa.types import Portrait, SampleKey

_REPORT_CLIPS = 8
_PHASES = {
    "portrait": "Loading; portrait: face, matte and head fit",
    "train": "Training: render, loss, backward, step",
    "render": "Renders to be refined",
    "landmarks": "Landmarks on these renders",
    "encode": "Refinement: encode",
    "denoise": "Refinement: invert and denoise",
    "decode": "Refinement: decode",
    "wait": "Training waits for refinement",
    "checkpoint": "Checkpoints",
    "preview": "Preview pictures",
    "outputs": "Video, contact sheet and figures",
}


@dataclasses.dataclass(frozen=True)
class Showcase:
    """What was made and measured.

    Attributes:
        figures: figures of likeness and control by name.
        checks: every promise with whether it is kept.
        likeness: figures of the portrait's view.
        seconds: wall-clock time of everything, earlier sessions of training included.
    """

    figures: dict[str, Any]
    checks: dict[str, bool]
    likeness: PortraitFigures
    seconds: float


def make_showcase(
    folder: Path,
    player: AvatarPlayer,
    portrait: Portrait,
    head: HeadModel,
    config: Config,
    result: GenerationResult,
    name: str,
    portrait_seconds: float,
    began: float,
    say: Callable[[str], None],
) -> Showcase:
    """Write video, contact sheet, report and ``metrics.json``, the last of which marks the folder as complete.

    Args:
        folder: output folder.
        player: the avatar.
        portrait: what it was made from.
        head: head model on the CPU.
        config: the run's configuration.
        result: what the generation returned.
        name: title of the report.
        portrait_seconds: time until the portrait was there, loading included.
        began: ``time.perf_counter()`` at which the user began to wait, moved back by earlier sessions.
        say: shows what is being done.
    """
    started = time.perf_counter()
    size = max(256, min(config.render.size, 512))
    say("rendering the video")
    video = folder / "preview.mp4"
    media.write_video(video, preview_frames(player, size), FPS)
    sheet = preview_sheet(player, size)
    media.write_png(folder / "contact_sheet.png", sheet)
    say("measuring likeness and control")
    likeness, control = measure_portrait(player), control_of(player)
    figures, checks = figures_of(likeness, control), checks_of(likeness, control)
    figures = {"fit_residual": portrait.residual, **figures}
    timings = {"portrait": portrait_seconds, **result.timings, "outputs": time.perf_counter() - started}
    seconds = time.perf_counter() - began
    say("writing the report")
    write_report(
        folder / "report.html",
        Report(
            name=name,
            headline={
                "Time": duration(seconds),
                "Likeness": f"{likeness.psnr:.1f} dB",
                "SSIM": f"{likeness.ssim:.2f}",
                "Outline IoU": f"{likeness.iou:.2f}",
                "Gaussians": f"{result.gaussians:,}".replace(",", "\u202f"),
                "Clips refined": str(result.refined),
                "Promises kept": f"{sum(checks.values())} of {len(checks)}",
            },
            portrait=portrait.image,
            overlay=fit_overlay(portrait, head),
            rebuilt=player.portrait_view(portrait.size),
            sheet=sheet,
            video=video,
            # Without refinement a clip is its own render, and there is nothing to compare.
            clips=refined_clips(SymGENStore(result.dataset, result.avatar)) if config.diffusion.enabled else [],
            metrics=figures,
            checks=checks,
            timings={_PHASES.get(phase, phase): value for phase, value in _ordered(timings).items()},
            notes=result.notes,
            config=to_dict(config),
            log=folder / "log.jsonl",
        ),
    )
    about = {
        "avatar": result.avatar,
        "seconds": round(seconds, 2),
        "figures": figures,
        "checks": checks,
        "generation": {
            key: getattr(result, key)
            for key in ("iterations", "gaussians", "requested", "refined", "superseded", "expired")
        },
        "landmarks": result.landmarks,
        "refinements": result.refinements,
        "timings": {phase: round(value, 3) for phase, value in timings.items()},
        "notes": list(result.notes),
    }
    media.write_text(folder / "metrics.json", json.dumps(about, indent=1) + "\n")
    return Showcase(figures, checks, likeness, seconds)


def refined_clips(store: SymGENStore, count: int = _REPORT_CLIPS) -> list[RefinedClip]:
    """Newest versions of clips spread over the stages, each beside the render that it was made from.

    Args:
        store: the avatar's dataset.
        count: largest number of clips.
    """
    newest: dict[SampleKey, int] = {}
    for record in store.records():
        newest[record.key] = record.version
    keys = sorted(newest, key=lambda key: (list(STAGE_NAMES).index(key.stage), key.name))
    chosen = [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int))]
    return [
        RefinedClip(
            name=f"{STAGE_NAMES[key.stage]}: {key.name}, version {newest[key]}",
            before=store.load_render(key, newest[key]),
            after=store.load(key, newest[key]),
        )
        for key in chosen
    ]


def _ordered(timings: dict[str, float]) -> dict[str, float]:
    known = [phase for phase in _PHASES if phase in timings]
    return {phase: timings[phase] for phase in [*known, *(phase for phase in timings if phase not in _PHASES)]}
