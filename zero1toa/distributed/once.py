"""Work that a machine needs done once, whoever of its processes comes first; the others wait for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from zero1toa.media import write_text
from zero1toa.symgen.locks import FolderLock

PATIENCE = 3600.0
"""Seconds to wait for another process: the largest weights over a slow line."""


def once(folder: Path, name: str, versions: Mapping[str, str], build: Callable[[], Iterable[Path]]) -> bool:
    """Call ``build`` in one process of those that share ``folder``, unless it has been called there before.

    The lock is the kernel's: it ends with the process that holds it, however that ends, and the next one builds.

    Args:
        folder: folder of this machine, in which lock and marker lie.
        name: what is built, as a file name.
        versions: what the result depends on; what was built with others is built again.
        build: makes the files and returns them; when one of them is gone later, it is called again.

    Returns:
        Whether this call has built.

    Raises:
        OutputError: if the folder cannot be written, or another process has been building for an hour.
    """
    marker = folder / f"{name}.json"
    if _done(marker, versions):
        return False
    with FolderLock(folder / f"{name}.lock", PATIENCE):
        if _done(marker, versions):
            return False
        files = [str(path) for path in build()]
        write_text(marker, json.dumps({"versions": dict(versions), "files": files}, indent=1))
    return True


def _done(marker: Path, versions: Mapping[str, str]) -> bool:
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
        return record["versions"] == dict(versions) and all(Path(file).exists() for file in record["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return False
