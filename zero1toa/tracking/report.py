"""``report.html``: what went in, what was done and what came out, in one file that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa import __version__, media
from zero1toa.tracking.charts import Series, line_chart
from zero1toa.tracking.console import STAGE_NAMES, duration
from zero1toa.tracking.jsonl import read_log
from zero1toa.types import Stage

_LOSS_NAMES = {
    "total": "total",
    "l1": "L1",
    "perceptual": "perceptual",
    "distillation": "score distillation",
    "alpha": "outline",
    "position": "position",
    "scaling": "scale",
}


@dataclasses.dataclass(frozen=True)
class RefinedClip:
    """A dataset clip as it was rendered and as it came back.

    Attributes:
        name: caption.
        before: the render that was refined ``[T, H, W, 3]`` uint8.
        after: the refined clip, same shape.
    """

    name: str
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything the page shows.

    Attributes:
        name: avatar id.
        headline: figures in large type, name to text.
        portrait: carved portrait ``[H, W, 4]`` uint8.
        overlay: portrait with the fitted head ``[H, W, 3]`` uint8.
        rebuilt: avatar from the portrait's camera with its expression ``[H, W, 3]`` uint8.
        sheet: contact sheet ``[H, W, 3]`` uint8.
        video: the preview video's file.
        clips: refined clips.
        metrics: figures by name.
        checks: promises, and whether each is kept.
        timings: seconds by phase; phases may run beside each other.
        notes: fallbacks that were used, one line each.
        config: the configuration, nested.
        log: the run's ``log.jsonl``, for the curves.
    """

    name: str
    headline: Mapping[str, str]
    portrait: NDArray[np.uint8]
    overlay: NDArray[np.uint8]
    rebuilt: NDArray[np.uint8]
    sheet: NDArray[np.uint8]
    video: Path
    clips: Sequence[RefinedClip]
    metrics: Mapping[str, Any]
    checks: Mapping[str, bool]
    timings: Mapping[str, float]
    notes: Sequence[str]
    config: Mapping[str, Any]
    log: Path


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically.

    Args:
        path: HTML file.
        report: its contents.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("zero1toa.tracking"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["duration"] = duration
    longest = max(report.timings.values(), default=0.0) or 1.0
    page = environment.get_template("report.html.j2").render(
        report=report,
        version=__version__,
        pictures={
            "portrait": media.data_uri(media.resize(report.portrait, 512)),
            "overlay": media.data_uri(media.resize(report.overlay, 512)),
            "rebuilt": media.data_uri(media.resize(report.rebuilt, 512)),
            "sheet": media.data_uri(report.sheet),
        },
        video=f"data:video/mp4;base64,{base64.b64encode(report.video.read_bytes()).decode()}",
        clips=[(clip.name, media.data_uri(_strip(clip))) for clip in report.clips],
        charts=_charts(report.log),
        timings=[(name, seconds, 100 * seconds / longest) for name, seconds in report.timings.items()],
        settings=list(_flat(report.config)),
    )
    media.write_text(path, page)


def _strip(clip: RefinedClip, columns: int = 4, size: int = 160) -> NDArray[np.uint8]:
    """Before above after, at ``columns`` frames spread over the clip."""
    frames = np.linspace(0, len(clip.before) - 1, min(columns, len(clip.before))).round().astype(int)
    rows = [
        np.concatenate([media.resize(version[t], size) for t in frames], axis=1)
        for version in (clip.before, clip.after)
    ]
    line = np.full((3, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([rows[0], line, rows[1]], axis=0)


def _charts(log: Path) -> list[tuple[str, list[str], str]]:
    """Title, line captions and SVG of each chart, from the log's last word on each iteration."""
    losses: dict[int, dict[str, float]] = {}
    stages: dict[Stage, int] = {}
    for record in read_log(log):
        if record["kind"] == "iteration":
            losses[record["iteration"]] = record["losses"]
            first = stages.get(record["stage"], record["iteration"])
            stages[record["stage"]] = min(first, record["iteration"])
    if not losses:
        return []
    iterations = sorted(losses)
    marks = {STAGE_NAMES[name]: float(start) for name, start in stages.items() if start > iterations[0]}
    names = [name for name in _LOSS_NAMES if any(name in losses[i] for i in iterations)]
    smooth = max(1, len(iterations) // 20)

    def series(name: str) -> Series:
        return Series(_LOSS_NAMES[name], iterations, [losses[i].get(name) or float("nan") for i in iterations])

    charts = []
    for title, chosen in (
        ("Loss", [name for name in names if name == "total"]),
        ("Terms of the loss", [name for name in names if name != "total"]),
    ):
        if chosen:
            lines = [series(name) for name in chosen]
            svg = line_chart(lines, title=title, smooth=smooth, marks=marks)
            charts.append((title, [line.name for line in lines], svg))
    return charts


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows.extend(_flat(value, f"{prefix}{key}."))
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((f"{prefix}{key}", shown))
    return rows
