"""Waits until the cluster has room for all actors, and says what is missing instead of hanging."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zero1toa.distributed.drain import draining_nodes
from zero1toa.distributed.placement import Placement, Room, shortfall
from zero1toa.errors import ConfigError

_TICK = 0.5  # seconds between looks
_GRACE = 3.0  # seconds for what was reserved to be free again


def await_room(
    placement: Placement,
    refiners: int,
    avatars: int,
    wait: float,
    notice: Callable[[str], None] = lambda message: None,
    *,
    helpers: int = 0,
) -> None:
    """Return as soon as all actors fit into what is free.

    While it waits, Ray's autoscaler, if there is one, is told of the demand. The demand goes with this job: if the
    process dies, no machine is kept for it.

    Args:
        placement: what each actor asks for.
        refiners: refinement actors.
        avatars: reconstruction actors at a time.
        wait: seconds, ``distributed.wait``.
        notice: hears once what is waited for.
        helpers: CPUs for tasks beside the actors.

    Raises:
        ConfigError: if they do not fit after ``wait`` seconds; the message says what is missing.
    """
    lack = _lack(placement, refiners, avatars, helpers)
    if lack is not None and wait > 0:
        notice(f"waiting up to {wait:.0f} s for machines: {lack}")
        end = time.monotonic() + wait
        with _Demand(placement, refiners, avatars) as demand:
            while not (met := demand.met()) and time.monotonic() < end:
                time.sleep(_TICK)
        if met:
            return
        # What was reserved takes a moment to be free again; actors, unlike the demand, may also run on other nodes.
        end = time.monotonic() + _GRACE
        while (lack := _lack(placement, refiners, avatars, helpers)) is not None and time.monotonic() < end:
            time.sleep(_TICK)
    if lack is not None:
        raise ConfigError(lack)


def total_rooms() -> list[Room]:
    """What each node of the cluster has; those that are about to be taken away are not counted."""
    import ray

    leaving = draining_nodes()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    return [_room(node["Resources"]) for node in nodes]


def free_rooms() -> list[Room]:
    """What each node of the cluster has free; those that are about to be taken away are not counted."""
    import ray

    leaving = draining_nodes()
    available = ray._private.state.available_resources_per_node()
    return [_room(resources) for node, resources in available.items() if node not in leaving]


def _room(resources: dict[str, float]) -> Room:
    # Free fractions come back with errors of floating point.
    return Room(round(resources.get("CPU", 0.0), 4), round(resources.get("GPU", 0.0), 4))


def _lack(placement: Placement, refiners: int, avatars: int, helpers: int) -> str | None:
    """What the cluster lacks, or else what is free of it; None if all actors fit into what is free."""
    return shortfall(placement, total_rooms(), refiners, avatars, helpers=helpers) or shortfall(
        placement, free_rooms(), refiners, avatars, helpers=helpers, free=True
    )


class _Demand:
    """A placement group for each kind of actor: it reserves room when there is some, and makes it known until then."""

    def __init__(self, placement: Placement, refiners: int, avatars: int) -> None:
        self._wanted = ((placement.refinement, refiners), (placement.reconstruction, avatars))
        self._groups: list[Any] = []

    def __enter__(self) -> _Demand:
        from ray.util.placement_group import placement_group

        for options, count in self._wanted:
            bundle = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
            bundles = [{name: amount for name, amount in bundle.items() if amount}] * count
            # The preferred nodes and no others, so that machines of the right kind are started.
            selectors = [options["label_selector"]] * count if "label_selector" in options else None
            self._groups.append(placement_group(bundles, strategy="PACK", bundle_label_selector=selectors))
        return self

    def __exit__(self, *_: object) -> None:
        from ray.util.placement_group import remove_placement_group

        for group in self._groups:
            remove_placement_group(group)

    def met(self) -> bool:
        """Whether everything is reserved."""
        return all(group.wait(0) for group in self._groups)
