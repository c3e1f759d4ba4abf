"""The neutral face: 478 landmarks measured on drawn faces, aligned, averaged, made symmetric and scaled to life."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from zero1toa.head.sculpt.drawing import draw, random_face
from zero1toa.head.sculpt.topology import LEFT_IRIS, N_FACE, RIGHT_IRIS, face_triangles, mirror_map, outward

IPD = 63.0  # adult mean, millimetres


@dataclasses.dataclass(frozen=True)
class Template:
    """The measured mean face.

    Attributes:
        points: 478 landmarks ``[478, 3]`` in millimetres: +x subject's left, +y up, +z out of the face.
        faces: ``[852, 3]`` wound outwards, over the first 468 points.
        mirror: mirror partner of every landmark ``[478]``.
        spread: standard deviation per landmark over the drawings ``[478]`` in millimetres.
    """

    points: NDArray[np.float64]
    faces: NDArray[np.int64]
    mirror: NDArray[np.int64]
    spread: NDArray[np.float64]


def detect(image: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """MediaPipe's 478 landmarks ``[478, 3]`` in pixels of a square picture, y down, z away from the camera."""
    return _Detector.get()(image)


class _Detector:
    """The detector takes a second to start, so one is kept."""

    _instance: _Detector | None = None

    def __init__(self) -> None:
        import mediapipe

        self._mesh = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.3
        )

    @classmethod
    def get(cls) -> _Detector:
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        found = self._mesh.process(np.ascontiguousarray(image)).multi_face_landmarks
        if not found:
            return None
        height, width = image.shape[:2]
        return np.array([(p.x * width, p.y * height, p.z * width) for p in found[0].landmark])


def measure(drawings: int, generator: np.random.Generator) -> Template:
    """Measure the template on ``drawings`` random faces.

    Raises:
        RuntimeError: when fewer than nine tenths of the drawings are detected.
    """
    clouds = []
    for _ in range(drawings):
        found = detect(draw(random_face(generator)))
        if found is not None:
            clouds.append(found * np.array([1.0, -1.0, -1.0]))
    if len(clouds) < 0.9 * drawings:
        raise RuntimeError(f"only {len(clouds)} of {drawings} drawn faces were detected")
    stack = np.stack([_scaled(c) for c in clouds])
    mean = stack[0]
    for _ in range(5):
        stack = np.stack([_align(c, mean) for c in stack])
        mean = stack.mean(0)
    face_mirror = mirror_map(mean[:N_FACE])
    mirror = np.concatenate([face_mirror, _iris_mirror()])
    for _ in range(5):
        reflected = (mean * np.array([-1.0, 1.0, 1.0]))[mirror]
        mean = 0.5 * (mean + _align(reflected, mean))
        mean = _centred(mean, mirror)
    points = _scaled(mean)
    points = 0.5 * (points + (points * np.array([-1.0, 1.0, 1.0]))[mirror])
    aligned = np.stack([_align(c, points) for c in stack])
    spread = np.linalg.norm(aligned - points, axis=-1).std(0)
    return Template(points, outward(points, face_triangles()), mirror, spread)


def _iris_mirror() -> NDArray[np.int64]:
    """Centre, outer or inner, top and bottom points of one iris and of the other: 469/476 and 471/474 are partners."""
    right = [LEFT_IRIS + i for i in (0, 3, 2, 1, 4)]
    left = [RIGHT_IRIS + i for i in (0, 3, 2, 1, 4)]
    return np.array(right + left, dtype=np.int64)


def _scaled(points: NDArray[np.float64]) -> NDArray[np.float64]:
    ipd = np.linalg.norm(points[LEFT_IRIS] - points[RIGHT_IRIS])
    return (points - points[:N_FACE].mean(0)) * (IPD / ipd)


def _align(points: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate, scale and move ``points`` onto ``target`` (orthogonal Procrustes over the 468 face points)."""
    p, q = points - points[:N_FACE].mean(0), target - target[:N_FACE].mean(0)
    u, s, vt = np.linalg.svd(p[:N_FACE].T @ q[:N_FACE])
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * flip) @ vt
    scale = (s * flip).sum() / (p[:N_FACE] ** 2).sum()
    return scale * p @ rotation + target[:N_FACE].mean(0)


def _centred(points: NDArray[np.float64], mirror: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn the cloud so that its mirror plane is x = 0; only yaw and roll change."""
    axis = (points - points[mirror])[points[:, 0] - points[mirror][:, 0] > 1].mean(0)
    axis /= np.linalg.norm(axis)
    z = np.array([0.0, 0.0, 1.0]) - axis * axis[2]
    z /= np.linalg.norm(z)
    turned = points @ np.stack([axis, np.cross(z, axis), z], axis=1)
    mid = 0.5 * (turned + turned[mirror]).mean(0)
    return turned - np.array([mid[0], 0.0, 0.0])
