"""The output folder of ``generate``: checked before work, locked while working, recognised when continuing."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zero1toa.errors import OutputError
from zero1toa.media import write_text
from zero1toa.symgen.identity import describe_changes, shaping_values

RUN_FILE = "run.json"
NEEDED_BYTES = 512 * 2**20
"""Room a run may take: dataset versions, checkpoints, videos and logs, with a margin."""

# What a run writes, which is all that --restart removes.
OWNED = (
    RUN_FILE,
    "avatar",
    "dataset",
    "checkpoint",
    "portrait",
    "photo.png",
    "preview.png",
    "preview.mp4",
    "contact_sheet.png",
    "report.html",
    "metrics.json",
    "log.jsonl",
    "wandb",
)


def fingerprint(photo: bytes, config: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a run: the photo's digest and every configuration value that shapes the avatar.

    Args:
        photo: the photo file's bytes.
        config: :func:`zero1toa.config.to_dict`.
    """
    return {"photo": hashlib.sha256(photo).hexdigest(), "config": shaping_values(config)}


class OutputFolder:
    """A folder that one run owns, as a context manager.

    Entering makes the folder, checks that it can be written and has room, locks it, and checks that what lies in it
    belongs to the same photo and configuration. Nothing is written before :meth:`claim`; leaving an unclaimed folder
    that this object made removes it again, so that bad input leaves no trace. The lock is the kernel's, so a killed
    run never leaves a stale one.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, restart: bool = False):
        """Describe the folder; nothing happens before entering.

        Args:
            path: the folder.
            identity: see :func:`fingerprint`.
            restart: remove what an earlier run left instead of continuing it.
        """
        self.path = path
        self._identity = dict(identity)
        self._restart = restart
        self._made: list[Path] = []
        self._lock: int | None = None
        self._claimed = False

    def __enter__(self) -> Self:
        """Make, check and lock the folder.

        Raises:
            OutputError: when it cannot be written, has no room, is in use, or belongs to another photo or
                configuration.
        """
        try:
            self._make()
            self._take_lock()
            self._check_room()
            self._check_owner()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock; remove the folder if it was made here and nothing was claimed."""
        if self._lock is not None:
            if not self._claimed:
                self._lock_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None
        if not self._claimed:
            for folder in reversed(self._made):
                try:
                    folder.rmdir()
                except OSError:
                    break
            self._made.clear()

    @property
    def continuing(self) -> bool:
        """Whether an earlier run of the same photo and configuration left its work here."""
        return not self._restart and (self.path / RUN_FILE).is_file()

    def claim(self) -> None:
        """Take the folder for this run: remove an earlier run if asked to restart, and write ``run.json``."""
        self._claimed = True
        if self._restart:
            for name in OWNED:
                path = self.path / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        if not (self.path / RUN_FILE).is_file():
            write_text(self.path / RUN_FILE, json.dumps(self._identity, indent=1))

    @property
    def _lock_path(self) -> Path:
        return self.path / ".lock"

    def _make(self) -> None:
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            for folder in reversed(missing):
                folder.mkdir()
                self._made.append(folder)
        except OSError as error:
            raise OutputError(f"cannot make {self.path}: {error.strerror}; give another --output") from error
        if not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; give a folder as --output")

    def _take_lock(self) -> None:
        try:
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}: {error.strerror}; give another --output") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = None
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise OutputError(f"cannot lock {self.path}: {error.strerror}; give another --output") from error
            raise OutputError(f"another run is working in {self.path}; wait for it or give another --output") from error

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.path).free
        if free < NEEDED_BYTES:
            raise OutputError(
                f"{self.path} has {free / 2**20:.0f} MB free and a run may need {NEEDED_BYTES / 2**20:.0f} MB; "
                "make room or give another --output"
            )

    def _check_owner(self) -> None:
        if self._restart:
            return
        record = self.path / RUN_FILE
        if not record.is_file():
            foreign = [name for name in OWNED if (self.path / name).exists()]
            if foreign:
                raise OutputError(
                    f"{self.path} holds {foreign[0]} but no {RUN_FILE}, so no run can be continued there; "
                    "give another --output, or --restart to replace it"
                )
            return
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
            photo, config = before["photo"], before["config"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{record} cannot be read; give another --output, or --restart to replace it") from error
        if photo != self._identity["photo"]:
            raise OutputError(
                f"{self.path} belongs to another photo; give another --output, or --restart to replace it"
            )
        if changes := describe_changes(config, self._identity["config"]):
            raise OutputError(
                f"{self.path} belongs to another configuration ({changes}); give another --output, or --restart"
            )
