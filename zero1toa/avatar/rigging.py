"""Rigging of Gaussians to triangles (GaussianAvatars sec. 3.2; paper sec. 3.2).

A triangle carries a frame: its centre, a rotation whose columns are the direction of the first edge, the normal and
their cross product, and a scale that is the mean of that edge and the height over it. A Gaussian lives in this frame,
so it moves, turns and grows with its triangle. Frame of the world: metres, +y up, the face looks along +z.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zero1toa.avatar import quaternion


class TriangleFrames(NamedTuple):
    """Local frames of F triangles.

    Attributes:
        center: centroids ``[..., F, 3]``, metres.
        rotation: local to global ``[..., F, 3, 3]``; columns are first edge, outward normal, and their cross product.
        scale: metres per local unit ``[..., F]``.
        turn: the rotation as a unit quaternion ``[..., F, 4]`` wxyz.
    """

    center: Tensor
    rotation: Tensor
    scale: Tensor
    turn: Tensor

    def select(self, index: Tensor) -> TriangleFrames:
        """Those of some poses, by their index in the first dimension."""
        return TriangleFrames(*(part.index_select(0, index) for part in self))


class Splats(NamedTuple):
    """Gaussians in the world.

    Attributes:
        means: ``[..., N, 3]``, metres.
        quats: unit quaternions ``[..., N, 4]`` wxyz.
        scales: standard deviations ``[..., N, 3]``, metres.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor


def triangle_frames(vertices: Tensor, faces: Tensor) -> TriangleFrames:
    """Frames of all triangles.

    A triangle without area (a closed lid's, say) has no normal; it gets an arbitrary perpendicular, so that nothing
    becomes NaN, and a scale of its edge alone.

    Args:
        vertices: ``[..., V, 3]``, metres.
        faces: ``[F, 3]`` int64, counter-clockwise seen from outside.
    """
    v0, v1, v2 = (vertices.index_select(-2, faces[:, i]) for i in range(3))
    edge, other = v1 - v0, v2 - v0
    length = edge.norm(dim=-1, keepdim=True)
    first = edge / length.clamp_min(1e-12)
    normal = torch.linalg.cross(first, other)
    area = normal.norm(dim=-1, keepdim=True)
    flat = area < 1e-9
    axes = torch.eye(3, dtype=first.dtype, device=first.device)
    first = torch.where(length < 1e-12, axes[0], first)
    # The perpendicular is built from the axis that the edge is least aligned with.
    axis = axes[first.abs().argmin(-1)]
    spare = torch.linalg.cross(first, axis)
    normal = torch.where(flat, spare / spare.norm(dim=-1, keepdim=True), normal / area.clamp_min(1e-9))
    third = torch.linalg.cross(first, normal)
    height = (third * other).sum(-1).abs()
    scale = ((length.squeeze(-1) + height) / 2).clamp_min(1e-7)
    rotation = torch.stack([first, normal, third], dim=-1)
    return TriangleFrames((v0 + v1 + v2) / 3, rotation, scale, quaternion.from_matrix(rotation))


def local_to_global(
    frames: TriangleFrames, binding: Tensor, means: Tensor, quats: Tensor, log_scales: Tensor
) -> Splats:
    """Move Gaussians from their triangles' frames to the world.

    ``mu = s R mu_l + c``, ``q = q(R) q_l``, ``sigma = s exp(log_sigma_l)``.

    Args:
        frames: triangle frames with any leading dimensions.
        binding: triangle of each Gaussian ``[N]`` int64.
        means: local positions ``[N, 3]`` in triangle units.
        quats: local rotations ``[N, 4]`` wxyz, normalised here.
        log_scales: logarithms of local standard deviations ``[N, 3]``.
    """
    center = frames.center.index_select(-2, binding)
    rotation = frames.rotation.index_select(-3, binding)
    scale = frames.scale.index_select(-1, binding)[..., None]
    turn = frames.turn.index_select(-2, binding)
    # A batched product of matrices this small is fast on a CPU and ten times slower than a sum on CUDA.
    sums = rotation.is_cuda
    moved = (rotation * means[..., None, :]).sum(-1) if sums else (rotation @ means[..., None]).squeeze(-1)
    return Splats(
        means=scale * moved + center,
        quats=quaternion.multiply(turn, quaternion.normalize(quats)),
        scales=scale * log_scales.exp(),
    )


def points_to_local(frames: TriangleFrames, binding: Tensor, points: Tensor) -> Tensor:
    """Local coordinates ``[..., N, 3]`` of world ``points`` ``[..., N, 3]``: the inverse of the positions' rigging."""
    center = frames.center.index_select(-2, binding)
    rotation = frames.rotation.index_select(-3, binding)
    scale = frames.scale.index_select(-1, binding)[..., None]
    return (rotation.transpose(-1, -2) @ (points - center)[..., None]).squeeze(-1) / scale
