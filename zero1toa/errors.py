"""Typed errors: what the user gave, what was expected, what to do.

Every error a user can cause derives from :class:`UserError`; the command line and Ray jobs print its text as one line
and exit with code 2. :func:`ending` says how they end for other reasons. ``retryable`` tells the distributed loop
whether the same request may be tried again.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import os
from collections.abc import Iterable

# A disk that fills up or a folder that turns read-only is the user's to mend, wherever in the work it happens.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class ZeroOneError(Exception):
    """Base of all errors raised on purpose by this package."""

    retryable: bool = False


class UserError(ZeroOneError):
    """The input is at fault; the message says what was given, what was expected and what to do."""


class ConfigError(UserError):
    """Unknown configuration key, wrong type or impossible value."""


class PortraitError(UserError):
    """The photo cannot become a portrait: unreadable, no face, face too small, profile view."""


class ManifestError(UserError):
    """The list of portraits cannot be read, is empty, or has a line that is not understood.

    Args:
        message: it becomes one line, whatever text of the user's it holds.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class HeadModelError(UserError):
    """Unknown head model, missing model file, or parameters of another model."""


class MotionError(UserError):
    """A motion file with wrong coefficient names, shapes or values."""


class BundleError(UserError):
    """An avatar bundle that is damaged, incomplete or from a newer version."""


class AssetError(UserError):
    """An external weight is missing, or a given file is not what its name says."""


class DeviceMemoryError(UserError):
    """A GPU has too little memory; the message says how much is needed and which settings fit."""


class OutputError(UserError):
    """The output folder cannot be written, is full, or belongs to another configuration."""


class StorageError(OutputError):
    """A folder cannot be reached, or its disk is full: nothing that is kept there can go on."""


class DatasetError(UserError):
    """An exported dataset that is damaged, incomplete or from a newer version, or clips that cannot be exported."""


class BackboneError(ZeroOneError):
    """The diffusion backbone failed on a request; another worker may succeed."""

    retryable = True


class StoreError(ZeroOneError):
    """The dataset store refused a commit or found a record it cannot read."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a program ends for a reason that is known.

    Attributes:
        code: exit code.
        line: the reason, in one line.
    """

    code: int
    line: str


def ending(error: BaseException, again: str) -> Ending | None:
    """How a program ends with an error: 2 for what the user can mend, 1 for what failed else, 130 when it is stopped.

    Args:
        error: what was raised.
        again: what may be started again, "command" or "job".

    Returns:
        Exit code and line, or None for a bug, whose traceback is to be kept.
    """
    if isinstance(error, KeyboardInterrupt):
        return Ending(130, f"stopped; the same {again} continues")
    if isinstance(error, ZeroOneError):
        return Ending(2 if isinstance(error, UserError) else 1, f"error: {' '.join(str(error).split())}")
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        place = f" ({error.filename})" if error.filename else ""
        return Ending(2, f"error: {os.strerror(error.errno)}{place}; make room and run the same {again} again")
    return None


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or the empty string.

    Args:
        name: what the user wrote.
        valid: the names that exist.
    """
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
