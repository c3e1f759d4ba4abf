"""``job.json``: whose output a folder is, how the avatars in it are made, and which attempt at it this is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from zero1toa.batch.ledger import FOLDER, Ledger
from zero1toa.batch.records import Row
from zero1toa.batch.status import PAGE, STATUS, THUMBNAILS
from zero1toa.batch.tables import CSV, JSONL
from zero1toa.config import Config, to_dict
from zero1toa.errors import OutputError, StorageError
from zero1toa.storage import Storage
from zero1toa.symgen.folder import read_identity
from zero1toa.symgen.identity import describe_changes, shaping_values

FORMAT = 1

AVATARS = "avatars"
"""Folder of the output with a folder for each portrait."""

_FILE = "job.json"
# What a batch writes, in the order in which it is forgotten: without the ledger nothing else counts as made.
_OWNED = (FOLDER, AVATARS, THUMBNAILS, CSV, JSONL, STATUS, PAGE)


@dataclasses.dataclass(frozen=True)
class Job:
    """One attempt at a batch.

    Attributes:
        name: of the batch, kept from its first job.
        attempt: number of jobs with this output, this one included.
    """

    name: str
    attempt: int

    @property
    def id(self) -> str:
        """``<name>-<attempt>``, which no other job with this output has."""
        return f"{self.name}-{self.attempt}"


def config_digest(config: Config) -> str:
    """Digest of the values that shape an avatar, see :func:`zero1toa.symgen.identity.shaping_values`."""
    text = json.dumps(shaping_values(to_dict(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_job(
    storage: Storage,
    name: str,
    config: Config,
    *,
    portraits: Iterable[tuple[str, Config]] = (),
    restart: bool = False,
) -> Job:
    """Begin or continue a batch in its output; the caller holds the output's lock.

    Args:
        storage: the output.
        name: of the batch; only the first job's counts. What is not a letter, digit, ``.``, ``_`` or ``-`` becomes a
            hyphen, since ids of runs and of Ray's jobs are made of it.
        config: the batch's configuration; an output that was begun with other values is refused, except for values that
            do not shape avatars (device, tracking, distribution, the batch's own, how often to save).
        portraits: ids with the configuration of each; one whose avatar was made with other values, or begun and has not
            failed, is refused in the same way.
        restart: forget what earlier jobs made, and begin anew with this configuration.

    Raises:
        OutputError: if the output or a finished avatar belongs to another configuration, or it is of a newer version,
            or its file is damaged.
        StorageError: if it cannot be reached or written.
    """
    now = shaping_values(to_dict(config))
    before: dict[str, Any] = {}
    try:
        before = _read(storage)
    except StorageError:
        raise
    except OutputError:
        if not restart:
            raise
    if restart:
        forget(storage)
    elif before:
        if changes := describe_changes(before["config"], now):
            raise OutputError(
                f"{storage} was begun with another configuration ({changes}); use the same values to continue, choose "
                "another output, or --restart to make every avatar anew"
            )
        _check_values(storage, portraits)
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "batch"
    job = Job(before.get("name", called), before.get("attempt", 0) + 1)
    about = {"format": FORMAT, "name": job.name, "attempt": job.attempt, "config": now}
    storage.write(_FILE, json.dumps(about, indent=1))
    return job


def forget(storage: Storage) -> None:
    """Delete the ledger, the avatars and what was made of them; other files in the output stay.

    ``job.json`` stays as well: after a crash half-way, the output is still known to belong to the old configuration,
    and ids of jobs are not given twice.

    Raises:
        StorageError: if something cannot be deleted.
    """
    for name in _OWNED:
        storage.delete(name)


def _check_values(storage: Storage, portraits: Iterable[tuple[str, Config]]) -> None:
    """Refuse other values for an avatar that is made or in work: they would be passed over, or fail it later."""
    rows = Ledger(storage).rows()
    begun = set(storage.folders(AVATARS)).difference(rows)
    for key, config in portraits:
        row, changes = rows.get(key), ""
        if key in begun:
            with suppress(OutputError):  # prepared and not begun; or damaged, which is that portrait's own affair
                identity = read_identity(storage / AVATARS / key)
                changes = describe_changes(identity.config, shaping_values(to_dict(config)))
        elif row is not None and row.state == "done" and row.config != config_digest(config):
            # Rows of earlier versions have the batch's digest, whatever the portrait's own values were.
            changes = _changes_since(storage, row, config)
        if changes:
            raise OutputError(
                f"the avatar of '{key}' in {storage} was {'made' if row else 'begun'} with another configuration "
                f"({changes}); give the portrait the same values to continue, or another id to make it once more, or "
                "--restart to make every avatar anew"
            )


def _changes_since(storage: Storage, row: Row, config: Config) -> str:
    """What differs from the values in the avatar's bundle; the empty string if nothing does."""
    try:
        made = shaping_values(json.loads(storage.read(f"{row.bundle}/avatar.json"))["config"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return "its bundle cannot be read, which would say what differs"
    return describe_changes(made, shaping_values(to_dict(config)))


def _read(storage: Storage) -> dict[str, Any]:
    """The earlier jobs' file, or nothing for a new output."""
    where = storage.locate(_FILE)
    try:
        about = json.loads(storage.read(_FILE))
        version = about["format"]  # first: a newer file may hold anything
        kinds = {"config": dict, "name": str, "attempt": int}
        if version == FORMAT and not all(isinstance(about[name], kind) for name, kind in kinds.items()):
            raise TypeError("no configuration, name or attempt")
    except FileNotFoundError as error:
        if storage.exists(FOLDER):
            raise OutputError(
                f"{storage} holds a ledger but no {_FILE}, so it cannot be continued; choose another output, or "
                "--restart to replace it"
            ) from error
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{where} is damaged ({error}); choose another output, or --restart to make every avatar anew"
        ) from error
    if version != FORMAT:
        raise OutputError(
            f"{where} is in format {version} and this version of zero1toa knows format {FORMAT}; update zero1toa, or "
            "choose another output"
        )
    found: dict[str, Any] = about
    return found
