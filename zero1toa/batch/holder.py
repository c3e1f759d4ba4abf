"""Who works on a batch's output: what a second job is told when it is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

from zero1toa.errors import OutputError
from zero1toa.storage import Storage


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock; for people only, nothing is decided by it.

    Attributes:
        job: what its user calls it.
        host: name of its machine.
        process: its id there.
        since: when it took the lock, by its own clock.
    """

    job: str
    host: str
    process: int
    since: str

    @classmethod
    def here(cls, job: str) -> Self:
        """This process, now."""
        return cls(job, socket.gethostname(), os.getpid(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What a lock file says, or None where it says nothing that can be read."""
        try:
            about: Mapping[str, Any] = json.loads(text)
            return cls(str(about["job"]), str(about["host"]), int(about["process"]), str(about["since"]))
        except (ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        """One phrase for a message."""
        return f"job {self.job} (process {self.process} on {self.host}, since {self.since})"


def refusal(storage: Storage, holder: Holder | None) -> OutputError:
    """The error for a second job on one output, naming the first."""
    who = "another job" if holder is None else str(holder)
    return OutputError(f"{who} is working in {storage}; wait until it has ended, stop it, or choose another output")
