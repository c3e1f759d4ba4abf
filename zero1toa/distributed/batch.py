"""A batch of portraits on Ray, from its manifest to its ledger."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

from zero1toa.batch.job_file import Job, open_job
from zero1toa.batch.job_lock import JobLock
from zero1toa.batch.ledger import Ledger
from zero1toa.batch.records import Entry, Row, Sample, State
from zero1toa.batch.status import THUMBNAILS, Fleet
from zero1toa.batch.tables import write_tables
from zero1toa.config import Config, to_dict
from zero1toa.distributed.bulletin import Bulletin
from zero1toa.distributed.generate import avatars_at_once, run_on_ray
from zero1toa.distributed.metrics import Metrics
from zero1toa.distributed.portraits import Portraits
from zero1toa.distributed.records import Load, Served
from zero1toa.errors import StorageError
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.tracking.fleet_page import INLINE
from zero1toa.tracking.system_run import SystemRun
from zero1toa.tracking.wandb_folder import wandb_folder


@dataclasses.dataclass(frozen=True)
class BatchResult:
    """How a batch ended.

    Attributes:
        rows: newest row of every portrait, by its id, in the manifest's order.
        job: id of the job.
        served: what the refiners did that were there at the end; nothing if there was nothing to do.
    """

    rows: dict[str, Row]
    job: str
    served: tuple[Served, ...] = ()

    @property
    def counts(self) -> Counter[State]:
        """Number of portraits by how they ended."""
        return Counter(row.state for row in self.rows.values())


Hear = Callable[[str, ProgressEvent | Row], None]


def run_batch(
    entries: Sequence[tuple[Entry, Config]],
    output: Storage,
    config: Config,
    *,
    name: str = "",
    restart: bool = False,
    hear: Hear = lambda key, event: None,
    say: Callable[[str], None] = lambda line: None,
    dashboard: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> BatchResult:
    """Make the avatars of all portraits that have none yet.

    Leaves in ``output``: ``job.json``, ``ledger/``, ``avatars/<id>/``, ``thumbnails/``, and as summaries
    ``status.json``, ``fleet.html``, ``ledger.csv`` and ``ledger.jsonl``. The same call again continues, whatever ended
    the last one.

    Args:
        entries: portraits in the manifest's order, with the configuration of each.
        output: where everything goes.
        config: the job's configuration.
        name: of the batch, for its ids and its W&B group; the output's name by default.
        restart: forget what earlier jobs made.
        hear: receives every event and every new row, with the portrait's id.
        say: receives a line about the job now and then.
        dashboard: start Ray's dashboard, if this call starts Ray.
        alive: called several times a second; what it raises ends the batch as Ctrl-C does, after checkpoints.

    Raises:
        OutputError: if another job works in the output, or it, or a finished avatar in it, belongs to another
            configuration.
        StorageError: if the output cannot be reached or written; the same call continues when it can.
        UserError: for what concerns all portraits, such as missing weights.
        BackboneError: if the refiners' processes keep dying.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint of every avatar in work.
    """
    with JobLock(output, name or output.name, say=say) as lock:
        configs = [(entry.id, one) for entry, one in entries]
        job = open_job(output, name or output.name, config, portraits=configs, restart=restart)
        named = [(entry, _named(one, job.name)) for entry, one in entries]
        watch = _Watch([entry for entry, _ in entries], output, job, config, lock, alive)
        served: list[Served] = []
        avatars = min(avatars_at_once(config, config.batch.at_once), max(len(named), 1))
        look_ahead = config.batch.look_ahead or avatars
        portraits = Portraits(
            named,
            watch.ledger,
            output,
            job.id,
            look_ahead=look_ahead,
            retry_failed=config.batch.retry_failed,
            keep_dataset=config.batch.keep_dataset,
            background=config.render.background,
            alive=watch.tick,
            heard=lambda key, event: watch.heard(key, event, hear),
        )
        watch.portraits = portraits
        with ExitStack() as closing:
            local = closing.enter_context(wandb_folder(output, say))
            run_config = to_dict(config)
            watch.system = closing.enter_context(
                SystemRun(local, config.tracking, job.name, run_config, say, attempt=job.attempt)
            )
            closing.callback(watch.close)
            if portraits.more():
                avatars = min(avatars, len(portraits.doing))
                helpers = min(look_ahead, os.cpu_count() or 1)
                served = run_on_ray(
                    portraits,
                    _named(config, job.name),
                    avatars=avatars,
                    helpers=helpers,
                    dashboard=dashboard,
                    say=say,
                )
        rows = watch.ledger.rows()
        ordered = {entry.id: rows[entry.id] for entry, _ in entries}
        write_tables(output, ordered.values())
        return BatchResult(ordered, job.id, tuple(served))


class _Watch:
    """Keeps the batch's curves, its summaries, and its hold on the output."""

    def __init__(
        self,
        entries: Sequence[Entry],
        output: Storage,
        job: Job,
        config: Config,
        lock: JobLock,
        alive: Callable[[], None],
    ) -> None:
        self.ledger = Ledger(output)
        self.portraits: Portraits | None = None
        self._entries = entries
        self._output = output
        self._job = job.id
        self._refresh = config.batch.refresh
        self._lock = lock
        self._alive = alive
        self._bulletin = Bulletin(output)
        self._began = time.monotonic()
        self._started = datetime.now(UTC)
        self._due = 0.0
        self._samples: list[Sample] = []
        self._load = Load(0, 0, 0, 0.0, 0.0, 0, 0)
        self._thumbnails = self._kept_thumbnails()
        self._metrics = Metrics(config.diffusion.backbone, job.name)
        self.system: SystemRun | None = None

    def tick(self, load: Load | None) -> None:
        """Called several times a second.

        Raises:
            OutputError: if another job has taken over the output.
            StorageError: if the output cannot be written.
        """
        self._alive()
        self._lock.check()
        if load is not None:
            self._metrics.load(load)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._refresh
            self._sample(load)
            self._bulletin.publish(self._fleet())

    def heard(self, key: str, event: ProgressEvent | Row, hear: Hear) -> None:
        """Count an event, and pass it on."""
        if isinstance(event, ProgressEvent):
            self._metrics.event(event)
        hear(key, event)

    def close(self) -> None:
        """Publish the last state, as far as the output can be written."""
        self._sample(None)
        if self.system is not None:
            self.system.ledger(self.ledger.rows().values())
        fleet = self._fleet()
        with suppress(StorageError):
            # A job that found nothing to do has no curves. The page of the one before says the same, and has some.
            if len(fleet.samples) > 1 or not self._bulletin.shows(fleet):
                self._bulletin.publish(fleet, wait=True)
        self._bulletin.close()

    def _sample(self, load: Load | None) -> None:
        portraits = self.portraits
        assert portraits is not None
        before, load = self._load, load or self._load
        self._load = load
        present = load.present - before.present
        stages = Counter(portraits.doing.values())
        ended = Counter(row.state for row in self.ledger.rows().values())
        ages = portraits.take_ages()
        sample = Sample(
            seconds=time.monotonic() - self._began,
            waiting=stages["waiting"],
            preparing=stages["preparing"],
            training=stages["training"],
            finishing=stages["finishing"],
            done=ended["done"],
            failed=sum(ended.values()) - ended["done"],
            queue=load.waiting,
            # A dispatcher that was restarted begins at nought again.
            busy=min(max((load.worked - before.worked) / present, 0.0), 1.0) if present > 0 else 0.0,
            clips=portraits.clips,
            iterations=portraits.iterations,
            age=sum(ages) / len(ages) if ages else 0.0,
        )
        self._samples.append(sample)
        self._metrics.sample(sample)
        if self.system is not None:
            self.system.sample(sample)

    def _fleet(self) -> Fleet:
        portraits = self.portraits
        assert portraits is not None
        thumbnails = {**self._thumbnails, **portraits.thumbnails}
        return Fleet(
            job=self._job,
            started=self._started,
            now=datetime.now(UTC),
            entries=self._entries,
            rows=self.ledger.rows(),
            doing=dict(portraits.doing),
            samples=list(self._samples),
            thumbnails=thumbnails,
        )

    def _kept_thumbnails(self) -> dict[str, bytes]:
        """Those of earlier jobs; of many only that they are there, as the page links them."""
        names = [name.removesuffix(".jpg") for name in self._output.files(THUMBNAILS, ".jpg")]
        if len(self._entries) > INLINE:
            return dict.fromkeys(names, b"")
        return {name: self._output.read(f"{THUMBNAILS}/{name}.jpg") for name in names}


def _named(config: Config, job: str) -> Config:
    """The configuration with the job's name as W&B group, where the user has chosen none."""
    tracking = dataclasses.replace(config.tracking, group=config.tracking.group or job)
    return dataclasses.replace(config, tracking=tracking)
