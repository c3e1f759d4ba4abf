"""A worker that pulls requests, refines them and commits the result. Ray runs this class as an actor.

While one clip is being committed, which is writing to a disk or a network, the next one is refined already; and shortly
before a refinement ends, the next request is fetched.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zero1toa.config import Config
from zero1toa.distributed.records import DatasetRef, Order, Refined, Served
from zero1toa.errors import UserError
from zero1toa.symgen.store import Reference
from zero1toa.types import RefineRequest

_PATIENCE = 5.0  # seconds of one question for work
# How long before a refinement's end the next request is fetched: longer than two calls and a clip's way to this machine
# take, and short, since another worker that becomes free in that time could have had it.
_AHEAD = 0.05  # seconds
_AHEAD_SHARE = 0.1  # and no more than this share of a refinement
_LOG = logging.getLogger(__name__)

Refine = Callable[
    [Sequence[RefineRequest], Callable[[str], Reference]], tuple[list[NDArray[np.uint8]], dict[str, float]]
]
"""How clips are refined together: see :meth:`zero1toa.symgen.refinery.Refiner.together`."""


class RefinementActor:
    """Serves requests until the dispatcher closes.

    Args:
        worker: name of this incarnation; a replacement has another one.
        config: the run's configuration.
        dispatcher: handle of the dispatcher actor.
        stores: handles of the store actors, by their number.
        threads: CPU threads of this process.
        gpu: share of a GPU that it holds.
    """

    def __init__(
        self, worker: str, config: Config, dispatcher: Any, stores: Sequence[Any], threads: int, gpu: float = 0.0
    ) -> None:
        self._worker = worker
        self._config = config
        self._dispatcher = dispatcher
        self._stores = stores
        self._threads = threads
        self._gpu = gpu
        self._commits: dict[str, Future[None]] = {}  # by request id, the oldest first

    def run(self) -> Served:
        """Work until there is no more.

        Raises:
            UserError: if the backbone cannot be loaded, or the dataset not written: no worker could do better.
        """
        from zero1toa.distributed.limits import limit_memory, limit_threads, peak_memory
        from zero1toa.distributed.node import prepare_node
        from zero1toa.symgen.loop import choose_device
        from zero1toa.symgen.refinery import Refiner

        device = choose_device(self._config.device)
        prepare_node(self._config, device)
        limit_threads(self._threads)
        limit_memory(self._gpu)
        clips = self.serve(Refiner(self._config, device).together)
        return Served(clips, peak_memory(device), device.type == "cuda")

    def serve(self, refine: Refine) -> int:
        """Work until there is no more, with any way to refine; returns the number of clips served.

        Args:
            refine: as :meth:`zero1toa.symgen.refinery.Refiner.together`.

        Raises:
            UserError: if the dataset cannot be written: no worker could do better.
        """
        with ThreadPoolExecutor(1) as committer, ThreadPoolExecutor(1) as fetcher:
            return self._work(refine, committer, fetcher)

    def _work(self, refine: Refine, committer: ThreadPoolExecutor, fetcher: ThreadPoolExecutor) -> int:
        import ray

        served, pace = 0, _Pace()
        work = self._fetch(())
        while True:
            self._settle(wait=work.kind == "closed")
            if work.kind == "closed":
                return served
            if not work.requests:
                work = self._fetch(tuple(self._commits))
                continue
            holding = (*self._commits, *(order.request_id for order, _ in work.requests))
            ended = threading.Event()
            ahead = fetcher.submit(self._fetch_ahead, holding, pace.expected(len(work.requests)), ended)
            try:
                with pace.timed(len(work.requests)):
                    served += self._serve(refine, work.requests, committer)
            except (UserError, ray.exceptions.RayActorError):
                raise
            except Exception as error:  # whatever it was, another attempt or another worker may succeed
                for order, _ in work.requests:
                    self._report(order, error)
            finally:
                ended.set()
            work = ahead.result() or self._fetch(tuple(self._commits))

    def _fetch_ahead(self, holding: Sequence[str], expected: float, ended: threading.Event) -> _Work | None:
        """The next work, fetched shortly before the present one is expected to end; None if that ends before."""
        early = min(_AHEAD, _AHEAD_SHARE * expected)
        return None if ended.wait(expected - early) else self._fetch(holding, early)

    def _fetch(self, holding: Sequence[str], early: float = 0.0) -> _Work:
        """Ask for work, and bring it here; what was committed before is answered at once and left out.

        Args:
            holding: requests that are being refined or committed.
            early: seconds that the refinement in work is expected to go on.
        """
        import ray

        turn = ray.get(self._dispatcher.next.remote(self._worker, tuple(holding), _PATIENCE, early))
        fresh: list[tuple[Order, RefineRequest]] = []
        for order in turn.orders:
            try:
                # Asked while the pictures are on their way; a committed request comes again when its answer was lost.
                known = self._store(order.dataset).find.remote(order.dataset, order.request_id)
                request = self._receive(order)
                receipt = ray.get(known)
            except (UserError, ray.exceptions.RayActorError):
                raise
            except Exception as error:  # as for a refinement that fails
                self._report(order, error)
                continue
            if receipt is not None:
                ray.get(self._dispatcher.done.remote(order.avatar, receipt))
            elif request is None:
                ray.get(self._dispatcher.lost.remote(order.avatar, order.request_id, self._worker))
            else:
                fresh.append((order, request))
        return _Work(turn.kind, tuple(fresh))

    def _serve(self, refine: Refine, work: Sequence[tuple[Order, RefineRequest]], committer: ThreadPoolExecutor) -> int:
        """Refine clips in one go, and hand them on to be committed; returns their number."""
        datasets = {order.avatar: order.dataset for order, _ in work}
        pictures, seconds = refine([request for _, request in work], lambda avatar: self._reference(datasets[avatar]))
        self._settle(wait=True)  # one commit at a time, so that memory stays bounded
        for (order, request), frames in zip(work, pictures, strict=True):
            self._commits[order.request_id] = committer.submit(self._commit, order, request, frames, seconds)
        return len(work)

    def _receive(self, order: Order) -> RefineRequest | None:
        """The request; None if it died with its avatar's process."""
        import ray

        try:
            request: RefineRequest = ray.get(order.payload[0])
        except ray.exceptions.ObjectLostError:
            return None
        return request

    def _commit(self, order: Order, request: RefineRequest, frames: Any, seconds: dict[str, float]) -> None:
        import ray

        store = self._store(order.dataset)
        try:
            # The dataset first, the answer second: whoever hears of a clip finds it on disk.
            receipt = ray.get(store.commit.remote(order.dataset, Refined(request, frames, seconds)))
        except (UserError, ray.exceptions.RayActorError):
            raise
        except Exception as error:
            self._report(order, error)
            return
        ray.get(self._dispatcher.done.remote(order.avatar, receipt))

    def _settle(self, *, wait: bool) -> None:
        """Forget the commits that are done, or all of them; raises what went wrong in one."""
        for request_id, commit in list(self._commits.items()):
            if wait or commit.done():
                del self._commits[request_id]
                commit.result()

    def _report(self, order: Order, error: Exception) -> None:
        import ray

        _LOG.exception("refinement of a clip of %s failed", order.avatar)
        reason = f"{self._worker}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ray.get(self._dispatcher.fail.remote(order.request_id, self._worker, reason))

    def _reference(self, dataset: DatasetRef) -> Reference:
        import ray

        reference: Reference = ray.get(self._store(dataset).reference.remote(dataset))
        return reference

    def _store(self, dataset: DatasetRef) -> Any:
        return self._stores[dataset.writer]


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a worker was told to do.

    Attributes:
        kind: as of :class:`zero1toa.distributed.records.Turn`.
        requests: what is to be refined in one go.
    """

    kind: Literal["work", "idle", "closed"]
    requests: tuple[tuple[Order, RefineRequest], ...]


class _Pace:
    """How long a refinement takes, by the number of clips refined in one go: the shortest of the last few."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}

    def expected(self, clips: int) -> float:
        """Seconds; for ever before the first, which may load and compile and tells nothing of the others."""
        return min(self._seconds.get(clips, ()), default=threading.TIMEOUT_MAX)

    @contextmanager
    def timed(self, clips: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds.setdefault(clips, deque(maxlen=5)).append(time.perf_counter() - start)
