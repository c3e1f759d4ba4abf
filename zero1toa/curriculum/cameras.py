"""Cameras of the curriculum: drawn once per clip, front to side or fixed (paper sec. 4.2 and 4.3).

The paper draws distance and field of view independently, which crops the head in a large share of the draws and leaves
a landmark-driven diffusion model without a face. Here the field of view and the *fill* (head height over frame height)
are drawn, and the distance follows.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from zero1toa.config import CurriculumConfig
from zero1toa.render.cameras import distance_for_fill, intrinsics, orbit


@dataclasses.dataclass(frozen=True)
class Lens:
    """Field of view and distance of a clip's camera.

    Attributes:
        fovy: vertical field of view in degrees.
        distance: distance to the orbited point in metres.
    """

    fovy: float
    distance: float


def draw_lens(rng: np.random.Generator, config: CurriculumConfig, head_height: float) -> Lens:
    """Draw field of view and fill uniformly and derive the distance.

    Args:
        rng: source of the draw; two numbers are taken.
        config: ranges ``fovy`` (degrees) and ``fill``.
        head_height: height of head and visible neck in metres.
    """
    fovy = float(rng.uniform(*config.fovy))
    fill = float(rng.uniform(*config.fill))
    return Lens(fovy, float(distance_for_fill(head_height, fill, fovy)))


def path(
    azimuths: NDArray[np.floating],
    elevations: NDArray[np.floating],
    lens: Lens,
    center: torch.Tensor,
    size: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cameras on a sphere that look at its centre.

    Args:
        azimuths: ``[T]`` in degrees, 0 in front (+z), positive towards the subject's left (+x).
        elevations: ``[T]`` in degrees, positive up.
        lens: field of view and radius.
        center: the orbited point ``[3]`` in metres.
        size: side of the square frames in pixels.

    Returns:
        World-to-camera matrices ``[T, 4, 4]`` (OpenCV, metres) and intrinsics ``[T, 3, 3]`` (pixels), float32.
    """
    angles = [torch.from_numpy(np.asarray(a, np.float64)) for a in (azimuths, elevations)]
    viewmats = orbit(angles[0], angles[1], lens.distance, center.detach().cpu().double())
    K = intrinsics(lens.fovy, size)
    return viewmats.float().numpy(), np.tile(K.numpy(), (len(azimuths), 1, 1))


def front_to_side(azimuth: float, elevation: float, frames: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Angles of a camera that moves evenly from the front (0, 0) to ``(azimuth, elevation)`` at the last frame.

    Args:
        azimuth: last azimuth in degrees.
        elevation: last elevation in degrees.
        frames: length T of the clip.

    Returns:
        Azimuths and elevations ``[T]`` float32 in degrees. A clip of one frame stays in front.
    """
    share = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    return (share * azimuth).astype(np.float32), (share * elevation).astype(np.float32)
