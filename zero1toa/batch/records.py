"""The records of a batch: what is asked for each portrait, what triage finds, and what became of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

State = Literal["done", "failed", "rejected", "duplicate"]
"""How a portrait ended: its avatar is made; making it failed; triage refused it; or its photo is another one's."""

Doing = Literal["waiting", "preparing", "training", "finishing"]
"""What is being done with a portrait that has not ended."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One portrait of a batch.

    Attributes:
        id: unique in the batch and safe as a folder's name (letters, digits, ``.``, ``_``, ``-``).
        photo: path or fsspec URL of the image file; with ``member``, of the tar shard that holds it.
        member: name of the image in a webdataset shard, or the empty string.
        overrides: configuration of this portrait as ``key=value``, applied after the batch's own.
    """

    id: str
    photo: str
    member: str = ""
    overrides: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
    """What triage found out about a photo.

    Attributes:
        id: the portrait.
        digest: SHA-256 of the file's bytes, or the empty string where it could not be read.
        width: pixels.
        height: pixels.
        faces: number of faces found.
        face_height: height of the chosen face in pixels of the photo.
        yaw: head yaw in degrees towards the subject's left, estimated.
        seconds: time that it took.
        problem: why no avatar can be made of it, one line; or the empty string.
        thumbnail: small JPEG of the photo, or empty.
    """

    id: str
    digest: str = ""
    width: int = 0
    height: int = 0
    faces: int = 0
    face_height: float = 0.0
    yaw: float = 0.0
    seconds: float = 0.0
    problem: str = ""
    thumbnail: bytes = b""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the ledger: how a portrait ended. It is written once, and never changed.

    Attributes:
        id: the portrait.
        state: how it ended.
        reason: why, in one line; empty for ``done``.
        photo: where its photo came from.
        digest: SHA-256 of the photo's bytes.
        config: digest of the configuration that shaped the avatar.
        attempts: times it was begun, in this job and in earlier ones.
        finished: time of its end, ISO 8601 in UTC.
        job: id of the job that ended it.
        seconds: time by phase: ``triage``, ``prepare``, ``total`` for the generation, the phases of
            :class:`zero1toa.symgen.result.GenerationResult` that it is made of, and ``measure``. Of a failed portrait
            what its events told.
        gpu_seconds: time on GPUs, weighted by the share of a GPU that each actor held.
        metrics: figures by name: ``psnr``, ``ssim``, ``iou`` in the portrait's own view, counts of the loop.
        bundle: where the avatar is, relative to the batch's output; empty unless ``done``.
        thumbnail: where its preview picture is, relative to the batch's output; may be empty.
    """

    id: str
    state: State
    reason: str = ""
    photo: str = ""
    digest: str = ""
    config: str = ""
    attempts: int = 0
    finished: str = ""
    job: str = ""
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    gpu_seconds: float = 0.0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bundle: str = ""
    thumbnail: str = ""


@dataclasses.dataclass(frozen=True)
class Sample:
    """How a batch was doing at one moment: a point of its curves.

    Attributes:
        seconds: since the job began.
        waiting: portraits not begun.
        preparing: portraits whose head is being fitted.
        training: avatars in work.
        finishing: avatars being measured.
        done: avatars made, earlier jobs included.
        failed: portraits that failed, were rejected, or are duplicates.
        queue: refinement requests that wait for a refiner.
        busy: share of the refiners' time spent on clips since the last sample, 0 to 1.
        clips: clips refined in this job so far.
        iterations: training iterations of all avatars in this job so far.
        age: mean age in iterations of the clips committed since the last sample.
    """

    seconds: float
    waiting: int = 0
    preparing: int = 0
    training: int = 0
    finishing: int = 0
    done: int = 0
    failed: int = 0
    queue: int = 0
    busy: float = 0.0
    clips: int = 0
    iterations: int = 0
    age: float = 0.0
