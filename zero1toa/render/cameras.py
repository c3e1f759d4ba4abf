"""Pinhole cameras: OpenCV world-to-camera matrices in metres, intrinsics in pixels.

World frame of the head: +y up, the face looks along +z, the subject's left is +x. Camera frame: +x right, +y down,
+z forward. The centre of the top left pixel lies at (0.5, 0.5), as in gsplat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """Cameras that see the same picture size.

    Attributes:
        viewmats: world-to-camera ``[..., C, 4, 4]``, OpenCV axes, metres.
        Ks: intrinsics ``[..., C, 3, 3]`` in pixels.
        width: picture width in pixels.
        height: picture height in pixels.

    Raises:
        ValueError: when the shapes do not belong together.
    """

    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.viewmats.shape[-2:] != (4, 4) or self.viewmats.dim() < 3:
            raise ValueError(f"viewmats must be [..., C, 4, 4], got {list(self.viewmats.shape)}")
        if self.Ks.shape != (*self.viewmats.shape[:-2], 3, 3):
            wanted = [*self.viewmats.shape[:-2], 3, 3]
            raise ValueError(f"Ks must be {wanted} beside these viewmats, got {list(self.Ks.shape)}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"width and height must be at least 1 pixel, got {self.width} x {self.height}")

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras with their tensors on ``device``."""
        return replace(self, viewmats=self.viewmats.to(device), Ks=self.Ks.to(device))

    def resized(self, width: int, height: int) -> Cameras:
        """The same views at another picture size in pixels."""
        Ks = resize_intrinsics(self.Ks, (self.width, self.height), (width, height))
        return replace(self, Ks=Ks, width=width, height=height)


def orbit(
    azimuth_deg: Tensor | float,
    elevation_deg: Tensor | float,
    distance: Tensor | float,
    target: Tensor | tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Cameras on a sphere around ``target`` that look at it, upright.

    Position = target + d (cos e sin a, sin e, cos e cos a): azimuth 0 is in front of the face, positive azimuth moves
    the camera to the subject's left (+x), positive elevation moves it up (+y). The axes are written from the angles,
    so straight above and below work too.

    Args:
        azimuth_deg: degrees ``[...]``.
        elevation_deg: degrees ``[...]``.
        distance: camera to target in metres ``[...]``; broadcast with the angles.
        target: the point in the middle of the picture ``[..., 3]``, metres.

    Returns:
        World-to-camera ``[..., 4, 4]`` in the promoted dtype of the tensors given (float32 for plain numbers).
    """
    given = [v for v in (azimuth_deg, elevation_deg, distance, target) if isinstance(v, Tensor)]
    dtype = torch.float32
    for number, tensor in enumerate(t for t in given if t.is_floating_point()):
        dtype = tensor.dtype if number == 0 else torch.promote_types(dtype, tensor.dtype)
    device = given[0].device if given else None
    a, e, d = (torch.as_tensor(v, dtype=dtype, device=device) for v in (azimuth_deg, elevation_deg, distance))
    centre = torch.as_tensor(target, dtype=dtype, device=device)
    a, e, d, cx, cy, cz = torch.broadcast_tensors(a, e, d, *centre.unbind(-1))
    a, e = torch.deg2rad(a), torch.deg2rad(e)
    sin_a, cos_a, sin_e, cos_e = a.sin(), a.cos(), e.sin(), e.cos()
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    outward = torch.stack([cos_e * sin_a, sin_e, cos_e * cos_a], -1)
    right = torch.stack([cos_a, zero, -sin_a], -1)
    down = torch.stack([sin_e * sin_a, -cos_e, sin_e * cos_a], -1)
    rotation = torch.stack([right, down, -outward], -2)
    position = torch.stack([cx, cy, cz], -1) + d[..., None] * outward
    translation = -(rotation @ position[..., None])
    last = torch.stack([zero, zero, zero, one], -1)[..., None, :]
    return torch.cat([torch.cat([rotation, translation], -1), last], -2)


def intrinsics(fovy_deg: Tensor | float, size: int | tuple[int, int]) -> Tensor:
    """Pinhole intrinsics with square pixels and the principal point in the middle.

    Args:
        fovy_deg: vertical field of view in degrees ``[...]``.
        size: side of a square picture, or (width, height), in pixels.

    Returns:
        K ``[..., 3, 3]`` in pixels, float32 for plain numbers.
    """
    width, height = (size, size) if isinstance(size, int) else size
    fovy = fovy_deg if isinstance(fovy_deg, Tensor) else torch.tensor(fovy_deg, dtype=torch.float32)
    focal = 0.5 * height / torch.tan(0.5 * torch.deg2rad(fovy))
    K = torch.zeros(*focal.shape, 3, 3, dtype=focal.dtype, device=focal.device)
    K[..., 0, 0] = focal
    K[..., 1, 1] = focal
    K[..., 0, 2] = 0.5 * width
    K[..., 1, 2] = 0.5 * height
    K[..., 2, 2] = 1.0
    return K


def distance_for_fill(height_m: float, fill: Tensor | float, fovy_deg: Tensor | float) -> Tensor:
    """Distance at which something ``height_m`` tall fills the share ``fill`` of the picture's height.

    The visible height at distance d is 2 d tan(fovy / 2). Drawing the distance and the field of view independently
    would crop the head in many draws.

    Args:
        height_m: height of the head in metres.
        fill: head height over picture height ``[...]``.
        fovy_deg: vertical field of view in degrees ``[...]``.

    Returns:
        Distance in metres ``[...]``.
    """
    like = next((v for v in (fill, fovy_deg) if isinstance(v, Tensor)), None)
    dtype = torch.float32 if like is None else like.dtype
    device = None if like is None else like.device
    tangent = torch.tan(torch.as_tensor(fovy_deg, dtype=dtype, device=device) * (math.pi / 360.0))
    return height_m / (2.0 * torch.as_tensor(fill, dtype=dtype, device=device) * tangent)


def resize_intrinsics(Ks: Tensor, size: int | tuple[int, int], new_size: int | tuple[int, int]) -> Tensor:
    """Intrinsics of the same view at another picture size.

    With pixel centres at +0.5 both rows scale exactly, the principal point included.

    Args:
        Ks: ``[..., 3, 3]`` in pixels of a picture of ``size``.
        size: side of the square picture, or (width, height), in pixels.
        new_size: the wanted size, likewise.

    Returns:
        ``[..., 3, 3]`` in pixels of a picture of ``new_size``.
    """
    width, height = (size, size) if isinstance(size, int) else size
    new_width, new_height = (new_size, new_size) if isinstance(new_size, int) else new_size
    scale = torch.tensor([new_width / width, new_height / height, 1.0], dtype=Ks.dtype, device=Ks.device)
    return Ks * scale[:, None]


def camera_centers(viewmats: Tensor) -> Tensor:
    """Camera positions in the world ``[..., 3]`` of world-to-camera matrices ``[..., 4, 4]``."""
    return -(viewmats[..., :3, :3].transpose(-1, -2) @ viewmats[..., :3, 3:])[..., 0]


def project(points: Tensor, viewmats: Tensor, Ks: Tensor) -> tuple[Tensor, Tensor]:
    """Project points to pixels.

    Args:
        points: world positions ``[..., P, 3]`` in metres.
        viewmats: world-to-camera ``[..., 4, 4]``; leading dimensions broadcast with those of ``points``.
        Ks: ``[..., 3, 3]`` in pixels.

    Returns:
        pixels ``[..., P, 2]`` (x to the right, y down) and camera depth ``[..., P]`` in metres. Points with depth <= 0
        lie behind the camera; their pixels mean nothing.
    """
    camera = points @ viewmats[..., :3, :3].transpose(-1, -2) + viewmats[..., None, :3, 3]
    depth = camera[..., 2]
    homogeneous = camera @ Ks.transpose(-1, -2)
    return homogeneous[..., :2] / homogeneous[..., 2:], depth
