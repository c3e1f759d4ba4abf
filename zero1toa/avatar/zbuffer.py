"""Depth of the nearest surface of a batch of meshes, in plain torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.render.cameras import project

_CHUNK = 4_000_000
"""Pixel-in-triangle tests done at once; bounds the memory (about 100 bytes a test)."""


def depth_map(vertices: Tensor, faces: Tensor, viewmats: Tensor, Ks: Tensor, size: tuple[int, int]) -> Tensor:
    """Camera depth of the nearest triangle at every pixel centre.

    Triangles are sorted into classes by the side of their pixel box, and each class is tested as one array of boxes.
    Both sides of a triangle hide what is behind it. Triangles that reach behind the camera are left out.

    Args:
        vertices: ``[B, V, 3]``, metres.
        faces: ``[F, 3]`` int64.
        viewmats: OpenCV world-to-camera ``[B, 4, 4]``.
        Ks: intrinsics in pixels ``[B, 3, 3]``.
        size: (width, height) in pixels.

    Returns:
        ``[B, H, W]`` metres; infinite where there is no surface.
    """
    width, height = size
    pixels, depth = project(vertices, viewmats, Ks)
    B, F = vertices.shape[0], faces.shape[0]
    corners = pixels[:, faces].reshape(B * F, 3, 2)
    # Depth is not affine in the picture, its inverse is.
    inverse = 1 / depth[:, faces].reshape(B * F, 3).clamp_min(1e-6)
    owner = torch.arange(B, device=vertices.device).repeat_interleave(F)
    low = (corners.amin(1) - 0.5).ceil().clamp_min(0)
    high = torch.minimum((corners.amax(1) - 0.5).floor(), corners.new_tensor([width - 1, height - 1]))
    side = (high - low).amax(-1) + 1
    a, b, c = corners.unbind(1)
    area = _cross(b - a, c - a)
    usable = ((high >= low).all(-1)) & (area.abs() > 1e-9) & (depth[:, faces] > 1e-3).reshape(B * F, 3).all(-1)

    nearest = torch.zeros(B * height * width, dtype=vertices.dtype, device=vertices.device)
    box = 2
    previous = 0
    while previous < max(width, height):
        chosen = (usable & (side > previous) & (side <= box)).nonzero().squeeze(-1)
        steps = torch.arange(box, device=vertices.device)
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)
        for part in chosen.split(max(_CHUNK // box**2, 1)):
            at = low[part][:, None] + grid
            point = at + 0.5
            pa, pb, pc = (v[part][:, None] - point for v in (a, b, c))
            wa, wb, wc = (_cross(p, q) / area[part][:, None] for p, q in ((pb, pc), (pc, pa), (pa, pb)))
            inside = (wa >= 0) & (wb >= 0) & (wc >= 0) & (at <= high[part][:, None]).all(-1)
            value = wa * inverse[part, :1] + wb * inverse[part, 1:2] + wc * inverse[part, 2:]
            index = (owner[part][:, None] * height + at[..., 1].long()) * width + at[..., 0].long()
            nearest.scatter_reduce_(0, index[inside], value[inside], "amax")
        previous, box = box, box * 2
    return torch.where(nearest > 0, 1 / nearest.clamp_min(1e-12), torch.inf).reshape(B, height, width)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
