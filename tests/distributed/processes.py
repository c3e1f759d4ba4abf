"""Finding the processes that Ray has started for a test."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def workers(title: str, ancestor: int) -> list[int]:
    """Processes that Ray has named ``title`` and that descend from ``ancestor``; others may run Ray here as well."""
    parents: dict[int, int] = {}
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if (folder / "cmdline").read_text().startswith(title):
                    found.append(int(folder.name))
            except (OSError, ValueError):
                continue

    def descends(pid: int) -> bool:
        while pid in parents:
            if pid == ancestor:
                return True
            pid = parents[pid]
        return False

    return [pid for pid in found if descends(pid)]


def state(pid: int) -> str:
    """Its letter in ``/proc``: ``T`` for a process that was stopped by a signal; empty for one that has ended."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return letter if letter not in "ZX" else ""


def stop(pid: int) -> None:
    """Let a process stand still; returns when it does, or has ended."""
    os.kill(pid, signal.SIGSTOP)
    while state(pid) not in ("T", ""):
        pass


def kill(pid: int) -> None:
    """Kill a process; returns when it has ended."""
    os.kill(pid, signal.SIGKILL)
    while state(pid):
        pass
