"""``fleet.html``: a whole batch on one page that needs nothing else, what went wrong first."""

from __future__ import annotations

import base64
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from zero1toa import __version__
from zero1toa.batch.records import Doing, Entry, Row, Sample, State
from zero1toa.batch.status import THUMBNAILS, Fleet, failures, status
from zero1toa.tracking.charts import Series, line_chart

INLINE = 200
"""Portraits up to which the page holds its thumbnails; with more it links them. Also the cards shown at a time."""

_NAMED = 12
"""Portraits of a failure that are named."""
_POINTS = 240
"""Points of a curve."""

# States in the order in which their portraits are shown, worst first.
_ORDER: tuple[State | Doing, ...] = (
    "failed", "rejected", "done", "finishing", "training", "preparing", "waiting", "duplicate",
)  # fmt: skip
_GROUP: dict[State | Doing, str] = {"finishing": "working", "training": "working", "preparing": "working"}
_NAMES = {
    "failed": "failed",
    "rejected": "rejected",
    "done": "done",
    "working": "in work",
    "waiting": "waiting",
    "duplicate": "duplicate",
}
_ADVICE: dict[State, str] = {
    "failed": "Submit the job again with batch.retry_failed=true to try these once more.",
    "rejected": "Give other photos, or change what the message names, and submit the job again with "
    "batch.retry_failed=true.",
    "duplicate": "Nothing is missing: the avatar of the first portrait with this photo serves.",
}


@dataclasses.dataclass(frozen=True)
class _Card:
    """One portrait as the page shows it."""

    id: str
    state: str
    label: str
    text: str
    picture: str
    link: str


def render_page(fleet: Fleet) -> str:
    """The page.

    Portraits come worst first: failed ones, rejected ones, avatars from the lowest PSNR up, then those in work.

    Args:
        fleet: the batch. With more than :data:`INLINE` portraits thumbnails are links, as the page would become too
            large to load.
    """
    facts = status(fleet)
    counts = {name: 0 for name in _NAMES}
    for name, number in facts["counts"].items():
        counts[_GROUP.get(name, name)] += number
    return _template().render(
        fleet=fleet,
        facts=facts,
        counts=counts,
        names=_NAMES,
        version=__version__,
        headline=_headline(facts, counts),
        charts=_charts(fleet.samples),
        failures=[(failure, _ADVICE[failure.state]) for failure in failures(fleet)],
        cards=_cards(fleet),
        paged=INLINE,
        named=_NAMED,
    )


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("zero1toa.tracking"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["span"] = _span
    return environment.get_template("fleet.html.j2")


def _headline(facts: dict, counts: dict[str, int]) -> dict[str, str]:
    speed = facts["avatars_per_hour"]
    figures = {
        "Avatars": f"{counts['done']} of {facts['total']}",
        "Failed": str(counts["failed"]),
        "Rejected": str(counts["rejected"]),
        "In work": str(counts["working"]),
    }
    if speed["overall"] is not None:
        figures["Avatars an hour"] = f"{speed['overall']:.3g}"
        figures["In the last hour"] = f"{speed['last_hour']:.3g}"
    if not facts["complete"]:
        figures["Time left"] = "unknown" if facts["seconds_left"] is None else _span(facts["seconds_left"])
    figures["GPU time"] = _span(facts["gpu_seconds"]["total"])
    if facts["metrics"].get("psnr") is not None:
        figures["Likeness"] = f"{facts['metrics']['psnr']:.1f} dB"
    return figures


def _cards(fleet: Fleet) -> list[_Card]:
    inline = len(fleet.entries) <= INLINE
    ranked = sorted(fleet.entries, key=lambda entry: _rank(fleet, entry))  # stable: else in the manifest's order
    return [_card(fleet, entry, inline) for entry in ranked]


def _rank(fleet: Fleet, entry: Entry) -> tuple[int, float]:
    row = fleet.rows.get(entry.id)
    if row is None:
        return _ORDER.index(fleet.doing.get(entry.id, "waiting")), 0.0
    likeness = row.metrics.get("psnr", math.inf)
    return _ORDER.index(row.state), likeness if not math.isnan(likeness) else -math.inf


def _card(fleet: Fleet, entry: Entry, inline: bool) -> _Card:
    row = fleet.rows.get(entry.id)
    if row is None:
        doing = fleet.doing.get(entry.id, "waiting")
        return _Card(entry.id, _GROUP.get(doing, doing), doing, "", _picture(fleet, entry.id, "", inline), "")
    return _Card(
        id=entry.id,
        state=row.state,
        label=row.state,
        text=_figures(row) if row.state == "done" else row.reason.removeprefix(f"{row.photo}: "),
        picture=_picture(fleet, entry.id, row.thumbnail, inline),
        link=f"{quote(row.bundle)}/" if row.bundle else "",
    )


def _figures(row: Row) -> str:
    parts = []
    for name, shown in (("psnr", "{:.1f} dB"), ("ssim", "SSIM {:.3f}"), ("iou", "IoU {:.3f}")):
        if math.isfinite(row.metrics.get(name, math.nan)):
            parts.append(shown.format(row.metrics[name]))
    if row.gpu_seconds > 0:
        parts.append(f"{_span(row.gpu_seconds)} GPU")
    if row.attempts > 1:
        parts.append(f"{row.attempts} attempts")
    return " · ".join(parts)


def _picture(fleet: Fleet, name: str, thumbnail: str, inline: bool) -> str:
    """A data URI or a relative link; empty where there is no picture."""
    data = fleet.thumbnails.get(name)
    if inline:
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if data else ""
    if thumbnail:
        return quote(thumbnail)
    return "" if data is None else f"{THUMBNAILS}/{quote(name)}.jpg"


def _charts(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Caption and SVG of each curve; none before there are two points."""
    if len(samples) < 2:
        return []
    scale, unit = _unit(samples[-1].seconds)
    ends = np.unique(np.linspace(1, len(samples) - 1, min(len(samples) - 1, _POINTS)).round().astype(int))
    # Each point stands for the samples since the point before, so that no peak is left out.
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    x = [samples[end].seconds / scale for _, end in spans]

    def mean(value: Callable[[Sample], float]) -> list[float]:
        return [float(np.mean([value(sample) for sample in samples[a + 1 : b + 1]])) for a, b in spans]

    def per_minute(a: Sample, b: Sample) -> float:
        return 60 * (b.clips - a.clips) / max(b.seconds - a.seconds, 1e-9)

    curves = {
        "Avatars made": ([float(samples[end].done) for _, end in spans], None),
        "Refiners' time spent on clips, %": (mean(lambda sample: 100 * sample.busy), 100.0),
        "Clips refined a minute": ([per_minute(samples[a], samples[b]) for a, b in spans], None),
        "Requests that wait for a refiner": (mean(lambda sample: float(sample.queue)), None),
    }
    return [
        (f"{name}, over {unit} of this job", line_chart([Series(name, x, y)], title=f"{name} over time", top=top))
        for name, (y, top) in curves.items()
    ]


def _unit(seconds: float) -> tuple[float, str]:
    return (3600.0, "hours") if seconds > 7200 else (60.0, "minutes") if seconds > 300 else (1.0, "seconds")


def _span(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min`` or ``2 d 4 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
