"""Line charts as inline SVG that follow the page's colours: small, self-contained and sharp at any size."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 28
_MAX_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: caption.
        x: positions ``[N]``, increasing.
        y: values ``[N]``; those that are not finite are left out.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    smooth: int = 1,
    marks: Mapping[str, float] | None = None,
    top: float | None = None,
) -> str:
    """Draw series over a common axis.

    Args:
        series: lines; their order chooses the colour classes ``line-0``, ``line-1``, …
        title: accessible name.
        smooth: width in points of the moving average that is drawn boldly over the faint raw line; 1 draws the raw
            line only.
        marks: caption to x position of vertical lines.
        top: upper end of the vertical axis, for values that have a natural one; None takes it from the values.

    Returns:
        An ``<svg>`` element whose colours come from the page's style sheet.
    """
    cleaned = [_clean(one) for one in series]
    xs = np.concatenate([x for x, _ in cleaned] or [np.zeros(1)])
    bold = [(x, _moving_average(y, smooth)) for x, y in cleaned]
    # The axis follows the smoothed lines: single noisy values would squeeze everything else.
    ys = np.concatenate([y for _, y in bold] or [np.zeros(1)])
    if not len(xs):
        xs = ys = np.zeros(1)
    x_ticks = _ticks(float(xs.min()), float(xs.max()))
    highest = float(ys.max()) * 1.05 if top is None else top
    y_ticks = _ticks(min(0.0, float(ys.min())), highest)
    x_range = (float(xs.min()), float(xs.max()))
    y_range = (y_ticks[0], max(y_ticks[-1], highest))
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        '<g class="grid">',
    ]
    for tick in y_ticks:
        y = _y(tick, y_range)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if x_range[0] <= tick <= x_range[1]:
            x = _x(tick, x_range)
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 9}" text-anchor="middle">{tick:g}</text>')
    for caption, position in (marks or {}).items():
        if x_range[0] < position < x_range[1]:
            x = _x(position, x_range)
            parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
            parts.append(f'<text x="{x + 5:.1f}" y="{_TOP + 9}">{html.escape(caption)}</text>')
    parts.append("</g>")
    for i, (x_bold, y_bold) in enumerate(bold):
        if smooth > 1:
            raw = _path(*cleaned[i], x_range, y_range)
            # A nested <svg> clips at its own edge, so that outliers do not leave the plot.
            width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
            place = f'x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}"'
            place += f' viewBox="{_LEFT} {_TOP} {width} {height}"'
            parts.append(f'<svg {place}><path class="raw line-{i}" d="{raw}"/></svg>')
        parts.append(f'<path class="line-{i}" d="{_path(x_bold, y_bold, x_range, y_range)}"/>')
    parts.append("</svg>")
    return "".join(parts)


def _clean(series: Series) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    keep = np.isfinite(y)
    return x[keep], y[keep]


def _moving_average(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Centred mean over ``width`` points, over those that exist near the ends."""
    if width <= 1 or len(values) < 3:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - width // 2, 0), np.minimum(index + width // 2 + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover ``low`` to ``high``."""
    span = max(high - low, 1e-9)
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _x(value: float, limits: tuple[float, float]) -> float:
    share = (value - limits[0]) / max(limits[1] - limits[0], 1e-9)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, limits: tuple[float, float]) -> float:
    share = (value - limits[0]) / max(limits[1] - limits[0], 1e-9)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _path(
    x: NDArray[np.float64], y: NDArray[np.float64], x_range: tuple[float, float], y_range: tuple[float, float]
) -> str:
    step = max(1, len(x) // _MAX_POINTS)
    points = [f"{_x(a, x_range):.1f} {_y(b, y_range):.1f}" for a, b in zip(x[::step], y[::step], strict=True)]
    return f"M{' L'.join(points)}" if points else ""
