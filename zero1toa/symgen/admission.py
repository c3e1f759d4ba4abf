"""The one door into the dataset: staleness is judged and counted before a refined clip is committed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.symgen.store import SymGENStore
from zero1toa.types import Receipt, RefineRequest


def admit(
    store: SymGENStore,
    policy: StalenessPolicy,
    request: RefineRequest,
    frames: NDArray[np.uint8],
    seconds: Mapping[str, float],
    *,
    step: int,
    epoch: int,
) -> Receipt:
    """Commit refined pictures if they still count.

    Args:
        store: the avatar's dataset.
        policy: bounds on staleness.
        request: what was refined.
        frames: refined pictures, shaped as ``request.frames``.
        seconds: refinement time by phase.
        step: training iteration the avatar has reached.
        epoch: curriculum epoch the avatar has reached.

    Returns:
        The store's receipt, or one with status ``expired`` or ``superseded`` and the version that stays current.
        A request that was committed before is a ``duplicate`` whatever its age.
    """
    if store.find(request.request_id) is None:
        current = store.version(request.key)
        verdict = policy.judge(
            base_version=request.base_version,
            current_version=current,
            epoch=request.epoch,
            current_epoch=epoch,
            age=step - request.render_step,
        )
        if verdict != "accept":
            return Receipt(request.request_id, request.key, current, store.sequence, verdict, dict(seconds))
    return store.commit(request, frames, seconds)
