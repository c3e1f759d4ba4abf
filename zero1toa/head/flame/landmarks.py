"""MediaPipe's 478 landmarks on a registered mesh."""

from __future__ import annotations

import numpy as np

from zero1toa.head.flame.anatomy import Anatomy, Eye
from zero1toa.head.flame.mesh import Array, Index, nearest_on_mesh
from zero1toa.head.flame.regions import IRIS_RADIUS
from zero1toa.head.flame.registration import N_FACE, Registration

#: Directions of an iris' five landmarks from the pupil: centre, the subject's left, up, right, down.
_IRIS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])


def embed_landmarks(
    vertices: Array, faces: Index, anatomy: Anatomy, registration: Registration
) -> tuple[Index, Array]:
    """Triangles ``[478]`` and barycentric coordinates ``[478, 3]``; the irises' last, the subject's right eye first.

    Args:
        vertices: neutral mesh ``[V, 3]``.
        faces: ``[F, 3]``.
        anatomy: what was found on it.
        registration: the canonical skin, whose first 468 vertices are the landmarks, on this mesh.
    """
    outer = np.flatnonzero(anatomy.outer)
    found, weights = nearest_on_mesh(registration.points[:N_FACE], vertices, faces[outer])
    triangles, barycentric = [outer[found]], [weights]
    for eye in (anatomy.eyes[1], anatomy.eyes[0]):
        ball = np.flatnonzero(np.isin(faces[:, 0], eye.ball))
        found, weights = nearest_on_mesh(_iris_points(eye), vertices, faces[ball])
        triangles.append(ball[found])
        barycentric.append(weights)
    return np.concatenate(triangles), np.concatenate(barycentric)


def _iris_points(eye: Eye) -> Array:
    rim = min(IRIS_RADIUS / eye.radius, 0.8)
    share = np.linalg.norm(_IRIS, axis=1, keepdims=True)
    direction = rim * _IRIS + np.sqrt(1 - (rim * share) ** 2) * np.array([0.0, 0.0, 1.0])
    return eye.center + eye.radius * direction
