"""Which share of the machines each actor asks for: a pure decision, so that it is tested without a cluster."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from zero1toa.errors import ConfigError

AVATARS_PER_REFINER = 1.5
"""Avatars at a time for each refiner: enough to keep it busy while the others train, with no staleness at all."""

RECONSTRUCTION_GPU = 0.25
"""Share of a GPU of a trainer that has room: it waits for refined clips about three quarters of its time."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Ray options of the actors.

    Attributes:
        refinement: options of a refinement actor.
        reconstruction: options of a reconstruction actor.
        service: options of store and dispatcher.
    """

    refinement: dict[str, Any]
    reconstruction: dict[str, Any]
    service: dict[str, Any]


def plan(
    *, device: str, gpus: float, refiners: int, avatars: int, labels: Iterable[Mapping[str, str]] = ()
) -> Placement:
    """Share the GPUs between refiners and trainers.

    A refiner gets a whole GPU where there are enough, a trainer a quarter; on fewer GPUs all share evenly, in
    fractions that fill each GPU exactly (Ray does not split an actor over two GPUs).

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        gpus: GPUs of the cluster.
        refiners: refinement actors.
        avatars: reconstruction actors at a time.
        labels: labels of the nodes; where some have ``role=refine`` or ``role=recon``, actors prefer those.

    Raises:
        ConfigError: for ``cuda`` without a GPU.
    """
    if device == "cuda" and gpus < 1:
        raise ConfigError("device=cuda, but the Ray cluster has no GPU; use device=auto, or add GPU nodes")
    refine_gpu = reconstruct_gpu = 0.0
    if device != "cpu" and gpus >= 1:
        if gpus >= refiners + math.ceil(avatars * RECONSTRUCTION_GPU):
            refine_gpu, reconstruct_gpu = 1.0, RECONSTRUCTION_GPU
        else:
            refine_gpu = reconstruct_gpu = round(1 / math.ceil((refiners + avatars) / int(gpus)) - 5e-5, 4)
    roles = {node.get("role") for node in labels}
    return Placement(
        refinement={"num_cpus": 1, "num_gpus": refine_gpu, **_prefer("refine", roles)},
        reconstruction={"num_cpus": 1, "num_gpus": reconstruct_gpu, **_prefer("recon", roles)},
        service={"num_cpus": 0},
    )


def _prefer(role: str, roles: set[str | None]) -> dict[str, Any]:
    # With a fallback to any node: an actor with a hard selector and no such node would wait for ever.
    if role not in roles:
        return {}
    return {"label_selector": {"role": role}, "fallback_strategy": [{"label_selector": {}}]}
