"""Landmarks of a rendered clip: detected as in the paper, with the head's own landmarks where detection fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.config import DiffusionConfig
from zero1toa.errors import AssetError
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import project
from zero1toa.types import LandmarkTrack

Detector = Callable[[NDArray[np.uint8]], LandmarkTrack]
"""Landmarks of frames ``[T, H, W, 3]`` uint8; ``zero1toa.portrait.landmarks.detect_landmarks`` is one."""

_FOREHEAD, _CHIN = 10, 152
_PLAUSIBLE = 0.2  # mean distance to the head's landmarks over the face height; a sound detection stays under 0.05


@dataclasses.dataclass
class LandmarkCounts:
    """How the frames of all requests got their landmarks.

    Attributes:
        detected: frames with detected landmarks.
        projected: frames with the head's own landmarks instead.
        missing: frames without landmarks (the face is behind the camera).
    """

    detected: int = 0
    projected: int = 0
    missing: int = 0

    def shares(self) -> dict[str, float]:
        """Share of each kind among all frames; all 0 without frames."""
        total = max(self.detected + self.projected + self.missing, 1)
        return {name: count / total for name, count in dataclasses.asdict(self).items()}

    def add(self, track: LandmarkTrack) -> None:
        """Count the frames of a track."""
        self.projected += int((track.valid & track.projected).sum())
        self.detected += int((track.valid & ~track.projected).sum())
        self.missing += int((~track.valid).sum())


def choose_detector(config: DiffusionConfig) -> tuple[Detector | None, str]:
    """The detector that the configuration asks for.

    Returns:
        The detector, or None for projected landmarks only; and a line of text if detection was asked for and is not
        available on this machine, else the empty string.
    """
    if config.landmarks == "project" or not config.enabled:
        return None, ""
    from zero1toa.portrait.landmarks import detect_landmarks

    try:
        detect_landmarks(np.full((1, 64, 64, 3), 255, np.uint8))
    except AssetError as error:
        return None, f"landmarks of renders are projected from the head, not detected: {error}"
    return detect_landmarks, ""


def project_landmarks(head: HeadModel, vertices: Tensor, viewmats: Tensor, Ks: Tensor, size: int) -> LandmarkTrack:
    """The head's own landmarks in each frame.

    Args:
        head: the head model.
        vertices: posed vertices ``[T or 1, V, 3]`` in metres.
        viewmats: world-to-camera ``[T, 4, 4]``.
        Ks: intrinsics ``[T, 3, 3]`` in pixels of a ``size`` x ``size`` image.
        size: side of the frames in pixels.

    Returns:
        A track with ``projected`` set throughout; invalid where a landmark lies behind the camera.
    """
    with torch.no_grad():
        pixels, depth = project(head.landmarks.positions(vertices, head.faces), viewmats, Ks)
    points = (pixels / size).float().cpu().numpy()
    valid = (depth > 0).all(-1).cpu().numpy()
    return LandmarkTrack(np.where(valid[:, None, None], points, 0).astype(np.float32), valid, np.ones(len(valid), bool))


def track_landmarks(frames: NDArray[np.uint8], head_track: LandmarkTrack, detector: Detector | None) -> LandmarkTrack:
    """Detected landmarks, or the head's own in frames where nothing was found or what was found cannot be the face.

    A half-trained avatar in side view gives no detection, or one on an ear; guiding the diffusion by it would teach
    the avatar that ear. So a detection counts only if it lies near the landmarks of the head that was rendered.

    Args:
        frames: ``[T, H, W, 3]`` uint8.
        head_track: :func:`project_landmarks` of the same frames.
        detector: finds landmarks; None takes the head's.
    """
    if detector is None:
        return head_track
    found = detector(frames)
    height = np.linalg.norm(head_track.points[:, _FOREHEAD] - head_track.points[:, _CHIN], axis=-1)
    distance = np.linalg.norm(found.points - head_track.points, axis=-1).mean(-1)
    plausible = found.valid & ((distance < _PLAUSIBLE * height) | ~head_track.valid)
    return LandmarkTrack(
        points=np.where(plausible[:, None, None], found.points, head_track.points).astype(np.float32),
        valid=plausible | head_track.valid,
        projected=~plausible,
    )
