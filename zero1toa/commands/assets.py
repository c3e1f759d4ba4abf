"""``zero1toa assets``: the table of external weights, and installing one."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from zero1toa import assets


def list_assets() -> None:
    """Print every asset with its state on this machine."""
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in ("Name", "For", "Without it", "Licence", "Size", "Here"):
        table.add_column(column, overflow="fold")
    for asset in assets.catalog():
        found = asset.find()
        here = f"[green]{found}[/]" if found else "no"
        table.add_row(
            asset.name,
            asset.purpose,
            asset.instead,
            asset.licence,
            "unknown" if asset.size is None else f"{asset.size / 1e6:.0f} MB",
            here,
            end_section=True,
        )
    console.print(table)
    console.print(f"Asset folder: {assets.home()} (set ZERO1TOA_HOME to move it). Nothing is downloaded by itself:")
    for asset in assets.catalog():
        file = "" if asset.source.endswith(asset.download) else f"{asset.download} from "
        console.print(f"  {asset.name}: fetch {file}{asset.source}", highlight=False, soft_wrap=True)
        console.print(
            f"  {' ' * len(asset.name)}  then zero1toa assets install {asset.name} {asset.download}",
            highlight=False,
            soft_wrap=True,
        )


def install_asset(name: str, file: Path) -> None:
    """Check and copy or convert one file; see :func:`zero1toa.assets.install` for what it raises."""
    target = assets.install(name, file)
    asset = assets.get(name)
    Console().print(f"{name} installed at {target}; used for {asset.purpose}.", highlight=False, soft_wrap=True)
