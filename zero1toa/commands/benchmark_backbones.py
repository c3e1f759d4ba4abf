"""The Ray job that compares settings: a manifest of portraits and a file of settings to a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from zero1toa.batch.backbone_settings import read_settings
from zero1toa.batch.manifest import portrait_config, read_manifest
from zero1toa.commands.batch import ALL_DONE, SOME_FAILED
from zero1toa.config import load
from zero1toa.distributed.backbone_benchmark import MARKDOWN, Setting, run_benchmark
from zero1toa.storage import Storage


def benchmark_backbones(
    source: str,
    output: str,
    settings: Path,
    overrides: Sequence[str] = (),
    *,
    file: Path | None = None,
    name: str = "",
    restart: bool = False,
    console: Console | None = None,
) -> int:
    """Make the avatars of all portraits under all settings, and compare them; the same call again continues.

    Args:
        source: portraits, as :func:`zero1toa.batch.manifest.read_manifest`.
        output: folder, path or fsspec URL.
        settings: YAML file, as :func:`zero1toa.batch.backbone_settings.read_settings`.
        overrides: configuration of all settings as ``key=value``; a setting's own values come after them.
        file: configuration file, merged before ``overrides``.
        name: of the benchmark; the output's name by default.
        restart: forget what earlier jobs made in the output.
        console: where to print.

    Returns:
        :data:`~zero1toa.commands.batch.ALL_DONE`, or :data:`~zero1toa.commands.batch.SOME_FAILED` if any setting has
        not made all avatars.

    Raises:
        UserError: for anything that concerns the whole benchmark and that the user can mend.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint of every avatar in work.
    """
    console = console or Console(highlight=False)
    named = read_settings(settings)
    entries = read_manifest(source)
    prepared = []
    for setting in named:
        both = (*overrides, *setting.overrides)
        common = load(both, file)
        configs = [portrait_config(both, file, entry) if entry.overrides else common for entry in entries]
        prepared.append(Setting(setting.name, common, tuple(zip(entries, configs, strict=True))))
    storage = Storage(output)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    rows = run_benchmark(prepared, storage, name=name, restart=restart, say=say)
    say(f"\n{storage.read_text(MARKDOWN)}\n  {storage.locate(MARKDOWN)}")
    return ALL_DONE if all(row.done == row.portraits for row in rows) else SOME_FAILED
