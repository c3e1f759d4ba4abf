"""MediaPipe's 478 landmarks on a registered mesh."""

from __future__ import annotations

import numpy as np

from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.flame.anatomy import Anatomy, Eye
from zero1toa.head.flame.mesh import Array, Index, nearest_on_mesh
from zero1toa.head.flame.regions import IRIS_RADIUS
from zero1toa.head.flame.registration import N_FACE, Registration, edge_landmarks
from zero1toa.head.preview import vertex_normals

#: Directions of an iris' five landmarks from the pupil: centre, the subject's left, up, right, down.
_IRIS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])


def embed_landmarks(
    vertices: Array, faces: Index, anatomy: Anatomy, head: CanonicalHead, registration: Registration
) -> tuple[Index, Array]:
    """Triangles ``[478]`` and barycentric coordinates ``[478, 3]``; the irises' last, the subject's right eye first.

    Args:
        vertices: neutral mesh ``[V, 3]``.
        faces: ``[F, 3]``.
        anatomy: what was found on it.
        head: the canonical head.
        registration: the canonical skin, whose first 468 vertices are the landmarks, on this mesh.
    """
    outer = np.flatnonzero(anatomy.outer)
    normals = vertex_normals(registration.points, registration.faces)[:N_FACE]
    found, weights = nearest_on_mesh(registration.points[:N_FACE], vertices, faces[outer], normals)
    on_skin = outer[found]
    # Where two lips touch, nearness does not tell on which one a landmark lies; the edges do.
    for mark, pair, shares in zip(*edge_landmarks(head, vertices, anatomy), strict=True):
        on_skin[mark], weights[mark] = _on_edge(faces, outer, pair, shares)
    triangles, barycentric = [on_skin], [weights]
    for eye in (anatomy.eyes[1], anatomy.eyes[0]):
        ball = np.flatnonzero(np.isin(faces[:, 0], eye.ball))
        found, weights = nearest_on_mesh(_iris_points(eye), vertices, faces[ball])
        triangles.append(ball[found])
        barycentric.append(weights)
    return np.concatenate(triangles), np.concatenate(barycentric)


def _on_edge(faces: Index, chosen: Index, pair: Index, shares: Array) -> tuple[int, Array]:
    """A chosen triangle at two vertices of an edge, or at the nearer one where none has both; barycentric ``[3]``."""
    has = (faces[chosen][:, :, None] == pair).any(1)
    nearer = int(shares.argmax())
    both = np.flatnonzero(has.all(1))
    triangle = int(chosen[both[0] if len(both) else np.flatnonzero(has[:, nearer])[0]])
    kept = shares if len(both) else np.eye(2)[nearer]
    return triangle, ((faces[triangle][:, None] == pair) * kept).sum(1)


def _iris_points(eye: Eye) -> Array:
    rim = min(IRIS_RADIUS / eye.radius, 0.8)
    share = np.linalg.norm(_IRIS, axis=1, keepdims=True)
    direction = rim * _IRIS + np.sqrt(1 - (rim * share) ** 2) * np.array([0.0, 0.0, 1.0])
    return eye.center + eye.radius * direction
