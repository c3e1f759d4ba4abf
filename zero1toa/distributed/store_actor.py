"""The single writer of a group of datasets. Ray runs this class as an actor that restarts and retries for ever.

Its memory is an index that the files rebuild; every call names its dataset, so a restarted actor goes on as if nothing
had happened. Repeated calls are harmless, because commits are idempotent by request id.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from zero1toa.distributed.records import DatasetRef
from zero1toa.symgen.admission import admit
from zero1toa.symgen.locks import lock_folder
from zero1toa.symgen.store import LOCK, Reference, SymGENStore
from zero1toa.types import Receipt, RefineRequest, SampleKey

AVATARS_PER_WRITER = 50
"""Avatars in work that share one store actor."""


class StoreActor:
    """Dataset stores by avatar."""

    def __init__(self) -> None:
        self._stores: dict[str, SymGENStore] = {}
        self._locks: dict[str, ExitStack] = {}
        self._progress: dict[str, tuple[int, int]] = {}

    def observe(self, dataset: DatasetRef, step: int, epoch: int) -> None:
        """Learn the iteration and epoch that an avatar's training has reached, to judge the age of commits."""
        self._progress[dataset.avatar] = (step, epoch)

    def find(self, dataset: DatasetRef, request_id: str) -> Receipt | None:
        """The receipt of a request that was committed before, or None if it has to be refined."""
        return self._store(dataset).find(request_id)

    def commit(
        self, dataset: DatasetRef, request: RefineRequest, frames: NDArray[np.uint8], seconds: Mapping[str, float]
    ) -> Receipt:
        """Commit refined pictures if they still count, see :func:`zero1toa.symgen.admission.admit`."""
        # After a restart nothing is known until the avatar's next report; the render is then as young as can be.
        step, epoch = self._progress.get(dataset.avatar, (request.render_step, request.epoch))
        return admit(self._store(dataset), dataset.policy, request, frames, seconds, step=step, epoch=epoch)

    def fetch(self, dataset: DatasetRef, key: SampleKey, version: int) -> tuple[NDArray[np.uint8], int]:
        """Pictures of a committed version, and how many of its frames were open."""
        return self._store(dataset).fetch(key, version)

    def reference(self, dataset: DatasetRef) -> Reference:
        """The portrait of a dataset."""
        return self._store(dataset).reference()

    def settled(self, dataset: DatasetRef, versions: Mapping[SampleKey, int]) -> None:
        """Delete pictures that are older than the versions of the last checkpoint."""
        self._store(dataset).prune(versions)

    def close(self, dataset: DatasetRef) -> None:
        """Forget the index of an avatar that is finished."""
        if self._stores.pop(dataset.avatar, None) is not None:
            self._locks.pop(dataset.avatar).close()
        self._progress.pop(dataset.avatar, None)

    def _store(self, dataset: DatasetRef) -> SymGENStore:
        if dataset.avatar not in self._stores:
            with ExitStack() as stack:
                # Before the index is read: the store actor of a killed driver may still be at its last commit.
                stack.enter_context(lock_folder(dataset.root, LOCK))
                self._stores[dataset.avatar] = SymGENStore(dataset.root, dataset.avatar)
                self._locks[dataset.avatar] = stack.pop_all()
        return self._stores[dataset.avatar]
