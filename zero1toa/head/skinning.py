"""Linear blend skinning: axis-angle rotations, a joint tree, blended rigid motions. All batched and differentiable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rotation_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation matrices from axis-angle vectors (Rodrigues).

    R = I + a K + b K^2 with K the cross-product matrix of the vector, a = sin(t) / t, b = (1 - cos(t)) / t^2.

    Args:
        axis_angle: ``[..., 3]`` radians; zero vectors are allowed and have the right gradient.

    Returns:
        ``[..., 3, 3]``, to be applied to column vectors.
    """
    squared = (axis_angle**2).sum(-1)
    small = squared < 1e-8
    # The series keeps value and gradient exact at zero, where sqrt has none; the other branch never sees zero.
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    a = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / safe)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    eye = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return eye + a[..., None, None] * cross + b[..., None, None] * (cross @ cross)


def joint_transforms(rotations: Tensor, joints: Tensor, parents: Sequence[int]) -> Tensor:
    """World transforms that take rest positions to posed positions, one per joint.

    Args:
        rotations: rotation of every joint relative to its parent ``[..., J, 3, 3]``.
        joints: rest positions ``[..., J, 3]`` in metres.
        parents: parent of every joint, -1 for the root; parents come first.

    Returns:
        ``[..., J, 3, 4]``: rotation and translation.
    """
    turned: list[Tensor] = []
    moved: list[Tensor] = []
    for j, parent in enumerate(parents):
        here, local = joints[..., j, :], rotations[..., j, :, :]
        if parent < 0:
            turn, shift = local, here
        else:
            turn = turned[parent] @ local
            bone = (here - joints[..., parent, :]).unsqueeze(-1)
            shift = moved[parent] + (turned[parent] @ bone).squeeze(-1)
        turned.append(turn)
        moved.append(shift)
    columns = []
    for j, (turn, shift) in enumerate(zip(turned, moved, strict=True)):
        offset = shift - (turn @ joints[..., j, :].unsqueeze(-1)).squeeze(-1)
        # Many identities may share one rotation, whose batch is smaller then.
        turn = turn.expand(*offset.shape[:-1], 3, 3)
        columns.append(torch.cat([turn, offset.unsqueeze(-1)], dim=-1))
    return torch.stack(torch.broadcast_tensors(*columns), dim=-3)


def blend_skin(vertices: Tensor, weights: Tensor, transforms: Tensor) -> Tensor:
    """Pose vertices: ``v' = sum_j w_j (R_j v + t_j)``.

    Args:
        vertices: rest positions ``[..., V, 3]``.
        weights: ``[V, J]``, rows sum to one.
        transforms: ``[..., J, 3, 4]``.

    Returns:
        ``[..., V, 3]``.
    """
    blended = (weights @ transforms.flatten(-2)).unflatten(-1, (3, 4))
    return (blended[..., :3] * vertices.unsqueeze(-2)).sum(-1) + blended[..., 3]
