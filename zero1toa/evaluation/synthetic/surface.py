"""Gaussians spread over the triangles of a head: where they sit, how they lie, and how smooth normals reach them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zero1toa.avatar import quaternion
from zero1toa.head.protocol import HeadModel

REGION_ROWS: dict[str, int] = {
    "face": 2, "lips": 2, "lids_left": 2, "lids_right": 2, "eye_left": 1, "eye_right": 1, "iris_left": 2,
    "iris_right": 2, "mouth": 3, "teeth": 2, "ears": 1, "scalp": 2, "neck": 2,
}  # fmt: skip
"""Rows of the barycentric lattice in each region at detail 0; m rows are m (m + 1) / 2 Gaussians on a triangle."""

_OVERLAP = 2.3  # a Gaussian's deviation over that of its even share of the triangle: 0.55 of the lattice's spacing
_LINING = 2.5e-3  # largest standard deviation in the mouth, metres
_THICKNESS = 4e-4  # standard deviation along the normal, metres


class Surface:
    """The Gaussians of one head model: their triangles, and their places in them.

    Args:
        head: the head model.
        detail: rows added to every triangle's lattice; 0 suits 128 pixels, 1 suits 256, 2 suits 512.

    Attributes:
        head: the head model.
        triangle: face of each Gaussian ``[N]`` int64.
        barycentric: ``[N, 3]`` float32.
        share: standard deviation of a Gaussian over that of its whole triangle ``[N]`` float32.
        regions: region name to boolean mask over Gaussians ``[N]``.
    """

    def __init__(self, head: HeadModel, detail: int = 0) -> None:
        self.head = head
        device = head.faces.device
        rows = torch.full((head.faces.shape[0],), 1 + detail, device=device)
        for name, count in REGION_ROWS.items():
            if name in head.regions:
                rows = torch.where(head.regions[name].to(device), torch.full_like(rows, count + detail), rows)
        triangles, weights, shares = [], [], []
        for m in sorted(set(rows.tolist())):
            lattice = _lattice(int(m)).to(device)
            faces = torch.nonzero(rows == m)[:, 0]
            triangles.append(faces.repeat_interleave(len(lattice)))
            weights.append(lattice.repeat(len(faces), 1))
            shares.append(torch.full((len(faces) * len(lattice),), _OVERLAP / float(np.sqrt(len(lattice)))))
        self.triangle = torch.cat(triangles)
        self.barycentric = torch.cat(weights)
        self.share = torch.cat(shares).to(device)
        self.regions = {name: mask.to(device)[self.triangle] for name, mask in head.regions.items()}
        self._corners = head.faces[self.triangle]
        self._around = _faces_around(head.faces, head.n_vertices)

    def __len__(self) -> int:
        return int(self.triangle.shape[0])

    def place(self, values: Tensor) -> Tensor:
        """Interpolate vertex values ``[..., V, C]`` to the Gaussians ``[..., N, C]``."""
        corners = values[..., self._corners.reshape(-1), :].unflatten(-2, (len(self), 3))
        return (corners * self.barycentric[..., None]).sum(-2)

    def vertex_normals(self, vertices: Tensor) -> Tensor:
        """Area-weighted unit normals ``[..., V, 3]`` of ``vertices`` ``[..., V, 3]``.

        Sums over a table of the faces around each vertex instead of scattering: the same result every time on a GPU.
        """
        a, b, c = (vertices[..., self.head.faces[:, i], :] for i in range(3))
        normals = torch.linalg.cross(b - a, c - a)
        padded = torch.cat([normals, torch.zeros_like(normals[..., :1, :])], dim=-2)
        total = torch.zeros_like(vertices)
        for column in self._around.unbind(1):
            total = total + padded[..., column, :]
        return torch.nn.functional.normalize(total, dim=-1)

    def splats(self, vertices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gaussians that follow their triangles exactly, also where these shear.

        The in-plane covariance is that of the triangle's area, ``1/12 sum_i (v_i - c)(v_i - c)^T``, scaled to the
        Gaussian's share of it; its eigenvectors and the normal give the rotation.

        Args:
            vertices: posed vertices ``[M, V, 3]`` in metres.

        Returns:
            Means ``[M, N, 3]``, unit quaternions (w, x, y, z) ``[M, N, 4]`` and standard deviations ``[M, N, 3]``.
        """
        corners = vertices[:, self.head.faces]
        centred = corners - corners.mean(2, keepdim=True)
        along = torch.nn.functional.normalize(corners[:, :, 1] - corners[:, :, 0], dim=-1)
        normal = torch.nn.functional.normalize(
            torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]), dim=-1
        )
        across = torch.linalg.cross(normal, along)
        x = (centred * along[:, :, None]).sum(-1)
        y = (centred * across[:, :, None]).sum(-1)
        a, b, c = (x * x).sum(-1) / 12.0, (x * y).sum(-1) / 12.0, (y * y).sum(-1) / 12.0
        spread = torch.sqrt(((a - c) / 2.0) ** 2 + b * b)
        major = torch.sqrt(((a + c) / 2.0 + spread).clamp_min(1e-10))
        minor = torch.sqrt(((a + c) / 2.0 - spread).clamp_min(1e-10))
        angle = 0.5 * torch.atan2(2.0 * b, a - c)
        cos, sin = torch.cos(angle)[..., None], torch.sin(angle)[..., None]
        rotation = torch.stack([cos * along + sin * across, cos * across - sin * along, normal], dim=-1)
        quaternions = quaternion.from_matrix(rotation)[:, self.triangle]
        scales = torch.stack([major, minor], dim=-1)[:, self.triangle] * self.share[:, None]
        # The mouth's lining has long triangles that begin at the lips: their Gaussians would stick out like whiskers.
        scales = torch.where(self.regions["mouth"][:, None], scales.clamp_max(_LINING), scales)
        scales = torch.cat([scales, torch.full_like(scales[..., :1], _THICKNESS)], dim=-1)
        return self.place(vertices), quaternions, scales


def _lattice(rows: int) -> Tensor:
    """Barycentric coordinates of ``rows (rows + 1) / 2`` evenly spread interior points."""
    points = [
        ((i + 1 / 3) / rows, (j + 1 / 3) / rows, (rows - 1 - i - j + 1 / 3) / rows)
        for i in range(rows)
        for j in range(rows - i)
    ]
    return torch.tensor(points, dtype=torch.float32)


def _faces_around(faces: Tensor, n_vertices: int) -> Tensor:
    """Faces around each vertex ``[V, D]`` int64, padded with F (one past the last face)."""
    corner = faces.cpu().numpy().reshape(-1)
    face = np.repeat(np.arange(len(faces)), 3)
    order = np.argsort(corner, kind="stable")
    corner, face = corner[order], face[order]
    first = np.searchsorted(corner, np.arange(n_vertices))
    slot = np.arange(len(corner)) - first[corner]
    table = np.full((n_vertices, int(slot.max()) + 1), len(faces), dtype=np.int64)
    table[corner, slot] = face
    return torch.from_numpy(table).to(faces.device)
