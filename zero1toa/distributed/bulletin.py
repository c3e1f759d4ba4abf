"""``status.json`` and ``fleet.html``, refreshed while the batch runs, without holding up the coordinator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from zero1toa.batch.status import PAGE, STATUS, Fleet, status
from zero1toa.storage import Storage
from zero1toa.tracking.fleet_page import render_page

_OF_THE_JOB = ("job", "started", "updated", "avatars_per_hour", "seconds_left", "sample")


class Bulletin:
    """Publishes a batch's state in a thread of its own, as a context manager.

    Args:
        output: the batch's output.
    """

    def __init__(self, output: Storage) -> None:
        self._output = output
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bulletin")
        self._publishing: Future[None] | None = None

    def publish(self, fleet: Fleet, *, wait: bool = False) -> None:
        """Write both files, unless the last ones are still being written.

        Args:
            fleet: the batch at this moment; it must not change afterwards.
            wait: write these in any case, and return when they are there.

        Raises:
            StorageError: if the output could not be written, also by an earlier call.
        """
        if self._publishing is not None and (wait or self._publishing.done()):
            self._publishing.result()
            self._publishing = None
        if self._publishing is None:
            self._publishing = self._thread.submit(self._write, fleet)
        if wait:
            self._publishing.result()

    def shows(self, fleet: Fleet) -> bool:
        """Whether the files that are there say the same of the portraits, whichever job wrote them.

        Raises:
            StorageError: if the output cannot be reached.
        """
        try:
            kept = json.loads(self._output.read(STATUS))
            return self._output.exists(PAGE) and _of_portraits(kept) == _of_portraits(status(fleet))
        except (FileNotFoundError, ValueError, AttributeError):
            return False

    def close(self) -> None:
        """Wait for what is being written."""
        self._thread.shutdown()

    def _write(self, fleet: Fleet) -> None:
        self._output.write(STATUS, json.dumps(status(fleet), indent=1))
        self._output.write(PAGE, render_page(fleet))


def _of_portraits(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in _OF_THE_JOB}
