"""How squarely a camera sees a surface."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.avatar.picture_sampling import smooth_step
from zero1toa.avatar.surface import vertex_normals
from zero1toa.render.cameras import camera_centers

_FROM = 0.12  # cosine between normal and view (83 degrees) up to which a picture says nothing about a surface
_FULL = 0.45  # and from which (63 degrees) it can be read


def facing_weight(cosine: Tensor) -> Tensor:
    """Weight 0 to 1 of what a picture shows of a surface, from the cosine between its normal and the view."""
    return smooth_step((cosine - _FROM) / (_FULL - _FROM))


@torch.no_grad()
def facing(faces: Tensor, vertices: Tensor, viewmats: Tensor) -> Tensor:
    """Weights ``[B, F]`` of the triangles of B posed heads, each seen by one camera.

    Args:
        faces: triangles ``[F, 3]``.
        vertices: ``[B, V, 3]``, metres.
        viewmats: OpenCV world-to-camera ``[B, 4, 4]``.
    """
    return facing_weight(cosines(faces, vertices, viewmats))


def cosines(faces: Tensor, vertices: Tensor, viewmats: Tensor) -> Tensor:
    """Cosines ``[B, F]`` between the triangles' normals and the way to the camera; arguments as of :func:`facing`."""
    normals = vertex_normals(vertices, faces)[:, faces].sum(2)
    towards = camera_centers(viewmats)[:, None] - vertices[:, faces].mean(2)
    return torch.cosine_similarity(normals, towards, dim=-1)
