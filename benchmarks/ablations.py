"""What each ablation changes, and what it does to an avatar. ``python benchmarks/ablations.py --output ablations``.

One held-out synthetic person is photographed, and avatars are made of the photo with the compact backbone: without
diffusion, as the method has it, and by every ablation of ``configs/ablation``. All have the same iterations, and the
preset's curriculum scaled to them with fewer clips. ``paper`` begins with a grey head and keeps the portrait out of the
dataset, so that the clips alone say what the person looks like; with ``preview`` the portrait says most of it.

A line of the table says what a run did, counted while it ran and read from the log of its dataset, and how near its
avatar comes to exact pictures, see ``exact_pictures.py``.

Fitting the head to the photo needs MediaPipe. On a machine without it, use a folder that ``--portrait-only`` made
elsewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exact_pictures import GROUPS, compare, exact_views, portrait_of, to_bytes
from omegaconf import OmegaConf
from torch import nn

from zero1toa.avatar.bundle import read_bundle
from zero1toa.config import Config, config_folder, load
from zero1toa.diffusion.compact_unet import CompactDenoiser
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.evaluation.synthetic import held_out_subject
from zero1toa.head.registry import load_head
from zero1toa.media import write_png, write_text
from zero1toa.symgen.loop import choose_device, generate_serial
from zero1toa.symgen.result import GenerationResult
from zero1toa.symgen.store import SymGENStore

STAGES = ("spatial", "temporal_synthetic", "temporal_real")
NO_DIFFUSION, PLAIN = "no diffusion", "plain"
COLUMNS = ("", "Clips", "Updates of a clip", "First update of each kind", "Open early", "Frames evaluated", "Seconds")


@dataclasses.dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        name: the ablation.
        clips: clips in the dataset by kind, in the order of ``STAGES``.
        updates: fewest and most updates of a clip in the dataset; None without a dataset.
        first: iteration of the first update by kind; None without any.
        open: mean share of frames that were open at updates in the first quarter of the iterations; None without any.
        evaluated: frames through the denoising network in this call, both branches of guidance counted.
        seconds: of the run.
        psnr: mean PSNR in dB where avatar and exact picture both show something, by group of views.
    """

    name: str
    clips: tuple[int, ...]
    updates: tuple[int, int] | None
    first: tuple[int | None, ...]
    open: float | None
    evaluated: int
    seconds: float
    psnr: dict[str, float]


def main() -> None:
    """Run all ablations on one person and print a table, line by line."""
    names = [NO_DIFFUSION, PLAIN, *sorted(path.stem for path in (config_folder() / "ablation").glob("*.yaml"))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration of all runs")
    parser.add_argument("--subject", type=int, default=0, help="index of the held-out person")
    parser.add_argument("--preset", default="paper", help="whose avatars and curriculum (default: paper)")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--interval", type=int, default=10, help="iterations between updates")
    parser.add_argument("--size", type=int, default=256, help="side of renders and of compared pictures")
    parser.add_argument("--runs", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--portrait-only", action="store_true", help="leave the fitted portrait in the folder and stop")
    parser.add_argument("--output", type=Path, default=Path("ablations"), help="folder of the runs; they can continue")
    options = parser.parse_args()
    given = [
        *schedule(options.preset, options.iterations, options.interval),
        f"render.size={options.size}",
        *options.overrides,
    ]
    head = load_head("canonical")
    subject = held_out_subject(options.subject, head)
    portrait = portrait_of(subject, options.output, load(given).portrait, head)
    if options.portrait_only:
        return
    device = choose_device(load(given).device)
    rows: list[Row] = []
    pictures: list[np.ndarray] = []
    print(f"| {' | '.join([*COLUMNS, *(f'{group}, dB' for group in GROUPS)])} |")
    print("|---" * (len(COLUMNS) + len(GROUPS)) + "|")
    for name in options.runs:
        config = configured(name, given)
        with counted() as count:
            result = generate_serial(portrait, config, options.output / name.replace(" ", "_"), head=head)
        player = AvatarPlayer(read_bundle(result.bundle, head), head, device)
        if not rows:
            views = exact_views(subject, player, options.size)
            pictures.append(np.concatenate([to_bytes(view.picture) for view in views], 1))
        shown, scores = compare(views, player)
        pictures.append(np.concatenate(shown, 1))
        by_group = {
            group: [score[2] for view, score in zip(views, scores, strict=True) if view.group == group]
            for group in GROUPS
        }
        psnr = {group: float(np.mean(values)) for group, values in by_group.items()}
        rows.append(described(name, result, config, count["frames"], psnr))
        print(line(rows[-1], rows[0]), flush=True)
        write_png(options.output / "compared.png", np.concatenate(pictures))
        write_text(options.output / "rows.json", json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


def schedule(name: str, iterations: int, interval: int) -> list[str]:
    """A preset's curriculum in ``iterations`` iterations, with 4 spatial and 2 and 2 temporal clips.

    Refinement has the settings that the compact backbone does best with (docs/compact_backbone.md). Density control is
    off: what it does it does over thousands of iterations.
    """
    preset = load([f"preset={name}"])
    share = iterations / preset.loop.iterations
    return [
        f"preset={name}",
        "diffusion.backbone=compact",
        "diffusion.steps=10",
        "diffusion.guidance=1",
        "diffusion.strength=0.1",
        f"loop.iterations={iterations}",
        f"loop.update_interval={interval}",
        "loop.preview_every=0",
        f"curriculum.temporal_start={round(share * preset.curriculum.temporal_start)}",
        f"curriculum.real_start={round(share * preset.curriculum.real_start)}",
        f"curriculum.unlock_interval={max(1, round(share * preset.curriculum.unlock_interval))}",
        "curriculum.spatial_clips=4",
        "curriculum.synthetic_clips=2",
        "curriculum.real_clips=2",
        "density.every=0",
    ]


def configured(name: str, given: list[str]) -> Config:
    """The configuration of a run; what the ablation's file says counts over ``given``."""
    if name in (NO_DIFFUSION, PLAIN):
        return load([*given, f"diffusion.enabled={'true' if name == PLAIN else 'false'}"])
    said: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "ablation" / f"{name}.yaml"))
    own = [f"{section}.{key}={value}" for section, keys in said.items() for key, value in keys.items()]
    return load([*given, *own])


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count the frames that go through the denoising network in the block."""
    count = {"frames": 0}

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, CompactDenoiser):
            count["frames"] += output.shape[0] * output.shape[1]

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


def described(name: str, result: GenerationResult, config: Config, evaluated: int, psnr: dict[str, float]) -> Row:
    """What a run did, from the log of its dataset."""
    records = SymGENStore(result.dataset, result.avatar).records()
    by_clip = Counter(record.key for record in records)
    kinds = Counter(key.stage for key in by_clip)
    first = [min((r.render_step for r in records if r.key.stage == stage), default=None) for stage in STAGES]
    early = [r.unlocked for r in records if 4 * r.render_step < config.loop.iterations]
    return Row(
        name=name,
        clips=tuple(kinds[stage] for stage in STAGES),
        updates=(min(by_clip.values()), max(by_clip.values())) if by_clip else None,
        first=tuple(first),
        open=float(np.mean(early)) / config.curriculum.frames if early else None,
        evaluated=evaluated,
        seconds=result.seconds,
        psnr=psnr,
    )


def line(row: Row, base: Row) -> str:
    """A run as a line of a Markdown table, with its gains over the run ``base``."""
    gains = (f" ({row.psnr[group] - base.psnr[group]:+.2f})" if row is not base else "" for group in GROUPS)
    cells = [
        row.name,
        " + ".join(map(str, row.clips)) if row.updates else "none",
        f"{row.updates[0]} to {row.updates[1]}" if row.updates else "-",
        ", ".join("-" if step is None else str(step) for step in row.first) if row.updates else "-",
        "-" if row.open is None else f"{row.open:.0%}",
        f"{row.evaluated}",
        f"{row.seconds:.0f}",
        *(f"{row.psnr[group]:.2f}{gain}" for group, gain in zip(GROUPS, gains, strict=True)),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
