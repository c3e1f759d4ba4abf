"""Random cameras of clips and reference portraits, as the curriculum and the portrait stage make them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import distance_for_fill, intrinsics, orbit


@dataclasses.dataclass(frozen=True)
class Views:
    """Cameras of B clips.

    Attributes:
        viewmats: OpenCV world-to-camera ``[B, T, 4, 4]`` in metres.
        Ks: ``[B, T, 3, 3]`` in pixels.
        azimuths: degrees ``[B, T]``.
    """

    viewmats: Tensor
    Ks: Tensor
    azimuths: Tensor


def clip_views(draw: Draw, head: HeadModel, kind: Tensor, frames: int, size: int) -> Views:
    """Cameras of clips: fixed near the front, fixed at the side, or turning from the front to the side.

    Args:
        draw: random stream.
        head: for the height and the point that the cameras orbit.
        kind: 0 front, 1 side, 2 mouth, 3 turning; int64 ``[B]``.
        frames: T.
        size: side of the picture in pixels.
    """
    batch = len(kind)
    near, far = draw.uniform(-18.0, 18.0, batch), draw.uniform(30.0, 62.0, batch)
    sign = torch.where(draw.uniform(0.0, 1.0, batch) < 0.5, -1.0, 1.0)
    last = torch.where((kind == 1) | (kind == 3), sign * far, torch.where(kind == 2, 1.4 * near, near))
    first = torch.where(kind == 3, 0.1 * near, last)
    time = torch.linspace(0.0, 1.0, frames, device=draw.device)
    azimuth = torch.lerp(first[:, None], last[:, None], time[None])
    lift = torch.where(kind == 3, draw.uniform(-15.0, 15.0, batch), draw.uniform(-8.0, 12.0, batch))
    elevation = torch.where((kind == 3)[:, None], lift[:, None] * time[None], lift[:, None].expand(batch, frames))
    return _framed(draw, head, azimuth, elevation, draw.uniform(40.0, 70.0, batch), draw.uniform(0.60, 0.77, batch),
                   0.012, size)  # fmt: skip


def reference_views(draw: Draw, head: HeadModel, batch: int, size: int) -> Views:
    """Cameras of portraits: longer lenses, near the front, less exactly centred; T = 1."""
    azimuth, elevation = 10.0 * draw.normal(batch, 1).clamp(-2.2, 2.2), 5.0 * draw.normal(batch, 1)
    return _framed(draw, head, azimuth, elevation, draw.uniform(18.0, 50.0, batch), draw.uniform(0.58, 0.84, batch),
                   0.02, size)  # fmt: skip


def _framed(
    draw: Draw,
    head: HeadModel,
    azimuth: Tensor,
    elevation: Tensor,
    fovy: Tensor,
    fill: Tensor,
    wander: float,
    size: int,
) -> Views:
    batch, frames = azimuth.shape
    distance = distance_for_fill(head.height, fill, fovy)
    shift = draw.normal(batch, 3) * wander * torch.tensor([0.5, 1.0, 0.0], device=draw.device)
    target = (head.center.to(draw.device) + shift)[:, None]
    viewmats = orbit(azimuth, elevation, distance[:, None], target)
    roll = torch.deg2rad(2.0 * draw.normal(batch))
    turn = torch.eye(4, device=draw.device).repeat(batch, 1, 1, 1)
    turn[:, 0, 0, 0], turn[:, 0, 0, 1] = torch.cos(roll), -torch.sin(roll)
    turn[:, 0, 1, 0], turn[:, 0, 1, 1] = torch.sin(roll), torch.cos(roll)
    Ks = intrinsics(fovy[:, None].expand(batch, frames), size)
    return Views(viewmats=turn @ viewmats, Ks=Ks, azimuths=azimuth)
