"""The records that pass between the actors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zero1toa.config import Config
from zero1toa.storage import Storage
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.types import Portrait, RefineRequest


@dataclasses.dataclass(frozen=True)
class Job:
    """One avatar to be generated.

    Attributes:
        portrait: carved and fitted portrait.
        output: output folder, on storage that all machines reach.
        config: the configuration, or None for that of all jobs.
        measured: whether the trainer measures the avatar and makes its thumbnail when it is done.
        tracked: whether the trainer keeps a log and a W&B run of the avatar; else the driver hears every event.
    """

    portrait: Portrait
    output: Storage
    config: Config | None = None
    measured: bool = False
    tracked: bool = False


@dataclasses.dataclass(frozen=True)
class DatasetRef:
    """Names a dataset store. It goes along with every call, so that a restarted store actor needs no memory.

    Attributes:
        avatar: avatar id.
        root: folder of the store.
        policy: bounds on staleness.
        writer: number of the store actor that writes it.
    """

    avatar: str
    root: Storage
    policy: StalenessPolicy
    writer: int = 0


@dataclasses.dataclass(frozen=True)
class Order:
    """A request as the dispatcher knows it: what it must know to hand it on, and no pictures.

    Attributes:
        request_id: the request's id.
        dataset: the dataset that the answer goes to.
        shape: shape of the clip; only clips of one shape are served together.
        payload: the request itself, in the avatar's part of the object store. Wrapped in a tuple, so that Ray hands
            on the reference and not what it refers to.
    """

    request_id: str
    dataset: DatasetRef
    shape: tuple[int, ...]
    payload: tuple[Any]

    @property
    def avatar(self) -> str:
        """The avatar that waits for the answer."""
        return self.dataset.avatar


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the dispatcher tells a worker that asks for work.

    Attributes:
        kind: ``work`` with orders; ``idle``: ask again; ``closed``: there will be no more.
        orders: what to serve, in one go.
    """

    kind: Literal["work", "idle", "closed"]
    orders: tuple[Order, ...] = ()


@dataclasses.dataclass(frozen=True)
class Refined:
    """A refined clip on its way to the dataset: one object, since Ray stores each large argument by itself.

    Attributes:
        request: what was refined, with the render.
        frames: refined pictures ``[T, H, W, 3]`` uint8.
        seconds: refinement time by phase.
    """

    request: RefineRequest
    frames: NDArray[np.uint8]
    seconds: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Served:
    """What a refiner did before there was no more work.

    Attributes:
        clips: clips refined.
        peak_memory: most memory that it held at a time, bytes: what torch allocated on its GPU, else its process.
        on_gpu: whether that is a GPU's memory.
    """

    clips: int
    peak_memory: int
    on_gpu: bool


@dataclasses.dataclass(frozen=True)
class Load:
    """How busy the refiners are.

    Attributes:
        waiting: requests that wait for a refiner.
        leased: requests in work.
        handed: requests handed to refiners so far, each time that one was.
        worked: seconds that refiners have had work, summed over them since they first asked for some.
        present: seconds since they first asked, summed over them.
        expired: leases that ran out.
        poisoned: requests that were given up.
    """

    waiting: int
    leased: int
    handed: int
    worked: float
    present: float
    expired: int
    poisoned: int
