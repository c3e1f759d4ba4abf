"""Showing Gaussians in smaller pixels than they were trained in.

A rasteriser widens every splat by a variance in square pixels, the low-pass filter of EWA splatting. Training learns
colours and sizes that come out right with it, sharper than the photo. In smaller pixels the widening is smaller on the
head, and what it was to blur becomes visible: outlines around nose and lips, a crackle on cheeks. So Gaussians that
were trained get back most of what they lack.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.render.rasterize import DILATION

SHARE = 0.75
"""Of what is lacking. All of it gives the picture of training, enlarged; a little less is nearer to photos of the
larger size (docs/avatar.md)."""


def pixel_size(viewmats: Tensor, Ks: Tensor, center: Tensor) -> Tensor:
    """Width in metres of the pixels of cameras, at the distance of a point.

    Args:
        viewmats: OpenCV world-to-camera ``[..., 4, 4]``.
        Ks: intrinsics in pixels ``[..., 3, 3]``.
        center: the point ``[3]``, metres.

    Returns:
        ``[...]``.
    """
    depth = (viewmats[..., 2, :3] * center).sum(-1) + viewmats[..., 2, 3]
    return depth / Ks[..., 0, 0]


def lacking_variance(trained: Tensor | float, shown: Tensor) -> Tensor:
    """Variance in square metres to add to the squared scales of trained Gaussians.

    Args:
        trained: width in metres of the pixels of training.
        shown: of those that are shown ``[...]``; none is added where they are larger.

    Returns:
        Shaped as ``shown``.
    """
    return SHARE * DILATION * torch.clamp(trained**2 - shown.square(), min=0.0)
