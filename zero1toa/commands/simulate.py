"""``zero1toa simulate``: what a batch would do on a number of GPUs, before they are rented."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from zero1toa import media
from zero1toa.distributed.simulation import bounds
from zero1toa.distributed.simulation.settings import Settings, read_settings
from zero1toa.distributed.simulation.simulate import Percentiles, Rates, Report, simulate


def print_simulation(
    overrides: Sequence[str] = (), output: Path | None = None, console: Console | None = None
) -> Report:
    """Simulate a batch and print what came out; needs neither Ray, nor weights, nor a GPU.

    Args:
        overrides: settings as ``key=value``, see :class:`~zero1toa.distributed.simulation.settings.Settings`.
        output: JSON file for settings and figures, or None.
        console: where to print.

    Returns:
        What was printed.

    Raises:
        UserError: for an unknown or impossible setting, or a file that cannot be written.
    """
    settings = read_settings(overrides)
    if output is not None:
        from zero1toa.commands.render import check_writable  # it comes with torch, which a simulation does without

        check_writable(output, ".json")
    console = console or Console(highlight=False)
    console.print(
        f"{settings.portraits} portraits on {settings.gpus:g} GPUs: {settings.refiners} refiners, "
        f"{settings.avatars} avatars at once, window {settings.window}, slack {settings.slack:g}",
        soft_wrap=True,
    )
    report = simulate(settings)
    console.print(_rates(report))
    console.print(_percentiles(report))
    for line in _told(settings, report):
        console.print(line, soft_wrap=True)
    if output is not None:
        media.write_text(output, json.dumps(_as_dict(settings, report), indent=1) + "\n")
    return report


def _as_dict(settings: Settings, report: Report) -> dict[str, Any]:
    limits = {
        "updates": bounds.updates(settings),
        "service_seconds": bounds.service_seconds(settings),
        "training_seconds": bounds.training_seconds(settings),
        "clips_per_second": bounds.throughput(settings),
        "knee": bounds.knee(settings),
    }
    held = {"avatars": settings.avatars, "gpus": settings.gpus}
    return {
        "settings": {**dataclasses.asdict(settings), **held},
        "bounds": limits,
        "report": dataclasses.asdict(report),
    }


def _rates(report: Report) -> Table:
    table = _table("", "All in work", "Whole batch")

    def row(name: str, value: str, form: str, scale: float = 1.0) -> None:
        def told(rates: Rates | None) -> str:
            return "–" if rates is None else format(scale * getattr(rates, value), form)

        table.add_row(name, told(report.steady), told(report.whole))

    row("avatars an hour", "avatars_per_hour", ".1f")
    row("clips a second", "clips_per_second", ".3f")
    row("refiners busy, %", "refiners_busy", ".1f", 100)
    row("trainers busy, %", "trainers_busy", ".1f", 100)
    row("hours", "seconds", ".2f", 1 / 3600)
    return table


def _percentiles(report: Report) -> Table:
    table = _table("", "Half up to", "95 % up to")

    def row(name: str, of: Percentiles, form: str) -> None:
        table.add_row(name, format(of.p50, form), format(of.p95, form))

    row("wait for a refiner, seconds", report.wait, ".2f")
    row("age of a clip, seconds", report.age_seconds, ".2f")
    row("age of a clip, iterations", report.age_iterations, ".0f")
    return table


def _told(settings: Settings, report: Report) -> list[str]:
    lines = [
        f"{report.done} done, {report.failed} failed in {_duration(report.makespan)}, of it {_duration(report.ramp)} "
        f"until all were in work and {_duration(report.tail)} since no portrait waited.",
        f"{report.gpu_hours:.3f} GPU hours an avatar; one clip for {report.effective_interval:.2f} iterations.",
        f"{report.requests} requests: {report.committed} committed, {report.superseded} superseded, "
        f"{report.expired} expired, {report.given_up} given up, {report.unanswered} unanswered at the end.",
    ]
    if report.refiner_deaths or report.trainer_deaths or report.leases_expired:
        lines.append(
            f"{report.refiner_deaths} refiners died with {report.clips_lost} clips, {report.trainer_deaths} trainers "
            f"with {report.iterations_redone} iterations; {report.leases_expired} leases ran out."
        )
    most = bounds.throughput(settings)
    hour = 3600 * most / bounds.updates(settings)
    lines.append(
        f"[dim]On average no schedule does more than {most:.3f} clips a second, which is {hour:.1f} avatars an hour; "
        f"{bounds.knee(settings):.1f} avatars at once ask for all that these refiners can.[/]"
    )
    return lines


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column(names[0], min_width=28)
    for name in names[1:]:
        table.add_column(name, justify="right")
    return table
