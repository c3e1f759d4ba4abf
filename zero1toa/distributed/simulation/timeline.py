"""The clock of a simulation: events in the order of their time, and numbers that change in time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Timeline:
    """Calls what is due, in order of time; what is due at the same time in the order in which it was asked for.

    Attributes:
        now: seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call ``call(*arguments)`` in so many seconds; it decides itself whether that still matters by then."""
        heapq.heappush(self._events, (self.now + max(seconds, 0.0), next(self._numbers), call, arguments))

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until ``until()`` is true after an event, or nothing is due any more."""
        while self._events:
            self.now, _, call, arguments = heapq.heappop(self._events)
            call(*arguments)
            if until():
                return


class Level:
    """A number that changes in time, such as that of busy refiners, and its integral.

    Args:
        timeline: the clock.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.value = 0
        self._timeline = timeline
        self._since = 0.0
        self._sum = 0.0

    def add(self, change: int) -> None:
        """Change the number, now."""
        self._sum = self.integral
        self._since = self._timeline.now
        self.value += change

    @property
    def integral(self) -> float:
        """Sum of the number's values so far, each times its seconds."""
        return self._sum + self.value * (self._timeline.now - self._since)
