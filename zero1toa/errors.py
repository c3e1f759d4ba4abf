"""Typed errors: what the user gave, what was expected, what to do.

Every error a user can cause derives from :class:`UserError`; the command line prints its text as one line and exits
with code 2. ``retryable`` tells the distributed loop whether the same request may be tried again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or the empty string.

    Args:
        name: what the user wrote.
        valid: the names that exist.
    """
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
