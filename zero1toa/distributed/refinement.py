"""A worker that pulls requests, refines them and commits the result. Ray runs this class as an actor."""

from __future__ import annotations

import logging
from typing import Any

from zero1toa.config import Config
from zero1toa.distributed.limits import limit_threads
from zero1toa.distributed.records import Order
from zero1toa.errors import UserError
from zero1toa.symgen.loop import choose_device
from zero1toa.symgen.refinery import Refiner

_PATIENCE = 5.0  # seconds of one question for work
_LOG = logging.getLogger(__name__)


class RefinementActor:
    """Serves requests until the dispatcher closes.

    Args:
        worker: name of this incarnation; a replacement has another one.
        config: the run's configuration.
        dispatcher: handle of the dispatcher actor.
        store: handle of the store actor.
        threads: CPU threads of this process.
    """

    def __init__(self, worker: str, config: Config, dispatcher: Any, store: Any, threads: int) -> None:
        self._worker = worker
        self._config = config
        self._dispatcher = dispatcher
        self._store = store
        limit_threads(threads)

    def run(self) -> int:
        """Work until there is no more; returns the number of clips served.

        Raises:
            UserError: if the backbone cannot be loaded: no worker could do better.
        """
        import ray

        refiner = Refiner(self._config, choose_device(self._config.device))
        served = 0
        while True:
            turn = ray.get(self._dispatcher.next.remote(self._worker, _PATIENCE))
            if turn.kind == "closed":
                return served
            if turn.order is None:
                continue
            try:
                self._serve(refiner, turn.order)
                served += 1
            except (UserError, ray.exceptions.RayActorError):
                raise
            except Exception as error:  # whatever it was, another attempt or another worker may succeed
                _LOG.exception("refinement of %s failed", turn.order.request.key)
                reason = f"{self._worker}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                ray.get(self._dispatcher.fail.remote(turn.order.request.request_id, self._worker, reason))

    def _serve(self, refiner: Refiner, order: Order) -> None:
        import ray

        request, dataset = order.request, order.dataset
        receipt = ray.get(self._store.find.remote(dataset, request))
        if receipt is None:
            frames, seconds = refiner(request, lambda: ray.get(self._store.reference.remote(dataset)))
            # The dataset first, the answer second: whoever hears of a clip finds it on disk.
            receipt = ray.get(self._store.commit.remote(dataset, request, frames, seconds))
        ray.get(self._dispatcher.done.remote(request.avatar, receipt))
