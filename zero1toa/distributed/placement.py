"""Which share of the machines each actor asks for: a pure decision, so that it is tested without a cluster.

Nodes are told apart by two labels. ``role`` says what a node is for: ``head``, ``refine`` or ``recon``. ``market`` is
``spot`` on machines that may be taken away at any time; the others need not carry it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zero1toa.errors import ConfigError

AVATARS_PER_REFINER = 1.5
"""Avatars at a time for each refiner: enough to keep it busy while the others train, with no staleness at all."""

RECONSTRUCTION_GPU = 0.25
"""Share of a GPU of a trainer that has room: it waits for refined clips about three quarters of its time."""

MORE_THAN_HALF = 0.52
"""Share of a refiner that has a GPU for itself and some trainers."""

HEAD, REFINE, RECON = "head", "refine", "recon"
"""Values of the label ``role``."""

SPOT = "spot"
"""Value of the label ``market`` of a machine that may be taken away."""


_MOST = 64  # actors on one GPU


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


@dataclasses.dataclass(frozen=True)
class Room:
    """What a node offers.

    Attributes:
        cpus: CPUs, as Ray counts them.
        gpus: GPUs; after fractions were given away, what is left of them.
    """

    cpus: float
    gpus: float


def plan(
    *,
    device: str,
    gpus: float,
    refiners: int,
    avatars: int,
    labels: Iterable[Mapping[str, str]] = (),
    refine_gpus: float = -1.0,
    reconstruct_gpus: float = -1.0,
) -> Placement:
    """Share the GPUs between refiners and trainers, and say which nodes each actor prefers.

    A refiner gets a whole GPU where there are enough, a trainer a quarter. With fewer GPUs, but one for each refiner,
    each holds a refiner and its trainers; with fewer still all share evenly. Fractions fill each GPU (Ray does not
    split an actor over two). A share that is given is taken as it is.

    Refiners and trainers prefer the nodes labelled for them. Refiners may run on spot machines, since what dies with
    one is a clip; trainers avoid them where they can, and services run on one only where there is nothing else.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        gpus: GPUs of the cluster.
        refiners: refinement actors.
        avatars: reconstruction actors at a time.
        labels: labels of the nodes.
        refine_gpus: share of a refiner, or -1.
        reconstruct_gpus: share of a trainer, or -1.

    Raises:
        ConfigError: for ``cuda`` without a GPU, or a share that Ray cannot give.
    """
    _check_share("refine_gpus", refine_gpus, device)
    _check_share("reconstruct_gpus", reconstruct_gpus, device)
    if device == "cuda" and gpus < 1 and min(refine_gpus, reconstruct_gpus) < 0:
        raise ConfigError(
            "device=cuda, but the Ray cluster has no GPU; use device=auto, add GPU nodes, or, where they are started "
            "on demand, give distributed.refine_gpus and distributed.reconstruct_gpus"
        )
    refine_gpu, reconstruct_gpu = _shares(device, gpus, refiners, avatars, refine_gpus, reconstruct_gpus)
    nodes = [dict(node) for node in labels]
    return Placement(
        refinement={"num_cpus": 1, "num_gpus": refine_gpu, **_prefer(nodes, {"role": REFINE})},
        reconstruction={
            "num_cpus": 1,
            "num_gpus": reconstruct_gpu,
            **_prefer(nodes, {"role": RECON, "market": f"!{SPOT}"}, {"role": RECON}, {"market": f"!{SPOT}"}),
        },
        # On the head first: its death ends the job anyway, and no autoscaler takes it for idle.
        service={"num_cpus": 0, **_prefer(nodes, {"role": HEAD}, {"market": f"!{SPOT}"})},
    )


def shortfall(
    placement: Placement, nodes: Sequence[Room], refiners: int, avatars: int, *, helpers: int = 0, free: bool = False
) -> str | None:
    """What is missing for all actors to run at once, or None if they fit.

    Args:
        placement: what each actor asks for.
        nodes: what the nodes have.
        refiners: refinement actors.
        avatars: reconstruction actors at a time.
        helpers: CPUs for tasks beside the actors, without which nothing would be prepared for the trainers.
        free: whether ``nodes`` holds only what is free, as the message then says.

    Returns:
        One line that says what is asked, what there is, and what to change.
    """
    if _fits(placement, nodes, refiners, avatars, helpers):
        return None
    refine, reconstruct = placement.refinement, placement.reconstruction
    asked = f"asked for {_asked(refiners, 'refiner', refine)} and {_asked(avatars, 'trainer', reconstruct)}"
    asked += f" and {_many(helpers, 'CPU')} to prepare portraits" if helpers else ""
    gpus = _gpus_for([refine["num_gpus"]] * refiners + [reconstruct["num_gpus"]] * avatars)
    cpus = refiners * refine["num_cpus"] + avatars * reconstruct["num_cpus"] + helpers
    there_gpus, there_cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    there = "the cluster has" if not free else "free in the cluster are"
    if gpus > there_gpus:
        lack = f"which needs {_many(gpus, 'GPU')}; {there} {there_gpus:g}"
    elif cpus > there_cpus:
        lack = f"which needs {_many(cpus, 'CPU')}; {there} {there_cpus:g}"
    else:
        lack = (
            f"which needs {_many(gpus, 'GPU')} and {_many(cpus, 'CPU')}; {there} {there_gpus:g} and {there_cpus:g}, "
            "but spread over machines in pieces that do not hold these actors"
        )
    others = ", wait for other jobs to end" if free else ""
    return f"{asked}, {lack}: lower distributed.refiners or batch.at_once{others}, or add nodes"


def _check_share(name: str, share: float, device: str) -> None:
    if share != -1 and (share < 0 or (share > 1 and share != int(share))):
        raise ConfigError(
            f"distributed.{name}={share:g}: give a fraction of a GPU up to 1, a whole number, or -1 to let it be chosen"
        )
    if share > 0 and device == "cpu":
        raise ConfigError(f"device=cpu and distributed.{name}={share:g} contradict each other; leave one of them out")


def _shares(
    device: str, gpus: float, refiners: int, avatars: int, refine: float, reconstruct: float
) -> tuple[float, float]:
    """The GPU shares of a refiner and of a trainer."""
    if refine >= 0 and reconstruct >= 0:
        return refine, reconstruct
    if device == "cpu" or gpus < 1:
        return max(refine, 0.0), max(reconstruct, 0.0)
    if refine < 0 and reconstruct < 0:
        if _gpus_for([1.0] * refiners + [RECONSTRUCTION_GPU] * avatars) <= gpus:
            return 1.0, RECONSTRUCTION_GPU
        if refiners <= gpus:
            # More than half for a refiner, so that no two of them share a GPU while another has none.
            return MORE_THAN_HALF, _part_of(1 - MORE_THAN_HALF, math.ceil(avatars / int(gpus)))
        even = _part(math.ceil((refiners + avatars) / int(gpus)))
        return even, even
    # One is given: the other gets what it would have, or the largest part with which all fit.
    if refine < 0:
        return _largest([reconstruct] * avatars, refiners, 1.0, gpus), reconstruct
    return refine, _largest([refine] * refiners, avatars, RECONSTRUCTION_GPU, gpus)


def _largest(given: list[float], count: int, generous: float, gpus: float) -> float:
    parts = (_part(number) for number in range(round(1 / generous), _MOST + 1))
    return next((part for part in parts if _gpus_for(given + [part] * count) <= gpus), generous)


def _part(number: int) -> float:
    """One of ``number`` parts of a GPU, rounded down to Ray's steps of a ten-thousandth."""
    return 1.0 if number == 1 else _part_of(1.0, number)


def _part_of(whole: float, number: int) -> float:
    """One of ``number`` parts of a share of a GPU, rounded down likewise."""
    return round(whole / number - 5e-5, 4)


def _gpus_for(shares: list[float]) -> int:
    """GPUs that hold these shares, none of them split over two."""
    whole = sum(int(share) for share in shares if share >= 1)
    bins: list[float] = []
    for share in sorted((share for share in shares if 0 < share < 1), reverse=True):
        if not _put(bins, share):
            bins.append(1 - share)
    return whole + len(bins)


def _put(bins: list[float], share: float) -> bool:
    """Take ``share`` out of the first bin that has as much."""
    for index, left in enumerate(bins):
        if left >= share - 1e-9:
            bins[index] = left - share
            return True
    return False


def _fits(placement: Placement, nodes: Sequence[Room], refiners: int, avatars: int, helpers: int) -> bool:
    """Whether all actors find a place: the largest first, each on the first node with room."""
    actors = [placement.refinement] * refiners + [placement.reconstruction] * avatars
    actors += [{"num_cpus": 1, "num_gpus": 0.0}] * helpers
    cpus = [node.cpus for node in nodes]
    pieces = [[1.0] * int(node.gpus) + ([node.gpus % 1] if node.gpus % 1 else []) for node in nodes]
    for actor in sorted(actors, key=lambda actor: -actor["num_gpus"]):
        for index in range(len(nodes)):
            if cpus[index] >= actor["num_cpus"] and _take(pieces[index], actor["num_gpus"]):
                cpus[index] -= actor["num_cpus"]
                break
        else:
            return False
    return True


def _take(pieces: list[float], share: float) -> bool:
    if share <= 1:
        return share == 0 or _put(pieces, share)
    whole = [index for index, left in enumerate(pieces) if left == 1][: int(share)]
    if len(whole) < share:
        return False
    for index in whole:
        pieces[index] = 0.0
    return True


def _prefer(nodes: Sequence[Mapping[str, str]], *wishes: dict[str, str]) -> dict[str, Any]:
    """Options that ask for nodes as in the first wish, and fall back to the next, in the end to any.

    Ray turns to a fallback also while the nodes before it are full. Without one, an actor whose nodes are gone would
    wait for ever.
    """
    # A labelled head belongs to a cluster that starts labelled nodes on demand: it has to hear what is wished for.
    grows = any(node.get("role") == HEAD for node in nodes)
    kept = [wish for wish in wishes if grows or any(_meets(node, wish) for node in nodes)]
    if not kept or (not grows and all(_meets(node, kept[0]) for node in nodes)):
        return {}
    return {"label_selector": kept[0], "fallback_strategy": [{"label_selector": wish} for wish in (*kept[1:], {})]}


def _meets(labels: Mapping[str, str], wish: Mapping[str, str]) -> bool:
    return all(
        labels.get(key) != value[1:] if value.startswith("!") else labels.get(key) == value
        for key, value in wish.items()
    )


def _asked(number: int, what: str, options: Mapping[str, Any]) -> str:
    share = f"{options['num_gpus']:g} GPU" if options["num_gpus"] else f"{options['num_cpus']:g} CPU"
    return f"{_many(number, what)} with {share}{' each' if number != 1 else ''}"


def _many(number: float, what: str) -> str:
    return f"{number:g} {what}" if number == 1 else f"{number:g} {what}s"
