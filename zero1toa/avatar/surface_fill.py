"""Continue colours over the parts of a surface that a picture does not show."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from zero1toa.avatar.surface import Array, laplacian

SMOOTHING = 0.3
"""Weight of the Laplacian beside one fully seen Gaussian: a little smoothing where colours are known."""
TOLERANCE = 1e-4
_CHECK_EVERY = 50


class SurfaceFill:
    """Harmonic continuation: the smoothest values on a mesh that agree with the samples that are known.

    It minimises ``sum_g w_g |x(g) - c_g|^2 + SMOOTHING x^T L x + anchor |x - prior|^2`` over values x at the vertices,
    interpolated linearly at the samples g, with the cotangent Laplacian L: colours spread along the surface, into
    everything that is connected, and the nearest ones weigh most. Parts of a surface that have no vertex in common
    (an ear and the cheek) are joined at their nearest vertices. One instance serves any number of pictures.
    """

    def __init__(self, vertices: Array, faces: np.ndarray, corners: Tensor, weights: Tensor) -> None:
        """Prepare the operator.

        Args:
            vertices: ``[V, 3]`` of the shape on which distances count, metres.
            faces: the triangles over which values spread ``[Q, 3]``.
            corners: vertices of each sample's triangle ``[N, 3]`` int64; a sample outside of ``faces`` takes no part.
            weights: barycentric coordinates of each sample ``[N, 3]``.
        """
        ids, own = np.unique(faces, return_inverse=True)
        own = own.reshape(-1, 3)
        L, _ = laplacian(vertices[ids], own)
        L = L + _bridges(vertices[ids], L)
        index = np.full(int(max(ids.max(), int(corners.max()))) + 1, -1)
        index[ids] = np.arange(len(ids))
        local = torch.from_numpy(index).to(corners.device)[corners]
        self.count = len(ids)
        self.inside = (local >= 0).all(-1)
        self._corners = local.clamp_min(0)
        self._weights = weights * self.inside[:, None]
        csr = (SMOOTHING * L).tocsr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that its CSR tensors are in beta
            self._laplacian = torch.sparse_csr_tensor(
                torch.from_numpy(csr.indptr).long(), torch.from_numpy(csr.indices).long(),
                torch.from_numpy(csr.data).float(), csr.shape, check_invariants=True,
            ).to(weights.device)  # fmt: skip
        self._diagonal = torch.from_numpy((SMOOTHING * L).diagonal()).float().to(weights.device)

    def __call__(
        self, values: Tensor, confidence: Tensor, prior: Tensor, anchor: float = 1e-5, iterations: int = 400
    ) -> Tensor:
        """Fill one field per picture.

        Args:
            values: what is known at the samples ``[I, N, D]``.
            confidence: how well it is known ``[I, N]``, 0 for not at all.
            prior: value of parts in which nothing is known ``[I, D]``.
            anchor: pull towards the prior.
            iterations: most conjugate gradient steps.

        Returns:
            The field at all samples ``[I, N, D]``; zero at samples outside of the surface.
        """
        pictures, channels = values.shape[0], values.shape[2]
        spread = (confidence[..., None] * self._weights).transpose(0, 1)  # [N, I, 3]
        mass = values.new_zeros(self.count, pictures)
        right = values.new_zeros(self.count, pictures, channels)
        for k in range(3):
            mass.index_add_(0, self._corners[:, k], spread[..., k])
            right.index_add_(0, self._corners[:, k], spread[..., k, None] * values.transpose(0, 1))
        mass = (mass + anchor)[..., None]
        right = right + anchor * prior
        x = self._solve(mass, right, prior.expand(self.count, pictures, channels), iterations)
        filled = sum(x[self._corners[:, k]] * self._weights[:, k, None, None] for k in range(3))
        assert isinstance(filled, Tensor)
        return filled.transpose(0, 1)

    def _solve(self, mass: Tensor, right: Tensor, start: Tensor, iterations: int) -> Tensor:
        """Conjugate gradients with a diagonal preconditioner, all pictures and channels at once ``[P, I, D]``."""

        def apply(v: Tensor) -> Tensor:
            return mass * v + (self._laplacian @ v.flatten(1)).view_as(v)

        inverse = 1 / (mass + self._diagonal[:, None, None])
        x = start.clone()
        residual = right - apply(x)
        direction = z = inverse * residual
        energy = (residual * z).sum(0)
        enough = (TOLERANCE**2 * energy).clamp_min(1e-20)
        for step in range(iterations):
            # A column that has converged stands still: going on would divide rounding errors by each other.
            running = energy > enough
            moved = apply(direction)
            alpha = torch.where(running, energy / (direction * moved).sum(0).clamp_min(1e-30), 0.0)
            x = x + alpha * direction
            residual = residual - alpha * moved
            z = inverse * residual
            previous, energy = energy, (residual * z).sum(0)
            direction = torch.where(running, z + energy / previous.clamp_min(1e-30) * direction, 0.0)
            # Asking a GPU for a number stops it; rarely is enough.
            if step % _CHECK_EVERY == _CHECK_EVERY - 1 and not bool(running.any()):
                break
        return x


def _bridges(points: Array, L: sparse.csr_matrix) -> sparse.csr_matrix:
    """Laplacian of edges that join each separate part to the largest one, at its vertices that lie nearest."""
    count, part = connected_components(L, directed=False)
    empty = sparse.csr_matrix(L.shape)
    if count == 1:
        return empty
    main = int(np.bincount(part).argmax())
    target = np.flatnonzero(part == main)
    tree = cKDTree(points[target])
    rows, columns = [], []
    for other in range(count):
        if other == main:
            continue
        members = np.flatnonzero(part == other)
        distance, nearest = tree.query(points[members])
        close = distance <= max(np.quantile(distance, 0.1), 1e-6)
        rows.append(members[close])
        columns.append(target[nearest[close]])
    a, b = np.concatenate(rows), np.concatenate(columns)
    edges = sparse.csr_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), L.shape)
    return sparse.diags(np.asarray(edges.sum(1)).ravel()) - edges
