"""The one way in which kernels are compiled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

config: Any = numba.config

# Reassociation lets sums over pixels vectorise; without it the backward pass is more than three times slower.
# Everything that reaches a kernel has been checked to be finite.
_FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "reassoc"}


def _writable(folder: Path) -> bool:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def choose_cache() -> None:
    """Point numba's cache at a temporary folder when neither the package nor the home can be written.

    numba refuses to import cached functions when it finds nowhere to write, as in a read-only container. The folder is
    private to this user, since compiled code is loaded from it.
    """
    if config.CACHE_DIR or _writable(Path(__file__).parent / "__pycache__") or _writable(Path.home() / ".cache"):
        return
    folder = Path(tempfile.gettempdir()) / f"zero1toa-numba-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    private = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
    config.CACHE_DIR = str(folder) if private else tempfile.mkdtemp(prefix="zero1toa-numba-")


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a module-level function at its first call, cached on disk, without the GIL, without bounds checks."""
    return numba.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")(function)


choose_cache()
