"""``zero1toa plan``: what a configuration will do, and what that costs, before it is run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from zero1toa import media
from zero1toa.commands.render import check_writable
from zero1toa.config import Config, load
from zero1toa.head.registry import load_head
from zero1toa.planning.prediction import Plan, plan_run
from zero1toa.planning.schedule import PlannedStage
from zero1toa.tracking.console import duration


def print_plan(
    overrides: Sequence[str] = (), file: Path | None = None, output: Path | None = None, console: Console | None = None
) -> None:
    """Plan a run and print it; needs neither a photo, nor weights, nor a GPU.

    Args:
        overrides: configuration values as ``key=value``.
        file: configuration file, merged before ``overrides``.
        output: JSON file for the whole plan, every request included, or None.
        console: where to print.

    Raises:
        UserError: for an impossible configuration or a file that cannot be written.
    """
    if output is not None:
        check_writable(output, ".json")
    console = console or Console(highlight=False)
    config = load(overrides, file)
    # Names and numbers of clips do not depend on the head, and an edition of FLAME need not be installed to plan.
    plan = plan_run(config, load_head("canonical"))
    _print_schedule(plan, config, console)
    _print_cost(plan, config, console)
    for note in plan.notes:
        console.print(f"[dim]{note}.[/]", soft_wrap=True)
    if output is not None:
        media.write_text(output, json.dumps(plan_as_dict(plan, config), indent=1) + "\n")


def plan_as_dict(plan: Plan, config: Config) -> dict[str, Any]:
    """The plan as plain values; figures that no rate tells are null."""
    values = dataclasses.asdict(plan)
    schedule = values.pop("schedule")
    schedule["requests"] = [
        {"step": r.step, "clip": str(r.key), "unlocked": r.unlocked} for r in plan.schedule.requests
    ]
    work = {**values.pop("work"), "frame_evaluations": plan.work.frame_evaluations}
    head = {"preset": config.preset, "backbone": config.diffusion.backbone if config.diffusion.enabled else None}
    return {**head, "iterations": config.loop.iterations, **schedule, "work_each": work, **values}


def _print_schedule(plan: Plan, config: Config, console: Console) -> None:
    table = _table("Stage", "Clips", "From iteration", "Updates", "Never refined", "Frames open")
    for stage in plan.schedule.stages:
        start = "never" if stage.start is None else str(stage.start)
        table.add_row(
            stage.stage.replace("_", " "),
            str(stage.clips),
            start,
            str(stage.requests),
            str(stage.missed),
            _opening(stage),
        )
    console.print(table)
    console.print(
        f"{config.loop.iterations} iterations of {config.loop.batch_frames} frames, "
        f"{len(plan.schedule.requests)} updates, one every {config.loop.update_interval} iterations.",
        soft_wrap=True,
    )


def _opening(stage: PlannedStage) -> str:
    if not stage.unlocks:
        return "–"
    (first, low), (last, high) = stage.unlocks[0], stage.unlocks[-1]
    if low == high:
        return f"{low} from the start"
    second = stage.unlocks[1][0]
    return f"{low} at {first}, one more every {second - first}, {high} from {last}"


def _print_cost(plan: Plan, config: Config, console: Console) -> None:
    distilled = config.distillation.method != "none"
    table = _table("Cost", "Per iteration" if distilled else "Per update", "In all")
    updates = max(plan.times, 1)
    name = config.diffusion.backbone if config.diffusion.enabled else "no refinement"
    table.add_row(
        f"network evaluations, frames ({name})", f"{plan.work.frame_evaluations:.4g}", f"{plan.evaluations:.0f}"
    )
    table.add_row("network calls", f"{plan.work.calls:.3g}", f"{plan.work.calls * plan.times:.0f}")
    if plan.teraflop is not None and plan.refinement_seconds is not None:
        table.add_row("arithmetic, TFLOP", f"{plan.teraflop / updates:.0f}", f"{plan.teraflop:.0f}")
        seconds = plan.refinement_seconds
        table.add_row("diffusion, minutes", f"{seconds / updates / 60:.3f}", f"{seconds / 60:.1f}")
    elif config.diffusion.enabled:
        table.add_row("diffusion, minutes", "no rate", "no rate")
    training = "no rate" if plan.training_seconds is None else f"{plan.training_seconds / 60:.1f}"
    table.add_row("training, minutes", "", training)
    known = plan.weights_gib + plan.clips_gib
    table.add_row(
        f"weights ({sum(plan.parameters.values()) / 1e6:.0f} M parameters), GiB", "", f"{plan.weights_gib:.2f}"
    )
    table.add_row("dataset, GiB", "", f"{plan.clips_gib:.2f}")
    measured = plan.activations_gib is not None
    peak = f"{known + (plan.activations_gib or 0):.2f}"
    table.add_row("peak memory, GiB" if measured else "peak memory without activations, GiB", "", peak)
    table.add_row("Gaussians of the first avatar", "", str(plan.gaussians))
    console.print(table)
    if plan.refinement_seconds is not None and plan.training_seconds is not None:
        whole = duration(plan.refinement_seconds + plan.training_seconds)
        console.print(f"Predicted, serially on the GPUs named below: at least {whole}.", soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
