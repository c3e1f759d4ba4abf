"""One person's motion in another's geometry: where the animators would draw the landmarks of a driving clip.

Landmarks of renders of the avatar itself need none of this. A driving video of somebody else does, and each animator
was released with its own way; all start from MediaPipe's detections with its metric face mesh.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from zero1toa.diffusion.animator.drawing import (
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LEFT_BROW,
    LEFT_EYE,
    LEFT_IRIS,
    OUTER_LOWER_LIP,
    OUTER_UPPER_LIP,
    RIGHT_BROW,
    RIGHT_EYE,
    RIGHT_IRIS,
    Chain,
)

Floats = NDArray[np.float64]
_FOVY = 63.0  # degrees, of MediaPipe's face geometry
_MESH = 468  # landmarks in the mesh; the ten after them are irises
_RIGHT_IRIS, _LEFT_IRIS = range(RIGHT_IRIS, LEFT_IRIS), range(LEFT_IRIS, 478)


def _points(chains: Sequence[Chain]) -> list[int]:
    return sorted({point for chain in chains for point in chain})


_EYES = _points((*LEFT_EYE, *RIGHT_EYE))
_LIPS = (*OUTER_LOWER_LIP, *INNER_LOWER_LIP, *OUTER_UPPER_LIP, *INNER_UPPER_LIP)
_REGIONS: tuple[list[int], ...] = (
    [*_points(LEFT_EYE), LEFT_IRIS],
    [*_points(RIGHT_EYE), RIGHT_IRIS],
    _points([chain for line in _LIPS for chain in line.chains]),
    [1, 4, 5, 44, 45, 51, 220, 274, 275, 281, 440],  # the tip of the nose
    _points(LEFT_BROW),
    _points(RIGHT_BROW),
)


@dataclasses.dataclass(frozen=True)
class FaceTrack:
    """Detections of a face in T frames.

    Attributes:
        landmarks: ``[T, 478, 3]``, x and y as fractions of width and height.
        mesh: MediaPipe's metric mesh in its canonical pose ``[T, 468, 3]``, centimetres, +y up, looking along +z.
        poses: mesh to camera ``[T, 4, 4]``; the camera looks along -z.
        blendshapes: scores without the neutral one ``[T, 51]``.
    """

    landmarks: Floats
    mesh: Floats
    poses: Floats
    blendshapes: Floats

    @property
    def neutral(self) -> int:
        """The frame with the least expression."""
        return int(self.blendshapes.sum(1).argmin())


def project(points: Floats, poses: Floats, width: int, height: int) -> Floats:
    """Pixel positions ``[T, n, 2]`` of points ``[T, n, 3]`` under poses ``[T, 4, 4]``, in MediaPipe's camera."""
    camera = np.einsum("tij,tnj->tni", poses[:, :3, :3], points) + poses[:, None, :3, 3]
    focal = height / 2 / np.tan(np.radians(_FOVY) / 2)
    return np.array([width, height]) / 2 + focal * camera[..., :2] * (1, -1) / -camera[..., 2:]


def transfer_expression(driver: FaceTrack, portrait: FaceTrack, width: int, height: int, smoothing: int = 1) -> Floats:
    """Add the driver's change from its neutral frame to the portrait's mesh (Follow-Your-Emoji and AniPortrait).

    Args:
        driver: T frames.
        portrait: one frame.
        width: of the picture in pixels.
        height: of the picture in pixels.
        smoothing: frames in the centred window over which poses are averaged: 1 for Follow-Your-Emoji, 3 for
            AniPortrait. The original Follow-Your-Emoji also drops the first frame, AniPortrait does not.

    Returns:
        Pixel positions of the mesh ``[T, 468, 2]``.
    """
    mesh = driver.mesh - driver.mesh[driver.neutral] + portrait.mesh[0]
    angles = Rotation.from_matrix(driver.poses[:, :3, :3]).as_euler("xyz", degrees=True)
    places = driver.poses[:, :3, 3] - driver.poses[0, :3, 3] + portrait.poses[0, :3, 3]
    poses = np.tile(np.eye(4), (len(mesh), 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("xyz", _average(angles, smoothing // 2), degrees=True).as_matrix()
    poses[:, :3, 3] = _average(places, smoothing // 2)
    return project(mesh, poses, width, height)


def place_irises(vertices: Floats, driver: FaceTrack) -> Floats:
    """Append the irises that the mesh lacks (Follow-Your-Emoji).

    Each keeps its place in the bounding box of its eye, from the driver's picture to the projected eye.

    Args:
        vertices: pixel positions of the mesh ``[T, 468, 2]``.
        driver: the same frames.

    Returns:
        ``[T, 478, 2]``.
    """
    seen = driver.landmarks[..., :2]
    placed = [vertices]
    for eye, iris in ((_points(RIGHT_EYE), _RIGHT_IRIS), (_points(LEFT_EYE), _LEFT_IRIS)):
        low, high = seen[:, eye].min(1, keepdims=True), seen[:, eye].max(1, keepdims=True)
        share = (seen[:, list(iris)] - low) / (high - low)
        low, high = vertices[:, eye].min(1, keepdims=True), vertices[:, eye].max(1, keepdims=True)
        placed.append(low + share * (high - low))
    return np.concatenate(placed, 1)


def synchronise_motion(driver: FaceTrack, portrait: FaceTrack, size: int = 512) -> Floats:
    """Give the driver's eyes, brows, lips and nose the portrait's shape, the rest stays the driver's (EchoMimic).

    Args:
        driver: T frames.
        portrait: one frame.
        size: side of the picture in pixels.

    Returns:
        Pixel positions of mesh and irises ``[T, 478, 2]``.
    """
    whole, shape = _lift_irises(driver), _lift_irises(portrait)[0]
    mean = whole.mean(0)
    aligned = _average(whole, 1)
    smooth = aligned.copy()
    for region in _REGIONS:
        aligned[:, region] = _affine(mean[region], shape[region], smooth[:, region])
    # A mean of matrices, as the original takes it: not quite a rotation.
    motion = _average(driver.poses @ np.linalg.inv(driver.poses[0]), 2)
    return project(aligned, motion @ portrait.poses[0], size, size)


def _average(values: Floats, margin: int) -> Floats:
    """Mean over each frame and ``margin`` frames to either side, as far as there are any."""
    return np.stack([values[max(0, i - margin) : i + margin + 1].mean(0) for i in range(len(values))])


def _lift_irises(track: FaceTrack) -> Floats:
    """The mesh with irises ``[T, 478, 3]``, by the affine map from the seen to the modelled contours of both eyes."""
    lifted = [
        _affine(seen[_EYES], mesh[_EYES], seen[None, _MESH:])[0]
        for seen, mesh in zip(track.landmarks, track.mesh, strict=True)
    ]
    return np.concatenate([track.mesh, np.stack(lifted)], 1)


def _affine(source: Floats, target: Floats, points: Floats) -> Floats:
    """Apply to ``points`` ``[T, n, 3]`` the affine map that best takes ``source`` to ``target``, ``[m, 3]`` each.

    Best is scikit-image's total least squares, which EchoMimic uses; ordinary least squares differ by 0.1 pixels.
    """
    from skimage.transform import estimate_transform

    transform = estimate_transform("affine", source, target).params
    return points @ transform[:3, :3].T + transform[:3, 3]
