"""A portrait's head drawn as masks in the portrait's own camera."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from zero1toa.avatar.surface import Array
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import project, resize_intrinsics
from zero1toa.types import Portrait

Mask = NDArray[np.bool_]

SIZE = 256
"""Silhouettes are compared at this picture size."""


class PortraitFrame:
    """The portrait at some size, and its head posed and seen as there.

    Attributes:
        size: side of its pictures and masks in pixels.
        head: head model, on CPU.
        base: the offset that the portrait's head has already ``[V, 3]``, metres; zeros without.
        viewmat: world-to-camera ``[1, 4, 4]``.
        K: intrinsics at that size ``[1, 3, 3]``.
        picture: the carved portrait ``[size, size, 4]``, straight alpha, floats in [0, 1].
        rest: vertices of its identity at rest ``[V, 3]``.
        template: those of the mean head.
    """

    def __init__(self, head: HeadModel, portrait: Portrait, size: int = SIZE) -> None:
        """Scale the portrait to ``size``."""
        self.size = size
        self.head, self._params = head, portrait.params
        base = portrait.params.offset
        self.base = torch.zeros(head.n_vertices, 3) if base is None else base
        self.viewmat = torch.from_numpy(portrait.viewmat)[None]
        self.K = resize_intrinsics(torch.from_numpy(portrait.K)[None], portrait.size, size)
        self.picture = _resize(portrait.image, size)
        with torch.no_grad():
            rest = head.vertices(head.neutral().replace(shape=portrait.params.shape, offset=self.base))
            self.template = head.vertices(head.neutral()).double().numpy()
        self.rest = rest.double().numpy()

    def posed(self, offset: Tensor | None = None) -> Tensor:
        """Vertices ``[V, 3]`` in the portrait's expression, with a further ``offset`` ``[V, 3]``."""
        with torch.no_grad():
            total = self.base if offset is None else self.base + offset
            return self.head.vertices(self._params.replace(offset=total))

    def mask(self, vertices: Tensor, faces: Tensor) -> Mask:
        """Pixels ``[size, size]`` that triangles ``[Q, 3]`` of ``vertices`` ``[V, 3]`` cover."""
        depth = depth_map(vertices[None], faces, self.viewmat, self.K, (self.size, self.size))[0]
        return torch.isfinite(depth).numpy()

    def pixels(self, vertices: Tensor) -> Array:
        """Where vertices ``[V, 3]`` are seen ``[V, 2]``."""
        return project(vertices[None], self.viewmat, self.K)[0][0].double().numpy()


def signed_distance(mask: Mask) -> Array:
    """Pixels to the outline of ``mask`` at pixel centres, inside positive; the picture's border is no outline."""
    inside = ndimage.distance_transform_edt(mask) if not mask.all() else np.full(mask.shape, float(max(mask.shape)))
    outside = ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, float(max(mask.shape)))
    return np.where(mask, inside - 0.5, 0.5 - outside)


def sample(field: Array, pixels: Array) -> Array:
    """Bilinear values ``[P]`` of a map ``[H, W]`` at ``pixels`` ``[P, 2]`` (x, y; centres at +0.5)."""
    return np.asarray(ndimage.map_coordinates(field, (pixels[:, 1] - 0.5, pixels[:, 0] - 0.5), order=1, mode="nearest"))


def ramp(x: Array) -> Array:
    """Smooth step from 0 at 0 to 1 at 1."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def _resize(image: NDArray[np.uint8], size: int) -> Array:
    """The carved portrait at ``size``, floats in [0, 1], averaged with its alpha."""
    picture = torch.from_numpy(np.asarray(image, np.float64) / 255).permute(2, 0, 1)[None]
    premultiplied = torch.cat([picture[:, :3] * picture[:, 3:], picture[:, 3:]], 1)
    small = torch.nn.functional.interpolate(premultiplied, (size, size), mode="bilinear", antialias=True)[0]
    small[:3] /= small[3:].clamp_min(1e-6)
    return small.permute(1, 2, 0).numpy()
