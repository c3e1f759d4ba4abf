"""The ledger as tables for people: ``ledger.csv`` for a spreadsheet, ``ledger.jsonl`` for a script."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from zero1toa.batch.records import Row
from zero1toa.storage import Storage

CSV = "ledger.csv"
JSONL = "ledger.jsonl"

_FIRST = ("id", "state", "reason", "attempts", "gpu_seconds")
_GROUPS = ("metrics", "seconds")


def write_tables(storage: Storage, rows: Iterable[Row]) -> None:
    """Write both tables, a row for each portrait in the given order.

    The CSV has a column for each figure that any row has (``metrics.psnr``, ``seconds.train``); a figure that is not
    finite is empty there and null in the JSONL, whose lines are then valid for every reader.

    Args:
        storage: the batch's output folder.
        rows: as from :meth:`zero1toa.batch.ledger.Ledger.rows`.

    Raises:
        StorageError: if the folder cannot be written.
    """
    records = [_finite(vars(row)) for row in rows]
    storage.write(JSONL, "".join(f"{json.dumps(record)}\n" for record in records))
    flat = [_flatten(record) for record in records]
    figures = sorted({name for record in flat for name in record if "." in name})
    others = [field.name for field in dataclasses.fields(Row) if field.name not in (*_FIRST, *_GROUPS)]
    columns = [*_FIRST, *figures, *others]
    table = io.StringIO()
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(flat)
    # A file name that is no valid UTF-8 must not be what a finished batch fails at.
    storage.write(CSV, table.getvalue().encode(errors="backslashreplace"))


def _flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in record.items() if name not in _GROUPS}
    for group in _GROUPS:
        flat.update({f"{group}.{name}": value for name, value in record[group].items()})
    return flat


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
