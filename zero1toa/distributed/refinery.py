"""The refinery that an avatar sees on Ray: requests go to the dispatcher, answers come from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.distributed.records import DatasetRef, Order
from zero1toa.symgen.refinery import Failure
from zero1toa.types import Receipt, RefineRequest, SampleKey

_PATIENCE = 5.0  # seconds of one question to the dispatcher
_TICK = 0.5  # seconds between looks at the stop flag while waiting


class RayRefinery:
    """Implements :class:`zero1toa.symgen.refinery.Refinery`.

    Args:
        dataset: the avatar's dataset.
        dispatcher: handle of the dispatcher actor.
        store: handle of the store actor.
        stopping: asked while waiting; True ends the wait without an answer.
    """

    def __init__(self, dataset: DatasetRef, dispatcher: Any, store: Any, stopping: Callable[[], bool]) -> None:
        self._dataset = dataset
        self._dispatcher = dispatcher
        self._store = store
        self._stopping = stopping
        self._outstanding: dict[str, RefineRequest] = {}
        self._question: Any = None

    def submit(self, request: RefineRequest) -> None:
        """Send a request to the dispatcher."""
        import ray

        self._outstanding[request.request_id] = request
        # The request travels by value: it outlives this process, and nobody holds a reference to a dead one's memory.
        ray.get(self._dispatcher.submit.remote(Order(request, self._dataset)))

    def answers(self, *, wait: bool) -> list[Receipt | Failure]:
        """New answers; with ``wait`` at least one, unless the generation is being stopped."""
        import ray

        while self._outstanding and not self._stopping():
            if self._question is None:
                ids = list(self._outstanding)
                self._question = self._dispatcher.answers.remote(self._dataset.avatar, ids, _PATIENCE)
            ready, _ = ray.wait([self._question], timeout=_TICK if wait else 0)
            if ready:
                answers = self._hear()
                if answers:
                    return answers
            elif not wait:
                return []
        return []

    def observe(self, step: int, epoch: int) -> None:
        """Tell the store how far training is."""
        self._store.observe.remote(self._dataset, step, epoch)

    def settled(self, versions: Mapping[SampleKey, int]) -> None:
        """Let the store delete what no checkpoint needs."""
        self._store.settled.remote(self._dataset, dict(versions))

    def fetch(self, key: SampleKey, version: int) -> tuple[NDArray[np.uint8], int]:
        """Pictures of a committed version, and how many of its frames were open."""
        import ray

        frames, unlocked = ray.get(self._store.fetch.remote(self._dataset, key, version))
        return frames, unlocked

    def _hear(self) -> list[Receipt | Failure]:
        import ray

        question, self._question = self._question, None
        answers, lost = ray.get(question)
        for request_id in lost:  # the dispatcher was restarted, or never heard of it
            if request_id in self._outstanding:
                self.submit(self._outstanding[request_id])
        return [answer for answer in answers if self._outstanding.pop(answer.request_id, None) is not None]
