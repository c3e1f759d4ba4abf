"""Coroutines that sleep until somebody wakes just them: of hundreds that wait, each event concerns one."""

from __future__ import annotations

import asyncio


class Sleepers:
    """Sleeping coroutines, by what they wait for."""

    def __init__(self) -> None:
        self._events: dict[str, list[asyncio.Event]] = {}

    async def sleep(self, what: str, seconds: float) -> None:
        """Sleep until somebody wakes ``what``, for at most ``seconds``."""
        event = asyncio.Event()
        self._events.setdefault(what, []).append(event)
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return
        finally:
            sleeping = self._events[what]
            sleeping.remove(event)
            if not sleeping:
                del self._events[what]

    def wake(self, what: str, count: int | None = None) -> None:
        """Wake those that wait for ``what``: the first ``count`` that still sleep, or all."""
        asleep = [event for event in self._events.get(what, []) if not event.is_set()]
        for event in asleep[:count]:
            event.set()
