"""Connectivity of the detector's face mesh: triangles, boundary loops and the mirror image of every vertex."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

N_FACE = 468
RIGHT_IRIS, LEFT_IRIS = 468, 473
FOREHEAD = 10
UPPER_LIP, LOWER_LIP = 13, 14  # middles of the lips' free edges
EYE_RIGHT_OUTER, EYE_RIGHT_INNER = 33, 133
EYE_LEFT_OUTER, EYE_LEFT_INNER = 263, 362


def face_triangles() -> NDArray[np.int64]:
    """The 852 triangles of MediaPipe's tessellation, in its own order ``[852, 3]``.

    The detector's table lists the edges three in a row per triangle; the older frozenset of edges has lost that order.
    """
    from mediapipe.tasks.python.vision.face_landmarker import FaceLandmarksConnections

    edges = FaceLandmarksConnections.FACE_LANDMARKS_TESSELATION
    pairs = np.array([(e.start, e.end) for e in edges], dtype=np.int64).reshape(-1, 3, 2)
    triangles = np.stack([pairs[:, 0, 0], pairs[:, 1, 0], pairs[:, 2, 0]], axis=1)
    for triangle, triple in zip(triangles, pairs, strict=True):
        if {int(v) for v in triple.ravel()} != {int(v) for v in triangle}:
            raise RuntimeError("the detector's tessellation is no longer listed triangle by triangle")
    return triangles


def boundary_loops(faces: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Boundary loops of a consistently wound mesh, each in the direction of its faces, longest first."""
    directed = {(int(a), int(b)) for f in faces for a, b in zip(f, np.roll(f, -1), strict=True)}
    following = {a: b for a, b in directed if (b, a) not in directed}
    loops = []
    while following:
        start = min(following)
        loop = [start]
        while (nxt := following.pop(loop[-1])) != start:
            loop.append(nxt)
        loops.append(np.array(loop, dtype=np.int64))
    return sorted(loops, key=len, reverse=True)


def mirror_map(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Vertex that each vertex becomes under x -> -x, from a nearly symmetric cloud ``[N, 3]``.

    Raises:
        RuntimeError: when the cloud is not symmetric: a point is far from its partner's mirror image, or is not its
            partner's partner.
    """
    reflected = points * np.array([-1.0, 1.0, 1.0])
    _, partner = linear_sum_assignment(cdist(reflected, points) ** 2)
    farthest = np.linalg.norm(reflected - points[partner], axis=1).max()
    if farthest > 0.05 * np.ptp(points, axis=0).max() or not np.array_equal(partner[partner], np.arange(len(points))):
        raise RuntimeError("the template is too asymmetric for a mirror map")
    return partner


def outward(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Wind an open face disc so that most of its area looks along +z."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    return faces if np.cross(b - a, c - a)[:, 2].sum() > 0 else faces[:, [0, 2, 1]]
