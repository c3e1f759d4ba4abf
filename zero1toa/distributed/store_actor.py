"""The single writer of a group of datasets. Ray runs this class as an actor that restarts and retries for ever.

Its memory is an index that the files rebuild; every call names its dataset, so a restarted actor goes on as if nothing
had happened. Repeated calls are harmless, because commits are idempotent by request id. Calls that concern different
avatars run at the same time, in threads: a commit waits for the disk most of its time, and nobody else waits with it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.distributed.metrics import Metrics
from zero1toa.distributed.records import DatasetRef, Refined
from zero1toa.symgen.admission import admit
from zero1toa.symgen.locks import lock_folder
from zero1toa.symgen.store import LOCK, Reference, SymGENStore
from zero1toa.types import Receipt, SampleKey

AVATARS_PER_WRITER = 50
"""Avatars in work that share one store actor."""

_THREADS = 8  # calls that one actor serves at a time; each may hold a clip in memory


class StoreActor:
    """Dataset stores by avatar.

    Args:
        backbone: registry name of the diffusion backbone, for the metrics.
    """

    def __init__(self, backbone: str) -> None:
        self._metrics = Metrics(backbone)
        self._datasets: dict[str, _Dataset] = {}
        self._lock = threading.Lock()  # of the table and the metrics

    def observe(self, dataset: DatasetRef, step: int, epoch: int) -> None:
        """Learn the iteration and epoch that an avatar's training has reached, to judge the age of commits.

        Reports that follow one another at once may change places, which makes an age wrong by an iteration for a
        moment; with one request at a time (the paper's loop) every clip is taken in before the next report.
        """
        self._dataset(dataset).progress = step, epoch

    def find(self, dataset: DatasetRef, request_id: str) -> Receipt | None:
        """The receipt of a request that was committed before, or None if it has to be refined."""
        with self._dataset(dataset).opened() as store:
            return store.find(request_id)

    def commit(self, dataset: DatasetRef, refined: Refined) -> Receipt:
        """Commit refined pictures if they still count, see :func:`zero1toa.symgen.admission.admit`."""
        one, request = self._dataset(dataset), refined.request
        start = time.perf_counter()
        if one.finished:
            return Receipt(request.request_id, request.key, request.base_version, 0, "superseded")
        with one.opened() as store:
            # After a restart nothing is known until the avatar's next report; the render is then as young as can be.
            step, epoch = one.progress or (request.render_step, request.epoch)
            receipt = admit(store, dataset.policy, request, refined.frames, refined.seconds, step=step, epoch=epoch)
        with self._lock:
            self._metrics.stored(receipt, time.perf_counter() - start)
        return receipt

    def fetch(self, dataset: DatasetRef, key: SampleKey, version: int) -> tuple[NDArray[np.uint8], int]:
        """Pictures of a committed version, and how many of its frames were open."""
        with self._dataset(dataset).opened() as store:
            return store.fetch(key, version)

    def reference(self, dataset: DatasetRef) -> Reference:
        """The portrait of a dataset."""
        with self._dataset(dataset).opened() as store:
            return store.reference()

    def settled(self, dataset: DatasetRef, versions: Mapping[SampleKey, int]) -> None:
        """Delete pictures that are older than the versions of the last checkpoint."""
        with self._dataset(dataset).opened() as store:
            store.prune(versions)

    def close(self, dataset: DatasetRef, *, finished: bool = False) -> None:
        """Forget the index of an avatar whose process has ended.

        Args:
            dataset: its dataset.
            finished: whether the avatar needs no more clips. One that a refiner still brings is then superseded, and
                does not open the folder again, which may have been deleted.
        """
        self._dataset(dataset).close(finished)

    def _dataset(self, dataset: DatasetRef) -> _Dataset:
        with self._lock:
            return self._datasets.setdefault(dataset.avatar, _Dataset(dataset))


class _Dataset:
    """The store of one avatar, opened when it is first asked for and used by one thread at a time.

    Attributes:
        progress: iteration and epoch that training has reached, or None if it has not said so.
        finished: whether the avatar needs no more clips.
    """

    def __init__(self, dataset: DatasetRef) -> None:
        self.progress: tuple[int, int] | None = None
        self.finished = False
        self._dataset = dataset
        self._turn = threading.Lock()
        self._store: SymGENStore | None = None
        self._folder = ExitStack()

    @contextmanager
    def opened(self) -> Iterator[SymGENStore]:
        with self._turn:
            if self._store is None:
                with ExitStack() as stack:
                    # Before the index is read: the store actor of a killed driver may still be at its last commit.
                    stack.enter_context(lock_folder(self._dataset.root, LOCK))
                    self._store = SymGENStore(self._dataset.root, self._dataset.avatar)
                    self._folder = stack.pop_all()
            yield self._store

    def close(self, finished: bool) -> None:
        with self._turn:
            self._store = self.progress = None
            self.finished = finished
            self._folder.close()


def start_stores(backbone: str, avatars: int, options: Mapping[str, Any]) -> list[Any]:
    """Start the store actors of a job.

    Args:
        backbone: registry name of the diffusion backbone, for the metrics.
        avatars: avatars in work at a time.
        options: Ray's options for actors that serve others; a restart and retries for ever are added.

    Returns:
        Handles; the number in :attr:`zero1toa.distributed.records.DatasetRef.writer` is the index.
    """
    import ray

    kept = {**options, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": _THREADS}
    return [
        ray.remote(StoreActor).options(**kept).remote(backbone) for _ in range(math.ceil(avatars / AVATARS_PER_WRITER))
    ]
