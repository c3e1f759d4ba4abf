"""Where eyes, lids and mouth are on a head mesh, found from its connectivity and from what hides what.

Eyeballs are connected parts of their own. Lids and lips turn inwards: their inner side is not seen from in front while
eyes are open and the mouth is closed, and where it begins is the lids' margin and the lips' seam.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra

from zero1toa.errors import HeadModelError
from zero1toa.head.flame.mesh import Array, Index, Mask, face_parts, parts, seen_from_front
from zero1toa.head.sculpt.geometry import edge_graph
from zero1toa.head.sculpt.topology import boundary_loops

_ROUND = 0.12  # largest deviation of an eyeball from a sphere, over its radius
_INSIDE = 0.97  # radii from an eyeball's centre below which a vertex lies inside of it
_SOCKET_REACH = 1.9  # radii around an eyeball in which hidden skin can belong to its socket
_SHORTEST_RIM = 8  # vertices that the margin around an eye has at least
_LINING_REACH = 0.03  # metres around the mouth's opening in which hidden skin can belong to the lips


@dataclasses.dataclass(frozen=True)
class Slit:
    """The two edges that bound an opening, each from one corner to the other.

    Attributes:
        corners: vertex ids of the corners ``[2]``, in the order of the edges.
        upper: vertex ids along the upper edge, with both corners.
        lower: vertex ids along the lower edge, with both corners.
    """

    corners: Index
    upper: Index
    lower: Index


@dataclasses.dataclass(frozen=True)
class Eye:
    """One eyeball and what surrounds it.

    Attributes:
        ball: vertex ids of the eyeball.
        center: ``[3]`` metres.
        radius: mean radius in metres.
        largest: largest distance of its front from the centre, metres (the cornea may bulge).
        socket: hidden skin behind the lids ``[F]`` bool.
        margin: edges of the lids, from the outer to the inner corner.
    """

    ball: Index
    center: Array
    radius: float
    largest: float
    socket: Mask
    margin: Slit


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What :func:`examine` finds.

    Attributes:
        skin: triangles that are no eyeball ``[F]`` bool.
        outer: skin without the inner sides of lids and lips ``[F]`` bool.
        eyes: left and right.
        mouth_loop: boundary loop behind the lips, in the direction of its triangles.
        upper_loop: which vertices of it belong to the upper lip, bool.
        lining: hidden skin behind the lips ``[F]`` bool.
        seam: edges of the lips, from the subject's right corner to the left.
    """

    skin: Mask
    outer: Mask
    eyes: tuple[Eye, Eye]
    mouth_loop: Index
    upper_loop: Mask
    lining: Mask
    seam: Slit


def examine(vertices: Array, faces: Index) -> Anatomy:
    """Find the parts of a head.

    Args:
        vertices: neutral head ``[V, 3]`` in metres, +y up, facing +z, eyes open, mouth closed.
        faces: ``[F, 3]``.

    Raises:
        HeadModelError: when there are no two eyeballs of their own or no opening behind the lips.
    """
    part = parts(faces, len(vertices))
    counts = np.bincount(part)
    largest = int(counts.argmax())
    skin = part[faces[:, 0]] == largest
    balls = [np.flatnonzero(part == p) for p in np.flatnonzero(counts > 50) if p != largest]
    balls.sort(key=lambda ids: -vertices[ids, 0].mean())
    if len(balls) != 2 or not vertices[balls[0], 0].mean() > 0 > vertices[balls[1], 0].mean():
        raise HeadModelError(f"the mesh has {len(balls)} parts beside the skin; expected two eyeballs, left and right")
    centers = [_sphere_center(vertices[ids]) for ids in balls]
    seen = seen_from_front(vertices, faces, np.mean(centers, axis=0) - [0, 0.03, 0], 0.2)
    hidden = skin & ~seen
    loop = _mouth_loop(vertices, faces[skin], np.mean(centers, axis=0))
    upper = _upper_half(vertices, loop)
    lining = _connected(vertices, faces, hidden, vertices[loop].mean(0), _LINING_REACH, loop)
    eyes = tuple(
        _eye(vertices, faces, ids, center, skin, hidden & ~lining, side)
        for ids, center, side in zip(balls, centers, (1.0, -1.0), strict=True)
    )
    outer = skin & ~lining & ~eyes[0].socket & ~eyes[1].socket
    seam = _seam(vertices, faces, outer, lining, loop, upper)
    return Anatomy(skin, outer, (eyes[0], eyes[1]), loop, upper, lining, seam)


def _sphere_center(points: Array) -> Array:
    """Centre of the sphere through points, by linear least squares.

    Raises:
        HeadModelError: when they do not lie on a sphere.
    """
    system = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
    center = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0][:3]
    distance = np.linalg.norm(points - center, axis=1)
    if np.abs(distance / distance.mean() - 1).max() > _ROUND:
        raise HeadModelError("a part of the mesh beside the skin is not round; expected two eyeballs")
    return center


def _mouth_loop(vertices: Array, faces: Index, between_eyes: Array) -> Index:
    loops = [loop for loop in boundary_loops(faces) if len(loop) >= 8]
    below = [
        loop
        for loop in loops
        if abs(vertices[loop, 0].mean() - between_eyes[0]) < 0.01
        and 0.03 < between_eyes[1] - vertices[loop, 1].mean() < 0.11
        and np.ptp(vertices[loop, 0]) < 0.09
    ]
    if len(below) != 1:
        raise HeadModelError(
            f"the mesh has {len(below)} openings below the eyes; expected one behind the lips, as FLAME's has"
        )
    return below[0]


def _upper_half(vertices: Array, loop: Index) -> Mask:
    x = vertices[loop, 0]
    first, last = sorted((int(x.argmin()), int(x.argmax())))
    half = np.zeros(len(loop), bool)
    half[first:last] = True
    y = vertices[loop, 1]
    return half if y[half].mean() > y[~half].mean() else ~half


def _connected(vertices: Array, faces: Index, hidden: Mask, center: Array, reach: float, touching: Index) -> Mask:
    """Hidden triangles near a place that hang together with some vertices."""
    near = hidden & (np.linalg.norm(vertices[faces].mean(1) - center, axis=1) < reach)
    part = face_parts(faces, near)
    wanted = np.unique(part[near & np.isin(faces, touching).any(1)])
    return near & np.isin(part, wanted)


def _eye(vertices: Array, faces: Index, ball: Index, center: Array, skin: Mask, hidden: Mask, side: float) -> Eye:
    distance = np.linalg.norm(vertices[ball] - center, axis=1)
    radius = float(distance.mean())
    front = vertices[ball, 2] > center[2] + 0.5 * radius
    # The inner side of a lid may dip into the eyeball; what shows of such triangles is no margin.
    dipping = (np.linalg.norm(vertices - center, axis=1) < _INSIDE * radius)[faces].any(1) & skin
    hidden = hidden | dipping
    near = np.unique(faces[hidden][(np.linalg.norm(vertices[faces[hidden]] - center, axis=-1) < 1.15 * radius).any(1)])
    socket = _connected(vertices, faces, hidden, center, _SOCKET_REACH * radius, near)
    rim = _border(faces, socket, hidden | socket)
    if len(rim) < _SHORTEST_RIM:  # lids without an inner side end at a boundary of the mesh
        loops = boundary_loops(faces[skin])
        near = [x for x in loops if np.linalg.norm(vertices[x] - center, axis=1).max() < _SOCKET_REACH * radius]
        rim = near[0] if near else rim
    rim = rim[vertices[rim, 2] > center[2]]
    if len(rim) < _SHORTEST_RIM:
        raise HeadModelError("the lids' margins cannot be found on the mesh; expected open eyes with lids around them")
    return Eye(ball, center, radius, float(distance[front].max()), socket, _eye_slit(vertices, rim, side))


def _border(faces: Index, inside: Mask, excluded: Mask) -> Index:
    """Vertices on which triangles of ``inside`` meet triangles that are not ``excluded``."""
    return np.intersect1d(faces[inside], faces[~excluded])


def _eye_slit(vertices: Array, rim: Index, side: float) -> Slit:
    """Split the margin at its corners, outer first; what lies above the line between them is the upper lid's."""
    x = side * vertices[rim, 0]
    outer, inner = int(rim[x.argmax()]), int(rim[x.argmin()])
    start, end = vertices[outer], vertices[inner]
    share = (vertices[rim, 0] - start[0]) / (end[0] - start[0])
    above = vertices[rim, 1] > start[1] + share * (end[1] - start[1])
    corners = np.array([outer, inner])
    body = ~np.isin(rim, corners)
    edges = [np.concatenate([[outer], rim[half & body][np.argsort(share[half & body])], [inner]])
             for half in (above, ~above)]  # fmt: skip
    return Slit(corners, edges[0], edges[1])


def _seam(vertices: Array, faces: Index, outer: Mask, lining: Mask, loop: Index, upper: Mask) -> Slit:
    """Where the lips touch. Both edges may lie in one place, so they are told apart along the surface."""
    border = np.intersect1d(faces[lining], faces[outer])
    if not len(border):
        border = loop
    graph = edge_graph(vertices, faces[outer | lining])
    to_upper, to_lower = (dijkstra(graph, indices=loop[half], min_only=True)[border] for half in (upper, ~upper))
    x = vertices[border, 0]
    corners = np.array([border[x.argmin()], border[x.argmax()]])
    body = ~np.isin(border, corners)
    edges = []
    for half in (to_upper <= to_lower, to_upper > to_lower):
        ids = border[half & body]
        edges.append(np.concatenate([corners[:1], ids[np.argsort(vertices[ids, 0])], corners[1:]]))
    if min(len(edge) for edge in edges) < 5:
        raise HeadModelError("the lips' seam cannot be found on the mesh; expected a closed mouth with two lips")
    return Slit(corners, edges[0], edges[1])


def along(vertices: Array, edge: Index, shares: NDArray[np.floating]) -> tuple[Index, Array]:
    """Places on an edge at shares of its extent between the corners.

    Args:
        vertices: ``[V, 3]``.
        edge: vertex ids from corner to corner, ordered between them.
        shares: ``[K]`` in [0, 1].

    Returns:
        Two vertex ids ``[K, 2]`` and their weights ``[K, 2]``.
    """
    start, end = vertices[edge[0]], vertices[edge[-1]]
    axis = (end - start) / ((end - start) ** 2).sum()
    position = np.clip((vertices[edge] - start) @ axis, 0, 1)
    order = np.argsort(position, kind="stable")
    edge, position = edge[order], position[order]
    right = np.clip(np.searchsorted(position, shares, side="left"), 1, len(edge) - 1)
    span = np.maximum(position[right] - position[right - 1], 1e-9)
    weight = np.clip((shares - position[right - 1]) / span, 0, 1)
    return np.stack([edge[right - 1], edge[right]], -1), np.stack([1 - weight, weight], -1)
