"""Unit quaternions in ``wxyz`` order, as gsplat and 3D Gaussian Splatting files store them."""

from __future__ import annotations

import torch
from torch import Tensor


def normalize(q: Tensor) -> Tensor:
    """Scale quaternions ``[..., 4]`` to unit length; a zero quaternion stays finite instead of becoming NaN."""
    return torch.nn.functional.normalize(q, dim=-1, eps=1e-12)


def multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product ``p q``: the rotation ``q`` followed by ``p``.

    Args:
        p: ``[..., 4]`` wxyz.
        q: ``[..., 4]`` wxyz, broadcast against ``p``.

    Returns:
        ``[..., 4]`` wxyz; unit if both factors are.
    """
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        [
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ],
        dim=-1,
    )


def to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices ``[..., 3, 3]`` of unit quaternions ``[..., 4]``; columns are the rotated axes."""
    w, x, y, z = q.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def from_matrix(R: Tensor) -> Tensor:
    """Unit quaternions ``[..., 4]`` of rotation matrices ``[..., 3, 3]``, differentiable everywhere.

    Each of the four components can be recovered from the diagonal; the largest one is used as divisor, so that the
    result is accurate for every rotation, half turns included. The sign is arbitrary: ``q`` and ``-q`` rotate alike.
    """
    m = R.flatten(-2).unbind(-1)
    xx, yy, zz = m[0], m[4], m[8]
    # Four times the squared components. The clamp keeps the square root's gradient finite where a component is zero.
    squared = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], dim=-1)
    best = squared.argmax(-1)
    largest = squared.gather(-1, best[..., None]).clamp_min(1e-6)
    wx, wy, wz = m[7] - m[5], m[2] - m[6], m[3] - m[1]
    xy, xz, yz = m[1] + m[3], m[2] + m[6], m[5] + m[7]
    candidates = torch.stack(
        [
            torch.stack([squared[..., 0], wx, wy, wz], -1),
            torch.stack([wx, squared[..., 1], xy, xz], -1),
            torch.stack([wy, xy, squared[..., 2], yz], -1),
            torch.stack([wz, xz, yz, squared[..., 3]], -1),
        ],
        dim=-2,
    )
    chosen = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    return normalize(chosen / (2 * largest.sqrt()))
