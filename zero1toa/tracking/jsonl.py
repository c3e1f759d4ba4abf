"""A JSONL log that survives being killed: whole lines only, whatever happens."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


class JsonlLog:
    """Appends records to a file, one JSON object a line, with the wall-clock time in ``time`` (seconds).

    A process that was killed may have left half a line; opening the log again cuts it off.
    """

    def __init__(self, path: Path):
        """Open ``path`` for appending.

        Args:
            path: log file; its folder is made when missing.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self._stream: TextIO = path.open("a", encoding="utf-8")

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append one record; it is in the file when this returns.

        Args:
            kind: what it tells about, stored as ``kind``.
            values: JSON values; floats that are not finite are stored as null, since JSON has none.
        """
        record = {"time": round(time.time(), 3), "kind": kind, **values}
        self._stream.write(json.dumps(_finite(record), separators=(",", ":"), allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a log in order; a torn last line is left out.

    Args:
        path: log file; a missing one has no records.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _cut_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as stream:
        data = stream.read()
        if data and not data.endswith(b"\n"):
            stream.truncate(data.rfind(b"\n") + 1)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
