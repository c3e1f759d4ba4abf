"""The records that pass between the actors."""

from __future__ import annotations

import dataclasses
from typing import Literal

from zero1toa.storage import Storage
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.types import Portrait, RefineRequest


@dataclasses.dataclass(frozen=True)
class Job:
    """One avatar to be generated.

    Attributes:
        portrait: carved and fitted portrait.
        output: output folder, on storage that all machines reach.
    """

    portrait: Portrait
    output: Storage


@dataclasses.dataclass(frozen=True)
class DatasetRef:
    """Names a dataset store. It goes along with every call, so that a restarted store actor needs no memory.

    Attributes:
        avatar: avatar id.
        root: folder of the store.
        policy: bounds on staleness.
    """

    avatar: str
    root: Storage
    policy: StalenessPolicy


@dataclasses.dataclass(frozen=True)
class Order:
    """A request with the dataset that its answer goes to."""

    request: RefineRequest
    dataset: DatasetRef


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the dispatcher tells a worker that asks for work.

    Attributes:
        kind: ``work`` with an order; ``idle``: ask again; ``closed``: there will be no more.
        order: the order.
    """

    kind: Literal["work", "idle", "closed"]
    order: Order | None = None
