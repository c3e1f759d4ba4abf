"""Which machines are about to be taken away, and which actors are on them.

Ray 2.60 keeps this apart from its node table: ``ray.nodes()`` shows a draining node as alive and whole until it is
gone. It starts nothing new there, lets running actors run, and ends the node when it is idle. So actors that have
something to keep must be told.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any


def draining_nodes() -> dict[str, float | None]:
    """The nodes that are being drained, with the seconds that they have left; None where no end was announced."""
    import ray

    return seconds_left(ray._private.state.state.get_draining_nodes(), time.time())


def seconds_left(deadlines: Mapping[str, int], now: float) -> dict[str, float | None]:
    """Seconds from ``now`` to each node's end.

    Args:
        deadlines: by node, milliseconds since the epoch; 0 where no end was announced.
        now: seconds since the epoch.
    """
    return {node: max(end / 1000 - now, 0.0) if end else None for node, end in deadlines.items()}


def on_nodes(actors: Iterable[Any], nodes: Iterable[str]) -> list[Any]:
    """Those of the actors that run on one of the nodes.

    Args:
        actors: handles. They are not called, so a busy actor is found as well.
        nodes: node ids in hexadecimal.
    """
    from ray._private.state import actors as describe

    leaving = set(nodes)
    if not leaving:
        return []
    return [actor for actor in actors if describe(actor._actor_id.hex()).get("Address", {}).get("NodeID") in leaving]


def drain_node(node: str, seconds: float, reason: str) -> None:
    """Announce to Ray that a node will be taken away.

    Args:
        node: node id in hexadecimal.
        seconds: until then.
        reason: one line, which Ray shows as the cause of the node's end.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    preemption = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client.drain_node(node, preemption, reason, int((time.time() + seconds) * 1000))
