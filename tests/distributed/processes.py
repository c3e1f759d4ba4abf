"""Finding the processes that Ray has started for a test."""

from __future__ import annotations

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
