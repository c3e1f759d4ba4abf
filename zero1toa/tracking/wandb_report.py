"""The W&B report of a batch: read from ``configs/wandb/report.yaml``, and saved for a job with wandb-workspaces."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from zero1toa.config import config_folder
from zero1toa.errors import ConfigError, UserError

_KINDS = ("lines", "media", "table")
_PACKAGE = "wandb-workspaces"


@dataclasses.dataclass
class PanelSpec:
    """One panel.

    Attributes:
        kind: ``lines`` over ``x``, ``media``, or the ``table`` of that name.
        title: caption of lines and media.
        keys: what the runs logged it as.
        box: x, y, width and height on a grid of 24 columns.
        x: key of the horizontal axis, for lines.
        together: draw the mean over all runs and their range, instead of a line for each run.
        stacked: fill the areas between the lines.
    """

    kind: str
    title: str
    keys: list[str]
    box: list[int]
    x: str = ""
    together: bool = False
    stacked: bool = False


@dataclasses.dataclass
class GridSpec:
    """Panels about the same runs.

    Attributes:
        heading: caption.
        runs: their job type, ``system`` or ``avatar``.
        panels: the panels.
    """

    heading: str
    runs: str
    panels: list[PanelSpec]


@dataclasses.dataclass
class ReportSpec:
    """A report.

    Attributes:
        title: caption, with ``{job}`` for the job's name.
        grids: from top to bottom.
    """

    title: str
    grids: list[GridSpec]


def read_report(path: Path | None = None) -> ReportSpec:
    """Read a report's definition.

    Args:
        path: YAML file; None is the one that ships.

    Raises:
        ConfigError: if it cannot be read, or has keys or values that a definition has not.
    """
    from omegaconf import OmegaConf

    path = path or config_folder() / "wandb" / "report.yaml"
    try:
        spec = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ReportSpec), OmegaConf.load(path)))
    except Exception as error:
        raise ConfigError(f"{path} is no definition of a report: {str(error).splitlines()[0]}") from error
    assert isinstance(spec, ReportSpec)
    for panel in (panel for grid in spec.grids for panel in grid.panels):
        if panel.kind not in _KINDS or len(panel.box) != 4:
            raise ConfigError(
                f"{path}: panel '{panel.title}' has kind '{panel.kind}' and box {panel.box}; a kind is one of "
                f"{', '.join(_KINDS)}, a box has x, y, width and height"
            )
    return spec


def build_report(spec: ReportSpec, entity: str, project: str, job: str) -> Any:
    """The report as an object of wandb-workspaces, not saved yet.

    Args:
        spec: its definition.
        entity: W&B user or team.
        project: W&B project of the runs.
        job: the job's name, which is the group of its runs.

    Raises:
        UserError: if wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces.reports import v2
    except ImportError as error:
        raise UserError(f"building a W&B report needs the package {_PACKAGE}: pip install {_PACKAGE}") from error
    blocks: list[Any] = []
    for grid in spec.grids:
        filters = f"Metric('JobType') == {_literal(grid.runs)} and Metric('Group') == {_literal(job)}"
        runs = v2.Runset(entity=entity, project=project, name=grid.heading, filters=filters)
        panels = [_panel(v2, panel) for panel in grid.panels]
        blocks += [v2.H2(text=grid.heading), v2.PanelGrid(runsets=[runs], panels=panels)]
    return v2.Report(entity=entity, project=project, title=spec.title.format(job=job), blocks=blocks, width="fluid")


def save_report(entity: str, project: str, job: str, path: Path | None = None) -> str:
    """Build the report of a job and save it in W&B, which needs the network and a key.

    Args:
        entity: W&B user or team.
        project: W&B project of the runs.
        job: the job's name.
        path: definition of the report; None is the one that ships.

    Returns:
        Its address.

    Raises:
        ConfigError: as :func:`read_report`.
        UserError: if wandb-workspaces is not installed, or W&B cannot be reached or refuses.
    """
    report = build_report(read_report(path), entity, project, job)
    try:
        return str(report.save().url)
    except Exception as error:  # the package raises its own, W&B's and the network's
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"cannot save the report in {entity}/{project}: {lines[0]}; try `wandb login`") from error


def _literal(text: str) -> str:
    """A string in a filter. The package changes operators in a filter's text before it is parsed, also in strings."""
    return "'" + "".join(c if c.isalnum() or c in " -._/" else f"\\U{ord(c):08x}" for c in text) + "'"


def _panel(v2: Any, panel: PanelSpec) -> Any:
    x, y, width, height = panel.box
    layout = v2.Layout(x=x, y=y, w=width, h=height)
    if panel.kind == "table":
        return v2.WeavePanelSummaryTable(table_name=panel.keys[0], layout=layout)
    if panel.kind == "media":
        return v2.MediaBrowser(title=panel.title, media_keys=panel.keys, layout=layout)
    options: dict[str, Any] = {}
    if panel.together:
        options = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    if panel.stacked:
        options["plot_type"] = "stacked-area"
    return v2.LinePlot(title=panel.title, x=panel.x, y=panel.keys, layout=layout, **options)
