"""The refinery that an avatar sees on Ray: requests go to the dispatcher, answers come from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.distributed.records import DatasetRef, Order
from zero1toa.symgen.failure import Failure
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
        self._orders: dict[str, Order] = {}  # hold the references, which keep the pictures alive
        self._question: Any = None

    def submit(self, request: RefineRequest) -> None:
        """Send a request to the dispatcher."""
        import ray

        self._outstanding[request.request_id] = request
        # By reference: the pictures go straight to the worker that serves them. They die with this process, whose
        # successor submits the same request again.
        payload = (ray.put(request),)
        order = Order(request.request_id, self._dataset, request.frames.shape, payload)
        self._orders[request.request_id] = order
        # A question that is still open does not ask for this one; its answers, if any, are given to the new one too.
        self._question = self._ask(order)

    def answers(self, *, wait: bool) -> list[Receipt | Failure]:
        """New answers; with ``wait`` at least one, unless the generation is being stopped."""
        import ray

        while self._outstanding and not self._stopping():
            if self._question is None:
                self._question = self._ask()
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

    def flush(self) -> None:
        """Nothing to wait for: the store answers once a commit is on disk."""

    def settled(self, versions: Mapping[SampleKey, int]) -> None:
        """Let the store delete what no checkpoint needs."""
        self._store.settled.remote(self._dataset, dict(versions))

    def fetch(self, key: SampleKey, version: int) -> tuple[NDArray[np.uint8], int]:
        """Pictures of a committed version, and how many of its frames were open."""
        import ray

        frames, unlocked = ray.get(self._store.fetch.remote(self._dataset, key, version))
        return frames, unlocked

    def _ask(self, *orders: Order) -> Any:
        return self._dispatcher.ask.remote(self._dataset.avatar, orders, tuple(self._outstanding), _PATIENCE)

    def _hear(self) -> list[Receipt | Failure]:
        import ray

        question, self._question = self._question, None
        answers, lost = ray.get(question)
        for request_id in lost:  # the dispatcher was restarted, or the worker could not get at the pictures
            if request_id in self._outstanding:
                self.submit(self._outstanding[request_id])
        for answer in answers:
            self._orders.pop(answer.request_id, None)
        return [answer for answer in answers if self._outstanding.pop(answer.request_id, None) is not None]
