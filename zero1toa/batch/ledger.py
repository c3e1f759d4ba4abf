"""The ledger of a batch: one row for each portrait that ended, appended and never changed.

Layout under the batch's output, on any fsspec URL::

    ledger/format.json                     version of this layout, written first
    ledger/rows/<sequence>.json            a row that was appended lately
    ledger/segments/<first>-<last>.jsonl   many rows, one a line

A row counts from the moment its file is there, which is before :meth:`Ledger.append` returns. Since opening a ledger
of ten thousand portraits must not read ten thousand files, single rows are gathered in segments: the segment is written
first, the files that it replaces are deleted after it, and whoever meets both goes by the segment. So there is no
moment at which a crash could lose a row or count it twice. Listing the folders is all it takes to open a ledger.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from zero1toa.batch.records import Row, State
from zero1toa.errors import OutputError, StorageError
from zero1toa.storage import Storage

FOLDER = "ledger"
FORMAT = 1

_ABOUT = "format.json"
_SINGLES = 64
"""Single rows that are gathered at once; about as many files are read to open a ledger."""
_FULL = 2048
"""Rows of a segment that is not extended any more, which bounds what gathering writes anew."""
_TRIES = 5
"""Times to begin anew when files vanish while they are read, because the writer gathers them."""


class _Span(NamedTuple):
    """The rows of a segment, both ends included."""

    first: int
    last: int

    @property
    def name(self) -> str:
        return f"segments/{self.first:08d}-{self.last:08d}.jsonl"


class Ledger:
    """How every portrait of a batch ended. One process writes, in one thread at a time; any may read.

    Opening writes nothing, so that a ledger may be looked at while a job works on it.

    Args:
        storage: the batch's output folder.

    Raises:
        OutputError: if the ledger was written by a newer version, or holds a file that is torn, missing or not its own.
        StorageError: if the folder cannot be reached.
    """

    def __init__(self, storage: Storage) -> None:
        self._root = storage / FOLDER
        self._history: list[Row] = []
        self._newest: dict[str, Row] = {}
        self._segments: list[_Span] = []
        self._leftovers: list[str] = []  # files whose rows are in a segment
        self._known = False  # whether memory and folder agree
        self._claimed = False  # whether the folder says its format
        self._rebuild()

    def rows(self) -> dict[str, Row]:
        """The newest row of each portrait that ended, by its id."""
        return dict(self._newest)

    def history(self) -> list[Row]:
        """All rows in the order in which they were appended."""
        return list(self._history)

    def append(self, row: Row) -> bool:
        """Keep how a portrait ended; when this returns, the row survives any crash.

        A portrait ends once in a job, and a finished one stays finished: another row for it changes nothing, so
        whoever is unsure whether a row was kept appends it again. A portrait that did not become an avatar gets a new
        row from a later job that tried again, which supersedes the old one.

        Args:
            row: the portrait's end.

        Returns:
            Whether the row was added; False if the ledger has the portrait's end already.

        Raises:
            ValueError: if ``row.attempts`` is below what the ledger has; it counts earlier jobs too.
            StorageError: if the row cannot be written. It may be there nevertheless, as after a lost connection; the
                next call finds out.
        """
        self._settle()
        before = self._newest.get(row.id)
        if before is not None:
            if before.state == "done" or before.job == row.job:
                return False
            if row.attempts < before.attempts:
                raise ValueError(f"{row.id} was begun {before.attempts} times, but its new row says {row.attempts}")
        sequence = len(self._history) + 1
        with self._unsure_on_failure():
            if not self._claimed:
                self._root.write(_ABOUT, json.dumps({"format": FORMAT}))
                self._claimed = True
            self._root.write(_single(sequence), _encode(sequence, row))
        self._index(row)
        if len(self._history) - self._gathered >= _SINGLES:
            # The row is safe. A folder that cannot be written any more will say so at the next row.
            with contextlib.suppress(StorageError):
                self.compact()
        return True

    def compact(self) -> None:
        """Gather single rows in a segment and delete what segments have replaced; done by itself now and then.

        Raises:
            StorageError: if the folder cannot be written. No row is lost or doubled by that.
        """
        self._settle()
        count = len(self._history)
        with self._unsure_on_failure():
            if count > self._gathered:
                singles = [_single(sequence) for sequence in range(self._gathered + 1, count + 1)]
                self._extend(count)
                self._leftovers.extend(singles)
            while self._leftovers:
                self._root.delete(self._leftovers[-1])
                self._leftovers.pop()

    def _extend(self, count: int) -> None:
        """Write the segment that ends at row ``count``: a longer version of the last one, or a new one after it."""
        last = self._segments[-1] if self._segments else None
        grows = last is not None and last.last - last.first + 1 < _FULL
        span = _Span(last.first if last is not None and grows else self._gathered + 1, count)
        lines = (_encode(i, self._history[i - 1]) for i in range(span.first, span.last + 1))
        self._root.write(span.name, "\n".join(lines) + "\n")
        if last is not None and grows:
            self._segments.pop()
            self._leftovers.append(last.name)
        self._segments.append(span)

    @property
    def _gathered(self) -> int:
        """Number of rows in segments."""
        return self._segments[-1].last if self._segments else 0

    def _settle(self) -> None:
        if not self._known:
            self._rebuild()

    @contextlib.contextmanager
    def _unsure_on_failure(self) -> Iterator[None]:
        """A write that failed may have arrived: look before the next one, since files are never written twice."""
        try:
            yield
        except BaseException:
            self._known = False
            raise

    def _rebuild(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                self._read()
                break
            except FileNotFoundError as error:
                if not left:
                    raise OutputError(
                        f"{self._root} changes faster than it can be read ({error}); is another job writing there?"
                    ) from error
        self._known = True

    def _read(self) -> None:
        self._history, self._newest, self._segments, self._leftovers = [], {}, [], []
        # In this order: a single row that is gone by now was in a segment before it went.
        rows, segments = self._root.files("rows"), self._root.files("segments")
        self._claimed = self._check_format(bool(rows or segments))  # before any name: a newer format may have others
        singles = [(self._number(name), f"rows/{name}") for name in rows]
        spans = [self._span(name) for name in segments]
        for span in sorted(spans, key=lambda span: (span.first, -span.last)):
            if span.last <= self._gathered:
                self._leftovers.append(span.name)
                continue
            self._expect(span.first, span.name)
            self._read_segment(span)
        for sequence, name in singles:
            if sequence <= self._gathered:
                self._leftovers.append(name)
                continue
            self._expect(sequence, name)
            self._index(self._decode(self._root.read(name), sequence, name))

    def _check_format(self, needed: bool) -> bool:
        """Whether the format is written down."""
        where = self._root.locate(_ABOUT)
        try:
            version = json.loads(self._root.read(_ABOUT))["format"]
        except FileNotFoundError as error:
            if needed:
                raise OutputError(f"{self._root} has rows but no {_ABOUT}, so it is no ledger of a batch") from error
            return False
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(f"{where} is damaged: it does not say the ledger's format") from error
        if not isinstance(version, int) or version != FORMAT:
            raise OutputError(
                f"{self._root} is in format {version} and this version of zero1toa knows format {FORMAT}; "
                "update zero1toa, or choose another output"
            )
        return True

    def _read_segment(self, span: _Span) -> None:
        lines = self._root.read(span.name).splitlines()
        if len(lines) != span.last - span.first + 1:
            raise OutputError(
                f"{self._root.locate(span.name)} is torn: it has {len(lines)} rows of {span.last - span.first + 1}"
            )
        for sequence, line in enumerate(lines, span.first):
            self._index(self._decode(line, sequence, span.name))
        self._segments.append(span)

    def _expect(self, sequence: int, name: str) -> None:
        if sequence != len(self._history) + 1:
            where = self._root.locate(name)
            raise OutputError(f"{where} does not follow row {len(self._history)}: a file of the ledger is missing")

    def _index(self, row: Row) -> None:
        self._history.append(row)
        self._newest[row.id] = row

    def _number(self, name: str) -> int:
        match = re.fullmatch(r"(\d{8,})\.json", name)
        if match is None:
            raise OutputError(f"{self._root.locate(f'rows/{name}')} is no row of a ledger; move it away")
        return int(match[1])

    def _span(self, name: str) -> _Span:
        match = re.fullmatch(r"(\d{8,})-(\d{8,})\.jsonl", name)
        if match is None:
            raise OutputError(f"{self._root.locate(f'segments/{name}')} is no segment of a ledger; move it away")
        return _Span(int(match[1]), int(match[2]))

    def _decode(self, text: bytes, sequence: int, name: str) -> Row:
        where = f"{self._root.locate(name)} is torn or no part of a ledger"
        try:
            fields = json.loads(text)
            number = fields.pop("sequence")
            row = Row(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise OutputError(f"{where}: row {sequence} cannot be read ({error})") from error
        if number != sequence or row.state not in get_args(State) or not isinstance(row.id, str):
            raise OutputError(f"{where}: row {sequence} is row {number} of {row.id}, {row.state}")
        return row


def _single(sequence: int) -> str:
    return f"rows/{sequence:08d}.json"


def _encode(sequence: int, row: Row) -> str:
    """One line of JSON; figures may come as numpy's."""
    return json.dumps(
        {
            "sequence": sequence,
            **vars(row),
            "seconds": _plain(row.seconds.items()),
            "gpu_seconds": float(row.gpu_seconds),
            "metrics": _plain(row.metrics.items()),
        }
    )


def _plain(figures: Iterable[tuple[str, float]]) -> Mapping[str, Any]:
    return {name: value if isinstance(value, int) else float(value) for name, value in figures}
