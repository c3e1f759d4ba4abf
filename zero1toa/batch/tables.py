"""CSV and JSONL manifests: one portrait a line, each with its photo, maybe an id, and its own configuration."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from zero1toa.batch import ids
from zero1toa.batch.locations import parent, plain_path, reason, resolve, stands_alone
from zero1toa.batch.records import Entry
from zero1toa.config import OverrideChecker
from zero1toa.errors import ConfigError, ManifestError, nearest

SHARED = (
    "preset", "device", "head", "diffusion", "distillation", "distributed", "batch", "tracking", "render.background",
    "curriculum.frames",
)  # fmt: skip
"""Keys and sections that no portrait may have of its own: the refiners are started once, for all of them."""


def read_csv(address: str, text: str) -> list[Entry]:
    """Portraits of a CSV manifest: a header line with the column ``photo``, maybe ``id``, and configuration keys.

    An empty cell gives nothing; blank lines are passed over.

    Args:
        address: absolute path or URL of the manifest; photos with relative paths lie beside it.
        text: what it says.

    Raises:
        ManifestError: with the line, for what is not understood.
    """
    rows = _Rows(address)
    header: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    end = 0
    try:
        for cells in reader:
            number, end = end + 1, reader.line_num  # a quoted cell may hold line ends
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                rows.add(number, _by_column(f"{address}, line {number}", header, cells))
                continue
            header = [cell.strip() for cell in cells]
            _check_header(address, header)
            for name in header:
                if name not in ("photo", "id"):
                    rows.check_key(f"{address}, line {number}", name)
    except csv.Error as error:
        raise ManifestError(f"{address}, line {end + 1}: {error}; give comma-separated values") from error
    return rows.entries()


def read_jsonl(address: str, text: str) -> list[Entry]:
    """Portraits of a JSONL manifest: an object a line, with ``photo``, maybe ``id``, and configuration keys.

    ``null`` gives nothing; an object as a value gives the keys of a section; blank lines are passed over.

    Args:
        address: absolute path or URL of the manifest; photos with relative paths lie beside it.
        text: what it says.

    Raises:
        ManifestError: with the line, for what is not understood.
    """
    rows = _Rows(address)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.add(number, _by_key(f"{address}, line {number}", line))
    return rows.entries()


def _check_header(address: str, header: list[str]) -> None:
    if "photo" not in header:
        raise ManifestError(
            f"{address} has no column 'photo'{nearest('photo', header)}; its columns are: {', '.join(header)}"
        )
    if "" in header:
        raise ManifestError(f"{address}: column {header.index('') + 1} has no name; name it or take it out")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise ManifestError(f"{address} has two columns '{twice}'; take one out")


def _by_column(where: str, header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise ManifestError(
            f"{where}: {len(cells)} cells, but {len(header)} columns; "
            'put a value that holds a comma into "double quotes"'
        )
    return {name: cell.strip() or None for name, cell in zip(header, cells, strict=True)}


def _by_key(where: str, line: str) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON ({error.msg}); write one object a line") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise ManifestError(f"{where}: not JSON that can be read ({reason(error)})") from error
    if not isinstance(given, dict):
        raise ManifestError(f'{where}: not an object; write {{"photo": "anna.jpg"}}')
    if "photo" not in given:
        raise ManifestError(f"{where}: no key 'photo'{nearest('photo', given)}; it names the image file")
    own = {name: given.pop(name) for name in ("photo", "id") if name in given}
    # JSON is YAML, as which overrides are read, and its quotes keep text from being taken for a number.
    return own | {key: None if value is None else json.dumps(value, ensure_ascii=False) for key, value in _flat(given)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key, those of sections included."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _Rows:
    """Collects the lines of a manifest, checked, and gives each its id when all are known."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._checker = OverrideChecker()
        self._good: set[str] = set()  # overrides that have been checked: most repeat from line to line
        self._line_of: dict[str, int] = {}
        self._rows: list[tuple[str | None, str, tuple[str, ...]]] = []  # given id, photo as written, overrides

    def add(self, number: int, line: Mapping[str, Any]) -> None:
        where = f"{self._address}, line {number}"
        photo = line["photo"]
        if not isinstance(photo, str) or not photo.strip():
            raise ManifestError(f"{where}: no photo; name an image file, relative to the manifest or by its URL")
        name = _given_id(where, line.get("id"))
        if name is not None and name in self._line_of:
            raise ManifestError(
                f"{self._address}: id '{name}' is given twice, in line {self._line_of[name]} and line {number}"
            )
        if name is not None:
            self._line_of[name] = number
        values = {key: value for key, value in line.items() if key not in ("photo", "id") and value is not None}
        overrides = tuple(self._checked(where, key, value) for key, value in values.items())
        self._rows.append((name, photo.strip(), overrides))

    def check_key(self, where: str, key: str) -> None:
        if key.lower() in ("photo", "id"):
            raise ManifestError(f"{where}: '{key}' is written '{key.lower()}'")
        shared = next((name for name in SHARED if key == name or key.startswith(f"{name}.")), None)
        if shared is not None:
            raise ManifestError(
                f"{where}: '{key}' cannot differ between portraits, because the same refiners serve all of a batch; "
                "set it for the whole batch"
            )
        try:
            self._checker.check_key(key)
        except ConfigError as error:
            raise ManifestError(f"{where}: {error}") from error

    def _checked(self, where: str, key: str, value: str) -> str:
        override = f"{key}={value}"
        if override not in self._good:
            self.check_key(where, key)
            try:
                self._checker.check(override)
            except ConfigError as error:
                raise ManifestError(f"{where}: {error}") from error
            self._good.add(override)
        return override

    def entries(self) -> list[Entry]:
        folder, _ = parent(self._address)
        nameless = [(photo, overrides) for name, photo, overrides in self._rows if name is None]
        made = ids.distinct(
            [_suggested(photo) for photo, _ in nameless],
            # The photo as the manifest names it, so that ids stay when both are moved.
            [(plain_path(photo), *overrides) for photo, overrides in nameless],
            self._line_of,
        )
        rest = iter(made)
        return [
            Entry(next(rest) if name is None else name, resolve(folder, photo), overrides=overrides)
            for name, photo, overrides in self._rows
        ]


def _given_id(where: str, given: Any) -> str | None:
    if given is None or given == "":
        return None
    name = str(given).strip()
    if not isinstance(given, str | int) or not ids.is_safe(name):
        raise ManifestError(
            f"{where}: id '{name}' cannot name a folder; use at most {ids.LONGEST} letters, digits, '.', '_' and '-', "
            f"e.g. '{ids.from_path(f'{name}.')}'"
        )
    return name


def _suggested(photo: str) -> str:
    path = plain_path(photo)
    return ids.from_path(path.rpartition("/")[2] if stands_alone(photo) else path)
