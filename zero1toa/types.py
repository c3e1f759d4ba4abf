"""The records that cross package borders. Arrays are numpy, so that they pass between processes without copies.

Images are ``uint8`` sRGB ``[H, W, 3]``; cameras are OpenCV world-to-camera in metres with intrinsics in pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the dispatcher and the stores know these records, and start in a second because they need no torch
    from zero1toa.head.protocol import HeadParams

Stage = Literal["portrait", "spatial", "temporal_synthetic", "temporal_real"]
STAGES: tuple[Stage, ...] = ("portrait", "spatial", "temporal_synthetic", "temporal_real")


@dataclasses.dataclass(frozen=True, order=True)
class SampleKey:
    """Names one clip of the SymGEN dataset: its stage and a name that is unique in it (``jawOpen-03``)."""

    stage: Stage
    name: str

    def __str__(self) -> str:
        return f"{self.stage}/{self.name}"


@dataclasses.dataclass(frozen=True)
class Portrait:
    """A photo that has become a supervised view of a head.

    Attributes:
        image: carved crop, straight alpha ``[H, W, 4]`` uint8, square.
        landmarks: MediaPipe landmarks in pixels of the crop ``[478, 2]`` float32 (x, y).
        viewmat: world-to-camera ``[4, 4]`` float32; the head stands in its own rest frame.
        K: intrinsics in pixels of the crop ``[3, 3]`` float32.
        params: fitted head with the portrait's own expression (no batch dimension).
        arkit: the portrait's ARKit coefficients ``[52]`` float32.
        residual: mean landmark residual of the fit as a fraction of the face height.
        yaw: head yaw towards the subject's left in degrees, seen from the camera.
        notes: fallbacks that were used, one line each.
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    viewmat: NDArray[np.float32]
    K: NDArray[np.float32]
    params: HeadParams
    arkit: NDArray[np.float32]
    residual: float
    yaw: float
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Side of the square crop in pixels."""
        return int(self.image.shape[0])


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """What a clip shows: cameras and head parameters of T frames. It never changes; only its pictures do.

    Attributes:
        key: the sample this is.
        viewmats: ``[T, 4, 4]`` float32 world-to-camera.
        Ks: ``[T, 3, 3]`` float32 in pixels of a ``size`` x ``size`` image.
        size: side of the square frames in pixels.
        expression: ``[T, E]`` float32.
        jaw: ``[T, 3]`` float32.
        neck: ``[T, 3]`` float32.
        eyes: ``[T, 2, 3]`` float32.
        lids: ``[T, 2]`` float32.
        azimuths: camera azimuth of each frame in degrees ``[T]`` float32, 0 in front, + towards the subject's left.
        arkit: ARKit coefficients ``[T, 52]`` float32 that expression, jaw, eyes and lids were made of; None where they
            come from a recording in the head model's own coefficients.
    """

    key: SampleKey
    viewmats: NDArray[np.float32]
    Ks: NDArray[np.float32]
    size: int
    expression: NDArray[np.float32]
    jaw: NDArray[np.float32]
    neck: NDArray[np.float32]
    eyes: NDArray[np.float32]
    lids: NDArray[np.float32]
    azimuths: NDArray[np.float32]
    arkit: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return int(self.viewmats.shape[0])


@dataclasses.dataclass(frozen=True)
class Clip:
    """One version of a sample: its specification and its pictures.

    Attributes:
        spec: cameras and expressions.
        frames: ``[T, H, W, 3]`` uint8 on the configured background.
        version: 0 for the first render, +1 per refinement.
    """

    spec: ClipSpec
    frames: NDArray[np.uint8]
    version: int


@dataclasses.dataclass(frozen=True)
class LandmarkTrack:
    """478 MediaPipe landmarks per frame, from a detector or from the projected head mesh.

    Attributes:
        points: ``[T, 478, 2]`` float32, x and y as fractions of width and height.
        valid: ``[T]`` bool; frames without landmarks draw an empty map.
        projected: ``[T]`` bool; True where the head model's own landmarks stand in for a failed detection.
    """

    points: NDArray[np.float32]
    valid: NDArray[np.bool_]
    projected: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class RefineRequest:
    """One clip to be refined (paper sec. 4.1: invert the render, denoise it under its landmarks).

    Attributes:
        avatar: avatar id.
        key: the sample.
        base_version: version the dataset had when the render was made; the commit makes ``base_version + 1``.
        render_step: training iteration at which the clip was rendered.
        epoch: stage counter; a request from an older stage is refused.
        frames: render ``[T, H, W, 3]`` uint8.
        landmarks: landmarks of the render.
        unlocked: number of leading frames whose camera or expression the curriculum has unlocked.
        backbone: backbone name, part of the identity of the request.
        seed: seed of the clip's noise, independent of which worker runs it.
    """

    avatar: str
    key: SampleKey
    base_version: int
    render_step: int
    epoch: int
    frames: NDArray[np.uint8]
    landmarks: LandmarkTrack
    unlocked: int
    backbone: str
    seed: int

    @property
    def request_id(self) -> str:
        """Deterministic id: the same request made twice has the same id, so that a repeated commit is harmless."""
        fields: list[Any] = [self.avatar, str(self.key), self.base_version, self.epoch, self.backbone, self.seed]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:24]


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What the store answers to a commit.

    Attributes:
        request_id: the request that was committed.
        key: the sample.
        version: version the dataset now has.
        sequence: position in the avatar's commit log, for replay.
        status: ``committed``; ``duplicate`` (this id was committed before); ``superseded`` (another commit came
            first); ``expired`` (too old for the staleness policy or from an older epoch).
        seconds: refinement time by phase (encode, invert, denoise, decode, wait).
    """

    request_id: str
    key: SampleKey
    version: int
    sequence: int
    status: Literal["committed", "duplicate", "superseded", "expired"]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
