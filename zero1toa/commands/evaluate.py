"""``zero1toa evaluate``: does an avatar look like its portrait and do what it is told?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from zero1toa import media
from zero1toa.commands.player import open_player
from zero1toa.commands.render import check_writable
from zero1toa.evaluation.control import ControlReport, control_of
from zero1toa.evaluation.portrait_view import PortraitFigures, measure_portrait


def figures_of(portrait: PortraitFigures | None, control: ControlReport) -> dict[str, Any]:
    """Both measurements as plain values for JSON; a figure that could not be measured is null."""
    rows: dict[str, Any] = {}
    if portrait is not None:
        rows |= {"portrait_psnr": portrait.psnr, "portrait_ssim": portrait.ssim, "outline_iou": portrait.iou}
    for name in ("jaw_open", "blink_left", "blink_right", "wink_left", "wink_left_other", "wink_right",
                 "wink_right_other", "smile"):  # fmt: skip
        rows[name] = getattr(control, name)
    rows |= {f"yaw_{yaw:+.0f}": seen for yaw, seen in control.yaw.items()}
    rows |= {f"face_found_{yaw:+.0f}": found for yaw, found in control.found.items()}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in rows.items()
    }


def checks_of(portrait: PortraitFigures | None, control: ControlReport) -> dict[str, bool]:
    """Every promise with whether it is kept."""
    return {**(portrait.checks() if portrait is not None else {}), **control.checks()}


def evaluate(bundle: Path, output: Path | None, device: str) -> None:
    """Measure a bundle and print the tables.

    Args:
        bundle: avatar bundle.
        output: JSON file for the figures, or None.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    if output is not None:
        check_writable(output, ".json")
    player = open_player(bundle, device)
    portrait = measure_portrait(player) if player.bundle.portrait is not None else None
    control = control_of(player)
    figures, checks = figures_of(portrait, control), checks_of(portrait, control)
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("Figure")
    table.add_column("Measured", justify="right")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), _text(value))
    console.print(table)
    for promise, kept in checks.items():
        console.print(f"{'[green]✓[/]' if kept else '[red]✗[/]'} {promise}", highlight=False)
    console.print(f"{sum(checks.values())} of {len(checks)} kept.", highlight=False)
    if output is not None:
        media.write_text(output, json.dumps({"figures": figures, "checks": checks}, indent=1) + "\n")


def _text(value: Any) -> str:
    if value is None:
        return "no face found"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
