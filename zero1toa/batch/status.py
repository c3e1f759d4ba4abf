"""``status.json``: how a batch is doing, for programs; the fleet page shows the same to people."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from zero1toa.batch.records import Doing, Entry, Row, Sample, State

SCHEMA = 1

STATUS = "status.json"
PAGE = "fleet.html"
THUMBNAILS = "thumbnails"
"""Folder of the output with ``<id>.jpg`` for each portrait."""

_HOUR = timedelta(hours=1)
_EXAMPLES = 5
_WORD = re.compile(r"[^\s'\"(),;]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """A batch at one moment.

    Attributes:
        job: id of the job at work, or of the last one.
        started: when that job began, with its time zone.
        now: the moment, with its time zone.
        entries: the portraits, in the manifest's order.
        rows: newest row of each that ended, see :meth:`zero1toa.batch.ledger.Ledger.rows`.
        doing: what is being done with portraits that have not ended; those not named wait.
        samples: points of the job's curves, oldest first.
        thumbnails: small JPEGs by portrait. A page of many portraits links ``thumbnails/<id>.jpg`` instead; then empty
            bytes are enough to say that the file is there.
    """

    job: str
    started: datetime
    now: datetime
    entries: Sequence[Entry]
    rows: Mapping[str, Row]
    doing: Mapping[str, Doing]
    samples: Sequence[Sample]
    thumbnails: Mapping[str, bytes]


@dataclasses.dataclass(frozen=True)
class Failure:
    """Portraits that ended without an avatar for the same reason.

    Attributes:
        state: how they ended.
        reason: why; an ellipsis stands for names and numbers in which the portraits differ.
        rows: their rows, in the manifest's order.
    """

    state: State
    reason: str
    rows: tuple[Row, ...]


def status(fleet: Fleet) -> dict[str, Any]:
    """Everything that ``status.json`` says, ready for JSON.

    Keys: ``schema``; ``job``; ``started`` and ``updated`` (ISO 8601); ``complete``, whether every portrait ended;
    ``total``; ``counts`` by state, each of them named, also at 0; ``doing``, ids by what is being done;
    ``avatars_per_hour`` with ``last_hour`` and ``overall``, of this job, null before its first avatar;
    ``seconds_left``, or null where nothing says; ``failures`` with ``state``, ``reason``, ``count`` and some
    ``examples``, as :func:`failures` orders them; ``gpu_seconds`` with ``total`` (over all that ended) and
    ``per_avatar`` (mean of the done ones); ``metrics``, means over the done ones of every figure; ``sample``, the
    newest point of the curves.
    """
    ended = _ended(fleet)
    done = [row for row in ended if row.state == "done"]
    counts = count(fleet)
    total_gpu = math.fsum(row.gpu_seconds for row in ended)
    return {
        "schema": SCHEMA,
        "job": fleet.job,
        "started": fleet.started.isoformat(timespec="seconds"),
        "updated": fleet.now.isoformat(timespec="seconds"),
        "complete": len(ended) == len(fleet.entries),
        "total": len(fleet.entries),
        "counts": counts,
        "doing": {
            doing: [entry.id for entry in fleet.entries if entry.id not in fleet.rows and _doing(fleet, entry) == doing]
            for doing in get_args(Doing)
            if doing != "waiting"
        },
        **_speed(fleet, len(fleet.entries) - len(ended)),
        "failures": [
            {
                "state": failure.state,
                "reason": failure.reason,
                "count": len(failure.rows),
                "examples": [row.id for row in failure.rows[:_EXAMPLES]],
            }
            for failure in failures(fleet)
        ],
        "gpu_seconds": {
            "total": round(total_gpu, 3),
            "per_avatar": _mean([row.gpu_seconds for row in done]),
        },
        "metrics": _means(done),
        "sample": _finite(vars(fleet.samples[-1])) if fleet.samples else None,
    }


def count(fleet: Fleet) -> dict[State | Doing, int]:
    """Portraits by state: how those that ended did, and what is being done with the others."""
    found = Counter(_state(fleet, entry) for entry in fleet.entries)
    return {name: found[name] for name in (*get_args(State), *get_args(Doing))}


def failures(fleet: Fleet) -> list[Failure]:
    """Portraits without an avatar, grouped by reason: failed ones first, and of each state the largest group."""
    groups: defaultdict[tuple[State, str], list[Row]] = defaultdict(list)
    for row in _ended(fleet):
        if row.state != "done":
            groups[row.state, _pattern(row)].append(row)
    found = [
        Failure(state, pattern if len({row.reason for row in rows}) > 1 else rows[0].reason, tuple(rows))
        for (state, pattern), rows in groups.items()
    ]
    severity = get_args(State)
    return sorted(found, key=lambda failure: (severity.index(failure.state), -len(failure.rows)))


def _state(fleet: Fleet, entry: Entry) -> State | Doing:
    row = fleet.rows.get(entry.id)
    return _doing(fleet, entry) if row is None else row.state


def _doing(fleet: Fleet, entry: Entry) -> Doing:
    return fleet.doing.get(entry.id, "waiting")


def _ended(fleet: Fleet) -> list[Row]:
    """Rows of the manifest's portraits; the ledger may know others from before the manifest changed."""
    return [fleet.rows[entry.id] for entry in fleet.entries if entry.id in fleet.rows]


def _speed(fleet: Fleet, open_portraits: int) -> dict[str, Any]:
    """Avatars an hour of this job, and the time left if portraits go on ending as in the last hour.

    Portraits that ended before they were begun, in triage, say nothing about the speed of making avatars.
    """
    elapsed = max((fleet.now - fleet.started).total_seconds(), 1.0)
    window = min(elapsed, _HOUR.total_seconds())
    mine = [row for row in _ended(fleet) if row.job == fleet.job and row.finished and row.attempts > 0]
    done = [row for row in mine if row.state == "done"]
    recent = {row.id for row in mine if fleet.now - _moment(row.finished) <= _HOUR}
    # Without an end in the last hour, as with avatars that take longer than that, the whole job tells more.
    pace = len(recent) / window if recent else len(mine) / elapsed
    left = 0.0 if not open_portraits else round(open_portraits / pace, 1) if pace else None
    return {
        "avatars_per_hour": {
            "last_hour": round(3600 * sum(row.id in recent for row in done) / window, 3) if done else None,
            "overall": round(3600 * len(done) / elapsed, 3) if done else None,
        },
        "seconds_left": left,
    }


def _means(done: Iterable[Row]) -> dict[str, float | None]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in done:
        for name, value in row.metrics.items():
            values[name].append(value)
    return {name: _mean(values[name]) for name in sorted(values)}


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return round(math.fsum(finite) / len(finite), 6) if finite else None


def _pattern(row: Row) -> str:
    """The reason without what is this portrait's own: its names and the numbers."""
    text = row.reason.replace(row.photo, "…") if "/" in row.photo else row.reason
    own = {row.photo, row.photo.rpartition("/")[2], row.id}
    text = _WORD.sub(lambda word: "…" if word[0].rstrip(":.") in own else word[0], text)
    return _NUMBER.sub("…", text).removeprefix("…: ")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
