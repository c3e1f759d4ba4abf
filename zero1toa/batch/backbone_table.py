"""The table of a benchmark of settings: a row for each, for people, for spreadsheets and for scripts."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zero1toa.batch.records import Row

PHASES = ("encode", "denoise", "decode")
"""The phases of a clip's refinement, as the ledger's rows name them."""

_CLIPS = ("refined", "superseded", "expired")  # clips that took a refiner's time
_GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class AvatarFigures:
    """What was measured of one finished avatar besides its ledger's row.

    Attributes:
        control: share of the controls' promises that are kept, 0 to 1; None where it could not be measured.
        flicker: see :class:`zero1toa.evaluation.stability.Stability`; None where it could not be measured.
        note: why something could not be measured, one line, or empty.
    """

    control: float | None
    flicker: float | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One setting's row: means over its finished avatars; None where there is nothing to take the mean of.

    Attributes:
        setting: its name.
        backbone: registry name of the backbone, or ``none`` without refinement.
        portraits: how many it was given.
        done: how many became avatars.
        psnr: likeness to the portrait in its own view, decibels.
        ssim: likeness as structural similarity.
        iou: overlap of the outlines.
        control: share of the controls' promises that are kept, 0 to 1.
        flicker: change of a surface point's colour between frames, 8-bit levels.
        seconds_per_clip: time of a refiner on a clip: encoding, denoising and decoding.
        gpu_seconds: time on GPUs for an avatar, weighted by the shares of a GPU that were held.
        peak_memory: most memory that a refiner held, GiB.
        memory: what that is a part of: ``GPU``, ``process``, or empty if it is not known.
        problem: what went wrong, one line, or empty.
    """

    setting: str
    backbone: str
    portraits: int
    done: int
    psnr: float | None = None
    ssim: float | None = None
    iou: float | None = None
    control: float | None = None
    flicker: float | None = None
    seconds_per_clip: float | None = None
    gpu_seconds: float | None = None
    peak_memory: float | None = None
    memory: str = ""
    problem: str = ""


COLUMNS = [field.name for field in dataclasses.fields(Comparison)]
"""Columns of all tables, in their order."""

_HEADS: dict[str, tuple[str, str]] = {
    "setting": ("setting", ""),
    "backbone": ("backbone", ""),
    "psnr": ("PSNR dB", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "iou": ("IoU", ".3f"),
    "control": ("control kept", ".0%"),
    "flicker": ("flicker", ".2f"),
    "seconds_per_clip": ("s per clip", ".2f"),
    "gpu_seconds": ("GPU s per avatar", ".1f"),
    "peak_memory": ("peak GiB", ".2f"),
}


def compare(
    setting: str,
    backbone: str,
    portraits: int,
    rows: Iterable[Row],
    figures: Mapping[str, AvatarFigures],
    memory: tuple[int, bool] | None,
    problem: str = "",
) -> Comparison:
    """Bring what is known of one setting into one row.

    Args:
        setting: its name.
        backbone: its backbone.
        portraits: how many it was given.
        rows: its ledger's rows.
        figures: by avatar, what was measured afterwards.
        memory: most memory of a refiner in bytes, and whether it is a GPU's.
        problem: what ended it; without, the reasons of portraits that did not become avatars, and what could not be
            measured.
    """
    all_rows = list(rows)
    done = [row for row in all_rows if row.state == "done"]
    clips = sum(row.metrics.get(name, 0.0) for row in done for name in _CLIPS)
    refining = sum(row.seconds.get(phase, 0.0) for row in done for phase in PHASES)
    reasons = [problem] if problem else [f"{row.id}: {row.reason}" for row in all_rows if row.state != "done"]
    reasons += dict.fromkeys(one.note for one in figures.values() if one.note)
    return Comparison(
        setting=setting,
        backbone=backbone,
        portraits=portraits,
        done=len(done),
        psnr=_mean(row.metrics.get("psnr") for row in done),
        ssim=_mean(row.metrics.get("ssim") for row in done),
        iou=_mean(row.metrics.get("iou") for row in done),
        control=_mean(one.control for one in figures.values()),
        flicker=_mean(one.flicker for one in figures.values()),
        seconds_per_clip=refining / clips if clips and refining else None,
        gpu_seconds=_mean(row.gpu_seconds for row in done),
        peak_memory=memory[0] / _GIB if memory else None,
        memory="" if memory is None else "GPU" if memory[1] else "process",
        problem="; ".join(" ".join(reason.split()) for reason in reasons),
    )


def to_csv(rows: Sequence[Comparison]) -> str:
    """Comma-separated values with a line of :data:`COLUMNS`; what is not known is empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return table.getvalue()


def to_json(name: str, rows: Sequence[Comparison], avatars: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with the benchmark's ``name``, its ``settings`` as rows, and ``avatars`` by setting and portrait."""
    about = {"name": name, "settings": [dataclasses.asdict(row) for row in rows], "avatars": avatars}
    return json.dumps(about, indent=1) + "\n"


def to_markdown(name: str, rows: Sequence[Comparison], picture: str = "") -> str:
    """A page with the table, the problems under it, and the pictures.

    Args:
        name: of the benchmark.
        rows: the settings.
        picture: file name of the pictures, or empty.
    """
    heads = ["setting", "backbone", "done", *[head for head, form in _HEADS.values() if form]]
    lines = [f"# {_plain(name)}", "", _line(heads), _line(["---", "---", *["---:"] * (len(heads) - 2)])]
    for row in rows:
        figures = [_figure(getattr(row, key), form) for key, (_, form) in _HEADS.items() if form]
        if row.memory:
            figures[-1] += f" ({row.memory})"
        lines.append(_line([_plain(row.setting), _plain(row.backbone), f"{row.done} of {row.portraits}", *figures]))
    problems = [f"* **{_plain(row.setting)}**: {_plain(row.problem)}" for row in rows if row.problem]
    if problems:
        lines += ["", *problems]
    if picture:
        lines += ["", f"![Portraits beside their avatars, front and side, by setting]({picture})"]
    return "\n".join(lines) + "\n"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text whose characters mean nothing in a Markdown table."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<[" else letter for letter in text)
