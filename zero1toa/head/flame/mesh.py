"""Questions to a triangle mesh: its connected parts, the nearest place on it, what is seen of it from in front."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from zero1toa.head.preview import render

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

_CANDIDATES = 24
_TURNED = 0.005  # metres that a triangle at right angles to a point's normal counts as farther away
_VIEWS = tuple((azimuth, elevation) for azimuth in (-40, -20, 0, 20, 40) for elevation in (-25, 0, 25))
_VIEW_SIZE = 1024


def parts(faces: Index, n_vertices: int) -> Index:
    """Connected part of every vertex ``[V]``, numbered from 0; vertices without triangles get parts of their own."""
    a, b = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    graph = sp.coo_matrix((np.ones(len(a)), (a, b)), shape=(n_vertices, n_vertices))
    return connected_components(graph, directed=False)[1]


def face_parts(faces: Index, chosen: Mask) -> Index:
    """Part of every triangle ``[F]`` among the chosen ones, neighbours across an edge being connected; -1 elsewhere."""
    ids = np.flatnonzero(chosen)
    if not len(ids):
        return np.full(len(faces), -1)
    edges = np.sort(np.stack([faces[ids], np.roll(faces[ids], -1, axis=1)], -1).reshape(-1, 2), axis=1)
    _, edge = np.unique(edges, axis=0, return_inverse=True)
    owner = np.repeat(np.arange(len(ids)), 3)
    incidence = sp.coo_matrix((np.ones(len(owner)), (owner, edge.ravel()))).tocsr()
    out = np.full(len(faces), -1)
    out[ids] = connected_components(incidence @ incidence.T, directed=False)[1]
    return out


def face_normals(vertices: Array, faces: Index) -> Array:
    """Unit normals ``[F, 3]``."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)


def nearest_on_mesh(points: Array, vertices: Array, faces: Index, normals: Array | None = None) -> tuple[Index, Array]:
    """Nearest place on a mesh for each point.

    Args:
        points: ``[N, 3]``.
        vertices: ``[V, 3]``.
        faces: ``[F, 3]``.
        normals: of the surface that the points come from ``[N, 3]``; triangles that face another way count as farther,
            so that a point of one lip is not found on the other lip that touches it.

    Returns:
        Triangle ``[N]`` and barycentric coordinates ``[N, 3]``. The triangle is the nearest of the 24 whose middles
        are nearest, which is exact on meshes without needles.
    """
    corners = vertices[faces]
    _, near = cKDTree(corners.mean(1)).query(points, k=min(_CANDIDATES, len(faces)))
    near = near.reshape(len(points), -1)
    weights = _nearest_on_triangles(points[:, None], corners[near])
    place = (weights[..., None] * corners[near]).sum(-2)
    away = np.linalg.norm(place - points[:, None], axis=-1)
    if normals is not None:
        away += _TURNED * (1 - (face_normals(vertices, faces)[near] * normals[:, None]).sum(-1))
    best = away.argmin(1)
    rows = np.arange(len(points))
    return near[rows, best], weights[rows, best]


def _nearest_on_triangles(points: Array, corners: Array) -> Array:
    """Barycentric coordinates ``[..., 3]`` of the place on each triangle ``[..., 3, 3]`` nearest to a point."""
    a, b, c = (corners[..., i, :] for i in range(3))
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    area = np.maximum(uu * vv - uv * uv, 1e-30)
    s, t = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    inside = np.stack([1 - s - t, s, t], -1)
    best, least = inside, np.where((inside >= 0).all(-1), 0.0, np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        p, q = corners[..., i, :], corners[..., j, :]
        along = ((points - p) * (q - p)).sum(-1) / np.maximum(((q - p) ** 2).sum(-1), 1e-30)
        along = np.clip(along, 0, 1)
        away = np.linalg.norm(points - p - along[..., None] * (q - p), axis=-1)
        weights = np.zeros_like(inside)
        weights[..., i], weights[..., j] = 1 - along, along
        closer = away < least
        best = np.where(closer[..., None], weights, best)
        least = np.where(closer, away, least)
    return best


def seen_from_front(vertices: Array, faces: Index, center: Array, extent: float) -> Mask:
    """Triangles ``[F]`` whose outer side shows from at least one of fifteen directions in front.

    Args:
        vertices: ``[V, 3]`` metres, facing +z.
        faces: ``[F, 3]``.
        center: middle of the pictures ``[3]``.
        extent: metres that the pictures span.
    """
    seen = np.zeros(len(faces), bool)
    for azimuth, elevation in _VIEWS:
        picture = render(vertices, faces, azimuth=azimuth, elevation=elevation, size=_VIEW_SIZE, fill=1.0,
                         center=center, extent=extent)  # fmt: skip
        seen[picture.face[(picture.face >= 0) & ~picture.back]] = True
    return seen
