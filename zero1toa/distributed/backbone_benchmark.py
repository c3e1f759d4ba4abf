"""The same portraits through several settings: a batch for each, side by side where the cluster has room, one table."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from zero1toa.batch.backbone_table import Comparison, compare, to_csv, to_json, to_markdown
from zero1toa.batch.records import Entry, Row
from zero1toa.config import Config
from zero1toa.distributed.backbone_measuring import Inspected, inspect_avatar
from zero1toa.distributed.backbone_report import contact_sheet, log_comparison
from zero1toa.distributed.batch import run_batch
from zero1toa.distributed.failures import cause, first_line
from zero1toa.distributed.generate import avatars_at_once
from zero1toa.distributed.limits import share_threads, thread_variables
from zero1toa.distributed.placement import Placement, Room, plan, shortfall
from zero1toa.distributed.records import Served
from zero1toa.distributed.room import free_rooms
from zero1toa.distributed.session import ray_session
from zero1toa.errors import StorageError, UserError
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent

MARKDOWN, CSV, JSON, PICTURE = "backbones.md", "backbones.csv", "backbones.json", "backbones.png"
"""Files of a comparison in the benchmark's output."""

_MEMORY = "memory.json"
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to make the avatars.

    Attributes:
        name: safe as a folder's name, and no other setting's.
        config: its configuration.
        entries: the portraits, the same for all settings, with the configuration of each under this setting.
    """

    name: str
    config: Config
    entries: tuple[tuple[Entry, Config], ...]


def run_benchmark(
    settings: Sequence[Setting],
    output: Storage,
    *,
    name: str = "",
    restart: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Comparison]:
    """Make the avatars of every portrait under every setting, measure them, and write the comparison.

    Leaves in ``output`` a batch in a folder for each setting, ``backbones.md``, ``.csv``, ``.json`` and ``.png``, and a
    W&B run beside those of the avatars. The same call again continues the batches, and compares anew. On a Ray of this
    machine without GPUs the settings take turns: side by side they would take each other's cores, and their seconds
    could not be compared.

    Args:
        settings: what is compared; tracking is that of the first one.
        output: where everything goes.
        name: of the benchmark, for its W&B group; the output's name by default.
        restart: forget what earlier jobs made.
        say: receives a line now and then, from several threads.

    Returns:
        A row for each setting, in their order. What ended a setting, such as missing weights, is in its row.

    Raises:
        StorageError: if the output cannot be reached or written.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint of every avatar in work.
    """
    name = name or output.name
    refiners = max(max(setting.config.distributed.refiners, 1) for setting in settings)
    avatars = max(_avatars(setting) for setting in settings)
    threads = share_threads(settings[0].config.distributed.threads, refiners + avatars)
    together = len(settings) if torch.cuda.is_available() else 1
    with ray_session((refiners + avatars + 1) * together, variables=thread_variables(threads)):
        at_once = _at_once(settings[0].config, refiners, avatars, len(settings))
        say(f"{len(settings)} settings, {at_once} at a time")
        ended = _run_batches(settings, output, name, restart, at_once, say)
        inspected = {setting.name: _inspect(setting, ended[setting.name], output, say) for setting in settings}
    rows = [_compare(setting, ended[setting.name], inspected[setting.name]) for setting in settings]
    _write(output, name, rows, ended, inspected)
    sheet = contact_sheet([entry.id for entry, _ in settings[0].entries], inspected)
    output.write(PICTURE, sheet)
    log_comparison(settings[0].config, output, name, rows, PICTURE, say)
    return rows


@dataclasses.dataclass(frozen=True)
class _Ended:
    """How a setting's batch ended.

    Attributes:
        rows: its ledger.
        memory: most memory of its refiners in bytes, in this job or an earlier one, and whether it is a GPU's.
        problem: what ended it early, or empty.
    """

    rows: tuple[Row, ...] = ()
    memory: tuple[int, bool] | None = None
    problem: str = ""


def room_for(placement: Placement, rooms: Sequence[Room], refiners: int, avatars: int, settings: int) -> int:
    """How many settings fit into what is free at a time, each with all that it would have alone; at least one.

    Args:
        placement: what each actor asks for.
        rooms: what the nodes have free.
        refiners: refinement actors of a setting.
        avatars: reconstruction actors of a setting.
        settings: how many there are.
    """
    fitting = (
        count
        for count in range(settings, 1, -1)
        if shortfall(placement, rooms, refiners * count, avatars * count, helpers=count) is None
    )
    return next(fitting, 1)


def _avatars(setting: Setting) -> int:
    return min(avatars_at_once(setting.config, setting.config.batch.at_once), len(setting.entries))


def _at_once(config: Config, refiners: int, avatars: int, settings: int) -> int:
    import ray

    placement = plan(
        device=config.device,
        gpus=ray.cluster_resources().get("GPU", 0.0),
        refiners=refiners,
        avatars=avatars,
        refine_gpus=config.distributed.refine_gpus,
        reconstruct_gpus=config.distributed.reconstruct_gpus,
    )
    return room_for(placement, free_rooms(), refiners, avatars, settings)


def _run_batches(
    settings: Sequence[Setting],
    output: Storage,
    name: str,
    restart: bool,
    at_once: int,
    say: Callable[[str], None],
) -> dict[str, _Ended]:
    stopping = threading.Event()

    def alive() -> None:
        # Only the main thread hears of Ctrl-C; the others end in the same way when they are told.
        if stopping.is_set():
            raise KeyboardInterrupt

    with ThreadPoolExecutor(at_once, thread_name_prefix="setting") as pool:
        running: dict[str, Future[_Ended]] = {
            setting.name: pool.submit(_run_batch, setting, output / setting.name, name, restart, alive, say)
            for setting in settings
        }
        try:
            done, _ = wait(running.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return {key: future.result() for key, future in running.items()}


def _run_batch(
    setting: Setting,
    output: Storage,
    name: str,
    restart: bool,
    alive: Callable[[], None],
    say: Callable[[str], None],
) -> _Ended:
    def tell(line: str) -> None:
        say(f"{setting.name}: {line}")

    def hear(key: str, event: ProgressEvent | Row) -> None:
        if isinstance(event, Row):
            tell(f"{key} {event.state}" + (f" ({event.reason})" if event.reason else ""))

    def labelled(config: Config) -> Config:
        group = config.tracking.group or name
        return dataclasses.replace(
            config, tracking=dataclasses.replace(config.tracking, group=group, label=setting.name)
        )

    alive()
    entries = [(entry, labelled(config)) for entry, config in setting.entries]
    try:
        result = run_batch(
            entries,
            output,
            labelled(setting.config),
            name=f"{name}-{setting.name}",
            restart=restart,
            hear=hear,
            say=tell,
            alive=alive,
        )
        return _Ended(tuple(result.rows.values()), _peak(output, result.served, restart))
    except StorageError:
        raise  # no other setting could be kept either
    except UserError as error:
        problem = first_line(error)
    except Exception as error:  # whatever it was, the other settings can be compared
        _LOG.exception("the setting %s failed", setting.name)
        problem = f"{type(error).__name__}: {first_line(error)}"
    tell(problem)
    return _Ended(problem=problem)


def _peak(output: Storage, served: Sequence[Served], restart: bool) -> tuple[int, bool] | None:
    """Most memory of the setting's refiners, kept for the next job: that one may find nothing left to refine."""
    peaks = [(one.peak_memory, one.on_gpu) for one in served if one.clips]
    if not restart:
        try:
            kept: Any = json.loads(output.read(_MEMORY))
            peaks.append((int(kept["bytes"]), bool(kept["gpu"])))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
    # Bytes of a GPU and of a process do not compare; the newest job's refiners decide which it is.
    peaks = [peak for peak in peaks if peak[1] == peaks[0][1]]
    if not peaks:
        return None
    peak = max(peaks)
    output.write(_MEMORY, json.dumps({"bytes": peak[0], "gpu": peak[1]}))
    return peak


def _inspect(setting: Setting, ended: _Ended, output: Storage, say: Callable[[str], None]) -> dict[str, Inspected]:
    """Figures and pictures of a setting's finished avatars, by portrait; what cannot be measured is left out."""
    import ray

    task = ray.remote(inspect_avatar).options(num_cpus=1, max_retries=1)
    configs = {entry.id: config for entry, config in setting.entries}
    asked = {
        row.id: task.remote(
            output / setting.name / row.bundle, configs[row.id].head, configs[row.id].distributed.weights
        )
        for row in ended.rows
        if row.state == "done"
    }
    found: dict[str, Inspected] = {}
    for key, reference in asked.items():
        try:
            found[key] = ray.get(reference)
        except Exception as error:
            say(f"{setting.name}: {key} cannot be measured: {first_line(cause(error))}")
    return found


def _compare(setting: Setting, ended: _Ended, inspected: Mapping[str, Inspected]) -> Comparison:
    return compare(
        setting.name,
        setting.config.diffusion.backbone if setting.config.diffusion.enabled else "none",
        len(setting.entries),
        ended.rows,
        {key: one.figures for key, one in inspected.items()},
        ended.memory,
        ended.problem,
    )


def _write(
    output: Storage,
    name: str,
    rows: Sequence[Comparison],
    ended: Mapping[str, _Ended],
    inspected: Mapping[str, Mapping[str, Inspected]],
) -> None:
    avatars = {
        setting: {
            row.id: {
                "state": row.state,
                "reason": row.reason,
                "bundle": f"{setting}/{row.bundle}" if row.bundle else "",
                "seconds": _finite(row.seconds),
                "gpu_seconds": row.gpu_seconds,
                "metrics": _finite(row.metrics),
                **(dataclasses.asdict(one.figures) if (one := inspected[setting].get(row.id)) else {}),
            }
            for row in one_ended.rows
        }
        for setting, one_ended in ended.items()
    }
    output.write(JSON, to_json(name, rows, avatars))
    output.write(CSV, to_csv(rows))
    output.write(MARKDOWN, to_markdown(name, rows, PICTURE))


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no infinity, which a likeness without any error is."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
