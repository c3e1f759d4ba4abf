"""Operators on a head's skin that depend on its triangles only: Laplacian, normals, mirror images, vertex masks."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree
from torch import Tensor

from zero1toa.head.protocol import HeadModel

Array = NDArray[np.float64]


def vertex_mask(faces: NDArray[np.int64], chosen: NDArray[np.bool_], n_vertices: int) -> NDArray[np.bool_]:
    """Vertices ``[V]`` that belong to at least one of the chosen triangles ``[F]``."""
    mask = np.zeros(n_vertices, bool)
    mask[faces[chosen]] = True
    return mask


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals ``[..., V, 3]``; zero at vertices without triangles."""
    a, b, c = (vertices.index_select(-2, faces[:, i]) for i in range(3))
    area = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for i in range(3):
        total.index_add_(-2, faces[:, i], area)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)


def laplacian(vertices: Array, faces: NDArray[np.int64]) -> tuple[sparse.csr_matrix, Array]:
    """Cotangent Laplacian ``[V, V]`` (positive semi-definite) and the vertices' areas ``[V]``.

    Cotangents are kept within [0.05, 5], so that slivers neither repel nor weld their corners.
    """
    n = len(vertices)
    rows, columns, values = [], [], []
    areas = np.zeros(n)
    for i in range(3):
        at, b, c = faces[:, i], faces[:, (i + 1) % 3], faces[:, (i + 2) % 3]
        u, v = vertices[b] - vertices[at], vertices[c] - vertices[at]
        double_area = np.linalg.norm(np.cross(u, v), axis=1)
        cotangent = np.clip((u * v).sum(1) / np.maximum(double_area, 1e-12), 0.05, 5.0) / 2
        rows += [b, c]
        columns += [c, b]
        values += [cotangent, cotangent]
        np.add.at(areas, at, double_area / 6)
    weights = sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (n, n))
    return sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights, np.maximum(areas, 1e-10)


def hollowness(vertices: Array, faces: NDArray[np.int64], chosen: NDArray[np.bool_], size: float = 0.006) -> Array:
    """How hollow the surface is at each vertex ``[V]``, 0 (flat or bulging) to 1, at details of about ``size`` metres.

    A point of a hollow lies below the mean of its surroundings, which light from all sides reaches less. Vertices
    outside of the ``chosen`` triangles ``[F]`` get 0.
    """
    ids, own = np.unique(faces[chosen], return_inverse=True)
    result = np.zeros(len(vertices))
    if not len(ids):
        return result
    own, points = own.reshape(-1, 3), vertices[ids]
    L, area = laplacian(points, own)
    around = spsolve((sparse.diags(area) + size**2 * L).tocsc(), area[:, None] * points)
    normals = vertex_normals(torch.from_numpy(points), torch.from_numpy(own)).numpy()
    result[ids] = np.clip(((around - points) * normals).sum(1) / (0.35 * size), 0, 1)
    return result


def mirror(points: Array, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each point, the one of the same group that lies nearest to its mirror image in the plane x = 0.

    Args:
        points: ``[P, 3]`` of a symmetric shape, metres.
        groups: ``[P]``; left and right parts share a group.

    Returns:
        Indices ``[P]``.
    """
    result = np.arange(len(points))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        _, nearest = cKDTree(points[members]).query(points[members] * [-1.0, 1.0, 1.0])
        result[members] = members[nearest]
    return result


@dataclasses.dataclass(frozen=True)
class Skin:
    """The outer skin of a head: face, scalp and neck, without eyes, mouth and ears.

    Attributes:
        ids: its vertices in the head ``[P]``.
        faces: its triangles in its own numbering ``[Q, 3]``.
        chosen: its triangles in the head ``[F]`` bool.
    """

    ids: NDArray[np.int64]
    faces: NDArray[np.int64]
    chosen: NDArray[np.bool_]

    @classmethod
    def of(cls, head: HeadModel) -> Skin:
        """The skin of ``head``."""
        chosen = (head.regions["face"] | head.regions["scalp"] | head.regions["neck"]).cpu().numpy()
        faces = head.faces.cpu().numpy()[chosen]
        ids, own = np.unique(faces, return_inverse=True)
        return cls(ids, own.reshape(-1, 3), chosen)
