"""The portraits of a batch on their way: triage, preparation, training, and a row in the ledger.

Each stage is a bounded number of portraits ahead of the next, so that memory does not grow with the batch. The ledger's
row is written last: what has one is finished, and what has none is taken up again by the next job, from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from zero1toa.batch.job_file import AVATARS, config_digest
from zero1toa.batch.ledger import Ledger
from zero1toa.batch.photos import photo_name
from zero1toa.batch.records import Doing, Entry, Finding, Row, State
from zero1toa.batch.status import THUMBNAILS
from zero1toa.config import Config
from zero1toa.distributed.failures import cause, deaths, first_line
from zero1toa.distributed.placement import Placement
from zero1toa.distributed.preparation import inspect, prepare
from zero1toa.distributed.reconstruction import Outcome
from zero1toa.distributed.records import Job, Load
from zero1toa.distributed.spent import Spent
from zero1toa.errors import PortraitError, StorageError, UserError
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.types import Portrait

_CHUNK = 8  # photos that one task looks at
_CHUNKS = 8  # tasks that look at photos at a time
_TICK = 0.2  # seconds between looks at the tasks while nothing else is done
_RETRIES = 3  # times that a task is repeated whose process or machine died
_ATTEMPTS = "attempts.json"


@dataclasses.dataclass
class _Item:
    """A portrait that has not ended."""

    entry: Entry
    config: Config
    finding: Finding = dataclasses.field(default_factory=lambda: Finding(""))
    portrait: Portrait | None = None
    prepare_seconds: float = 0.0
    attempts: int = 0
    iterations: int = 0  # of this job, for the batch's curves
    spent: Spent = dataclasses.field(default_factory=Spent)


class Portraits:
    """All portraits of a batch; see :class:`zero1toa.distributed.coordinator.Work`.

    Attributes:
        doing: what is being done with those that have not ended.
        clips: clips refined in this job.
        ages: ages in iterations of the clips that were committed since :meth:`take_ages`.

    Args:
        entries: portraits in the manifest's order, with the configuration of each.
        ledger: how portraits have ended so far.
        output: the batch's output.
        job: id of this job.
        look_ahead: portraits that are prepared before a trainer is free for them.
        retry_failed: take up portraits again that have failed or were rejected.
        background: sRGB colour in [0, 1] behind photos that have transparency.
        keep_dataset: keep refined clips and checkpoints of finished avatars.
        alive: called several times a second; raises to end the batch.
        heard: receives every event of every avatar, and every row.
        cpus: CPUs that a task asks for.
    """

    def __init__(
        self,
        entries: Sequence[tuple[Entry, Config]],
        ledger: Ledger,
        output: Storage,
        job: str,
        *,
        look_ahead: int,
        retry_failed: bool,
        keep_dataset: bool,
        background: Sequence[float],
        alive: Callable[[Load | None], None],
        heard: Callable[[str, ProgressEvent | Row], None],
        cpus: float = 1.0,
    ) -> None:
        self._ledger = ledger
        self._output = output
        self._job = job
        self._look_ahead = look_ahead
        self._keep_dataset = keep_dataset
        self._background = tuple(background)
        self._alive = alive
        self._heard = heard
        self._cpus = cpus
        self._shares = (0.0, 0.0)  # of a GPU: refiner and trainer
        rows = ledger.rows()
        again = {"failed", "rejected"} if retry_failed else set()
        left = [(e, c) for e, c in entries if e.id not in rows or rows[e.id].state in again]
        by_id = dict((entry.id, entry) for entry, _ in entries)
        # The first portrait of a photo that was made, so that a later one is known as its duplicate.
        self._first = {
            (row.digest, by_id[row.id].overrides): row.id
            for row in rows.values()
            if row.digest and row.state != "duplicate" and row.id in by_id and row.state not in again
        }
        self._unseen = deque(_Item(entry, config) for entry, config in left)
        self._inspecting: OrderedDict[Any, list[_Item]] = OrderedDict()
        self._accepted: deque[_Item] = deque()
        self._preparing: dict[Any, _Item] = {}
        self._ready: deque[_Item] = deque()
        self._training: dict[str, _Item] = {}
        self.doing: dict[str, Doing] = {item.entry.id: "waiting" for item in self._unseen}
        self.clips = 0
        self.iterations = 0
        self._ages: list[int] = []
        self.thumbnails: dict[str, bytes] = {}

    def survey(self, cpus: float) -> bool:
        """Look at all photos that are left, before machines are asked for; returns whether one is to be made."""
        import ray

        at_once = max(_CHUNKS, int(cpus / max(self._cpus, 1.0)))
        while self._unseen or self._inspecting:
            self._send_to_triage(at_once, len(self.doing))
            ray.wait(list(self._inspecting)[:1], timeout=_TICK)
            self._take_in_triage()
            self._alive(None)
        return bool(self._accepted)

    def placed(self, placement: Placement) -> None:
        """Learn which share of a GPU the actors hold."""
        self._shares = (placement.refinement.get("num_gpus", 0.0), placement.reconstruction.get("num_gpus", 0.0))

    def take(self) -> tuple[str, Job] | None:
        """The next portrait that is ready."""
        if not self._ready:
            return None
        item = self._ready.popleft()
        assert item.portrait is not None
        self._training[item.entry.id] = item
        job = Job(item.portrait, self._folder(item.entry), item.config, measured=True, tracked=True)
        item.portrait = None  # the trainer has it from now on
        return item.entry.id, job

    def more(self) -> bool:
        """Whether portraits may still become ready."""
        return bool(self._unseen or self._inspecting or self._accepted or self._preparing or self._ready)

    def references(self) -> Sequence[Any]:
        """The tasks whose end is next to be taken in: triage in order, preparation in any."""
        return [*list(self._inspecting)[:1], *self._preparing]

    def begun(self, key: str) -> None:
        """Count an attempt at an avatar, where the next job finds it."""
        item = self._training[key]
        self.doing[key] = "training"  # again, if its trainer died while it was measured
        folder = self._folder(item.entry)
        try:
            item.attempts = int(json.loads(folder.read(_ATTEMPTS))["begun"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            item.attempts = 0
        item.attempts += 1
        folder.write(_ATTEMPTS, json.dumps({"begun": item.attempts}))

    def event(self, key: str, event: ProgressEvent) -> None:
        """Count what the batch's curves show, and pass the event on."""
        item = self._training.get(key)
        if event.kind == "answered":
            self.clips += event.message.endswith(("committed", "duplicate"))
            if event.age is not None:
                self._ages.append(event.age)
        if item is not None:
            item.spent.hear(event)
            if event.kind == "iteration":
                self.iterations += max(event.iteration - item.iterations, 0)
            if event.kind in ("started", "iteration"):
                item.iterations = event.iteration
            elif event.kind == "finished":
                self.doing[key] = "finishing"  # what the trainer does from here is to measure it
        self._heard(key, event)

    def ended(self, key: str, outcome: Outcome | Exception) -> None:
        """Write the portrait's row.

        Raises:
            StorageError: if it ended because the output cannot be written: no other could go on either.
        """
        item = self._training.pop(key)
        if isinstance(outcome, StorageError):
            raise outcome
        if isinstance(outcome, Exception):
            reason = f"{type(outcome).__name__}: {first_line(outcome)}"
            self._end(item, "failed", reason, seconds=item.spent.seconds)
            return
        result, measured = outcome.result, outcome.measured
        self._end(
            item,
            "done",
            seconds={"total": result.seconds, **result.timings, "measure": measured.seconds if measured else 0.0},
            metrics={
                **(measured.figures if measured else {}),
                "iterations": float(result.iterations),
                "gaussians": float(result.gaussians),
                "refined": float(result.refined),
                "superseded": float(result.superseded),
                "expired": float(result.expired),
                "unanswered": float(result.requested - result.refined - result.superseded - result.expired),
                "effective_interval": result.iterations / max(result.refined, 1),
            },
            bundle=f"{AVATARS}/{item.entry.id}/avatar",
            thumbnail=measured.thumbnail if measured else b"",
        )
        if not self._keep_dataset:
            for name in ("dataset", "checkpoint"):
                self._folder(item.entry).delete(name)

    def tick(self, load: Load | None) -> None:
        """Take in what tasks have found and made, and give them more to do."""
        self._alive(load)
        self._take_in_triage()
        self._take_in_prepared()
        self._send_to_triage(_CHUNKS, _CHUNK * _CHUNKS)
        self._send_to_preparation()

    def take_ages(self) -> list[int]:
        """Ages of the clips that were committed since the last call."""
        ages, self._ages = self._ages, []
        return ages

    def _send_to_triage(self, at_once: int, ahead: int) -> None:
        import ray

        task = ray.remote(inspect).options(num_cpus=self._cpus, max_retries=_RETRIES)
        while self._unseen and len(self._inspecting) < at_once and len(self._accepted) < ahead:
            chunk = [self._unseen.popleft() for _ in range(min(_CHUNK, len(self._unseen)))]
            reference = task.remote([(item.entry, item.config.portrait) for item in chunk], self._background)
            self._inspecting[reference] = chunk

    def _take_in_triage(self) -> None:
        import ray

        # In the manifest's order, so that of two equal photos always the same one is the duplicate.
        while self._inspecting:
            reference, chunk = next(iter(self._inspecting.items()))
            if not ray.wait([reference], timeout=0)[0]:
                return
            del self._inspecting[reference]
            findings = self._result(reference, chunk)
            for item, finding in zip(chunk, findings or [], strict=False):
                self._sort(item, finding)

    def _sort(self, item: _Item, finding: Finding) -> None:
        item.finding = dataclasses.replace(finding, thumbnail=b"")  # kept once
        if finding.thumbnail:
            self._show(item.entry, finding.thumbnail)
        if finding.problem:
            self._end(item, "rejected", finding.problem)
            return
        first = self._first.setdefault((finding.digest, item.entry.overrides), item.entry.id)
        if first != item.entry.id:
            self._end(item, "duplicate", f"its photo is that of {first}")
            return
        self._accepted.append(item)

    def _send_to_preparation(self) -> None:
        import ray

        task = ray.remote(prepare).options(num_cpus=self._cpus, max_retries=_RETRIES)
        while self._accepted and len(self._preparing) + len(self._ready) < self._look_ahead:
            item = self._accepted.popleft()
            again = item.entry.id in self._ledger.rows()
            reference = task.remote(item.entry, item.finding.digest, item.config, self._folder(item.entry), again)
            self._preparing[reference] = item
            self.doing[item.entry.id] = "preparing"

    def _take_in_prepared(self) -> None:
        import ray

        if not self._preparing:
            return
        ended, _ = ray.wait(list(self._preparing), num_returns=len(self._preparing), timeout=0)
        for reference in ended:
            item = self._preparing.pop(reference)
            made = self._result(reference, [item])
            if made is not None:
                item.portrait, item.prepare_seconds = made
                self._ready.append(item)

    def _result(self, reference: Any, items: Iterable[_Item]) -> Any:
        """What a task returned; None if it failed, and its portraits with it.

        Raises:
            UserError: for what concerns every portrait.
        """
        import ray

        try:
            return ray.get(reference)
        except deaths() as death:
            state: State = "failed"
            reason = f"its preparation died {_RETRIES + 1} times ({first_line(death)})"
        except Exception as wrapped:
            error = cause(wrapped)
            if isinstance(error, PortraitError):
                state, reason = "rejected", str(error)
            elif isinstance(error, UserError):
                raise error from wrapped
            else:
                state, reason = "failed", f"{type(error).__name__}: {first_line(error)}"
        for item in items:
            self._end(item, state, reason)
        return None

    def _end(
        self,
        item: _Item,
        state: State,
        reason: str = "",
        *,
        seconds: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
        bundle: str = "",
        thumbnail: bytes = b"",
    ) -> None:
        entry = item.entry
        if thumbnail:
            self._show(entry, thumbnail)
        before = self._ledger.rows().get(entry.id)
        row = Row(
            id=entry.id,
            state=state,
            reason=" ".join(reason.split()),
            photo=photo_name(entry),
            digest=item.finding.digest,
            config=config_digest(item.config),
            attempts=max(item.attempts, before.attempts if before is not None else 0),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            job=self._job,
            seconds={"triage": item.finding.seconds, "prepare": item.prepare_seconds, **(seconds or {})},
            gpu_seconds=self._gpu_seconds(seconds or {}),
            metrics=dict(metrics or {}),
            bundle=bundle,
            thumbnail=f"{THUMBNAILS}/{entry.id}.jpg" if entry.id in self.thumbnails else "",
        )
        self._ledger.append(row)
        self.doing.pop(entry.id, None)
        self._heard(entry.id, row)

    def _gpu_seconds(self, seconds: Mapping[str, float]) -> float:
        refine_share, train_share = self._shares
        refining = sum(seconds.get(phase, 0.0) for phase in ("encode", "denoise", "decode"))
        return refining * refine_share + seconds.get("total", 0.0) * train_share

    def _show(self, entry: Entry, thumbnail: bytes) -> None:
        self._output.write(f"{THUMBNAILS}/{entry.id}.jpg", thumbnail)
        self.thumbnails[entry.id] = thumbnail

    def _folder(self, entry: Entry) -> Storage:
        return self._output / AVATARS / entry.id
