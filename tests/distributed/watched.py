"""Refiners that note what they do, and a store that stands still when it is asked to; for drivers of tests.

The environment names the folder of the notes: actors have theirs from the machine that starts them.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from processes import state, stop, workers

from zero1toa.distributed import refinement, store_actor
from zero1toa.storage import Storage
from zero1toa.types import RefineRequest

FOLDER = "ZERO1TOA_WATCHED"


class Note(NamedTuple):
    """That a process has ``begun`` or ``ended`` a refinement."""

    what: str
    request_id: str
    pid: int


class RefinementActor(refinement.RefinementActor):
    """Notes each refinement as it begins and as it ends. Named as its base class, so that its process is."""

    def serve(self, refine: refinement.Refine) -> int:
        """See the base class."""

        def noted(requests: Sequence[RefineRequest], reference: Any) -> Any:
            _note("begun", requests)
            refined = refine(requests, reference)
            _note("ended", requests)
            return refined

        return super().serve(noted)


class StoreActor(store_actor.StoreActor):
    """Stands still between the pictures of a commit and their record, once for each :func:`torn_commit`."""

    def __init__(self, backbone: str) -> None:
        super().__init__(backbone)
        write = Storage.write

        def watched(storage: Storage, name: str, content: Any) -> None:
            if name.startswith("commits/") and _file("ask").exists():
                _file("ask").unlink()
                _file("torn").write_text(content)
                # To this thread, which then does not come back from the call; another one might let it write on.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            write(storage, name, content)

        Storage.write = watched  # type: ignore[method-assign]  # in the actor's process alone


def notes() -> list[Note]:
    """All notes, in their order."""
    file = _file("notes")
    lines = file.read_text().splitlines() if file.exists() else []
    return [Note(what, request_id, int(pid)) for what, request_id, pid in map(str.split, lines)]


def refined_again() -> Counter[str]:
    """How often each clip was refined more than once, by request."""
    begun = Counter(note.request_id for note in notes() if note.what == "begun")
    return begun - Counter(set(begun))


def committed(output: Path) -> set[str]:
    """Requests whose clips are in the datasets of a batch."""
    return {json.loads(path.read_text())["request_id"] for path in output.glob("avatars/*/dataset/commits/*.json")}


def in_hand(pid: int, output: Path) -> set[str]:
    """Requests that a refiner has begun and that are not committed."""
    return {note.request_id for note in notes() if note.pid == pid} - committed(output)


def last_in_hand(pids: Collection[int]) -> Counter[str]:
    """What refiners can at most have had in hand when they died: the last clip of each, and the one before."""
    begun = {pid: [note.request_id for note in notes() if note.pid == pid and note.what == "begun"] for pid in pids}
    return Counter(request_id for mine in begun.values() for request_id in mine[-2:])


def stop_in_the_middle_of_a_clip(output: Path, ancestor: int) -> int:
    """Let a refiner that descends from ``ancestor`` stand still in the middle of a clip; returns its process."""
    while True:
        for pid in workers("ray::RefinementActor", ancestor):
            if not _in_the_middle(pid, output):
                continue
            stop(pid)
            if _in_the_middle(pid, output):
                return pid
            os.kill(pid, signal.SIGCONT)


def stop_in_the_middle_of_a_commit(output: Path, ancestor: int) -> int:
    """Let the store stand still when it has written pictures and not yet their record; returns its process."""
    _file("ask").touch()
    while not (found := [pid for pid in workers("ray::StoreActor", ancestor) if state(pid) == "T"]):
        pass
    record = json.loads(_file("torn").read_text())
    key = record["key"]
    assert list(output.glob(f"avatars/*/dataset/objects/{key['stage']}/{key['name']}/{record['version']:05d}.npz"))
    assert record["request_id"] not in committed(output)
    return found[0]


def _in_the_middle(pid: int, output: Path) -> bool:
    mine = [note for note in notes() if note.pid == pid]
    return bool(mine) and mine[-1].what == "begun" and mine[-1].request_id not in committed(output)


def _note(what: str, requests: Iterable[RefineRequest]) -> None:
    with _file("notes").open("a") as file:  # short lines are appended whole, whoever else appends
        file.writelines(f"{what} {request.request_id} {os.getpid()}\n" for request in requests)


def _file(name: str) -> Path:
    return Path(os.environ[FOLDER]) / name
