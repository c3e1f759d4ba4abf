"""Discrete differential geometry on triangle meshes: Laplacians, areas, smooth interpolation, splitting."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def vertex_areas(points: Array, faces: Index) -> Array:
    """A third of the area of the adjacent faces ``[V]``."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    out = np.zeros(len(points))
    for i in range(3):
        np.add.at(out, faces[:, i], area)
    return np.maximum(out, 1e-6)


def cotangent_laplacian(points: Array, faces: Index) -> sp.csr_matrix:
    """Positive semi-definite stiffness matrix ``[V, V]``; cotangents are clamped so that slivers do not dominate."""
    n = len(points)
    rows, cols, values = [], [], []
    for i in range(3):
        o, a, b = faces[:, i], faces[:, (i + 1) % 3], faces[:, (i + 2) % 3]
        u, v = points[a] - points[o], points[b] - points[o]
        cotangent = (u * v).sum(1) / np.maximum(np.linalg.norm(np.cross(u, v), axis=1), 1e-9)
        weight = 0.5 * np.clip(cotangent, 0.05, 5.0)
        rows += [a, b]
        cols += [b, a]
        values += [weight, weight]
    adjacency = sp.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=(n, n))
    return (sp.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency).tocsr()


class SmoothInterpolator:
    """Extends values given at some vertices over a mesh with least bending (biharmonic) or least slope (harmonic)."""

    def __init__(self, points: Array, faces: Index, known: Index, harmonic: bool = False) -> None:
        laplacian = cotangent_laplacian(points, faces)
        energy = laplacian if harmonic else laplacian @ sp.diags(1 / vertex_areas(points, faces)) @ laplacian
        energy = energy.tocsr()
        self.known = np.asarray(known)
        self.free = np.setdiff1d(np.arange(len(points)), self.known)
        system = energy[self.free][:, self.free] + 1e-10 * sp.identity(len(self.free))
        self._coupling = energy[self.free][:, self.known]
        self._solver = splu(system.tocsc())

    def __call__(self, values: Array) -> Array:
        """Values at all vertices ``[V, ...]`` from values at the known ones ``[K, ...]``."""
        flat = values.reshape(len(self.known), -1)
        out = np.empty((len(self.known) + len(self.free), flat.shape[1]))
        out[self.known] = flat
        out[self.free] = self._solver.solve(-(self._coupling @ flat))
        return out.reshape(-1, *values.shape[1:])


def edge_graph(points: Array, faces: Index) -> sp.csr_matrix:
    """Symmetric graph of edge lengths ``[V, V]``."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    length = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    graph = sp.csr_matrix((length, (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
    return (graph + graph.T).tocsr()


class Splitter:
    """Splits every triangle into four; new vertices at edge middles, bent outwards by Phong tessellation."""

    def __init__(self, faces: Index, n_vertices: int) -> None:
        edges: dict[tuple[int, int], int] = {}

        def middle(a: int, b: int) -> int:
            return edges.setdefault((min(a, b), max(a, b)), n_vertices + len(edges))

        fine = []
        for a, b, c in faces.tolist():
            ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
            fine += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        self.faces = np.array(fine, dtype=np.int64)
        self.ends = np.array(list(edges), dtype=np.int64)
        self._coarse = faces

    def linear(self, values: Array) -> Array:
        """Values at the fine vertices ``[V + E, ...]``, linear along edges."""
        return np.concatenate([values, 0.5 * (values[self.ends[:, 0]] + values[self.ends[:, 1]])])

    def phong(self, points: Array, strength: float = 0.5) -> Array:
        """Fine vertex positions; the coarse vertices stay where they are, so landmarks on them stay exact."""
        a, b, c = (points[self._coarse[:, i]] for i in range(3))
        face_normals = np.cross(b - a, c - a)
        normals = np.zeros_like(points)
        for i in range(3):
            np.add.at(normals, self._coarse[:, i], face_normals)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        p, q = points[self.ends[:, 0]], points[self.ends[:, 1]]
        n, m = normals[self.ends[:, 0]], normals[self.ends[:, 1]]
        middle = 0.5 * (p + q)
        on_p = middle - ((middle - p) * n).sum(1, keepdims=True) * n
        on_q = middle - ((middle - q) * m).sum(1, keepdims=True) * m
        # The full Phong amount is 0.75 of the tangent-plane average at the middle; strength is its customary factor.
        return np.concatenate([points, middle + strength * (0.5 * (on_p + on_q) - middle)])
