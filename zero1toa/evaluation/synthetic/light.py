"""Light: ambient occlusion and soft shadows from the head itself, and a few lamps with random places and colours."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.colour import to_srgb
from zero1toa.evaluation.synthetic.draw import Draw


@dataclasses.dataclass(frozen=True)
class Lamps:
    """Lamps of B scenes, in the head's frame.

    Attributes:
        direction: unit vectors towards the lamps ``[B, L, 3]``.
        colour: linear light ``[B, L, 3]``.
        wrap: how far light reaches round the edge, 0 hard to 1 soft ``[B, L]``.
        sky: ambient light from above ``[B, 3]``.
        ground: ambient light from below ``[B, 3]``.
    """

    direction: Tensor
    colour: Tensor
    wrap: Tensor
    sky: Tensor
    ground: Tensor


def draw_lamps(draw: Draw, batch: int) -> Lamps:
    """A key light anywhere in front, a weaker fill from the other side, sometimes a rim light; one in four is flat."""
    device = draw.device
    side = torch.where(draw.uniform(0.0, 1.0, batch) < 0.5, -1.0, 1.0)
    azimuth = torch.stack([side * draw.uniform(5.0, 75.0, batch), -side * draw.uniform(20.0, 80.0, batch),
                           side * draw.uniform(110.0, 165.0, batch)], dim=-1)  # fmt: skip
    elevation = torch.stack([draw.uniform(0.0, 60.0, batch), draw.uniform(-15.0, 30.0, batch),
                             draw.uniform(10.0, 50.0, batch)], dim=-1)  # fmt: skip
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    direction = torch.stack([torch.sin(a) * torch.cos(e), torch.sin(e), torch.cos(a) * torch.cos(e)], dim=-1)
    flat = draw.chance(0.25, batch)
    key = draw.uniform(0.45, 0.95, batch) * (1.0 - 0.7 * flat)
    fill = draw.uniform(0.0, 0.4, batch) * (1.0 - 0.5 * flat)
    rim = draw.chance(0.3, batch) * draw.uniform(0.1, 0.5, batch)
    warm = 0.12 * draw.normal(batch, 3, 1) * torch.tensor([1.0, 0.15, -1.0], device=device)
    colour = torch.stack([key, fill, rim], dim=-1)[..., None] * torch.exp(warm)
    ambient = draw.uniform(0.25, 0.5, batch, 1) + 0.45 * flat[:, None]
    cast = torch.exp(0.05 * draw.normal(batch, 1) * torch.tensor([1.0, 0.0, -1.0], device=device))
    return Lamps(
        direction=direction,
        colour=colour * draw.uniform(0.85, 1.1, batch, 1, 1),
        wrap=draw.uniform(0.05, 0.6, batch, 1).expand(batch, 3),
        sky=ambient * cast,
        ground=ambient * cast * draw.uniform(0.5, 0.95, batch, 1),
    )


class Visibility:
    """From which of D directions each point of the template sees out past the head.

    Args:
        points: ``[N, 3]`` in metres.
        normals: ``[N, 3]``.
        directions: D.
    """

    def __init__(self, points: Tensor, normals: Tensor, directions: int = 64) -> None:
        self.directions = _sphere(directions).to(points.device)
        self.visible = torch.stack([_sees(points, normals, d) for d in self.directions])
        facing = (self.directions @ normals.T).clamp_min(0.0)
        self.ambient = (self.visible * facing).sum(0) / facing.sum(0).clamp_min(1e-6)

    def lamps(self, lamps: Lamps) -> Tensor:
        """Soft shadows ``[B, L, N]``: visibility averaged over the directions near each lamp."""
        weight = torch.softmax(24.0 * lamps.direction @ self.directions.T, dim=-1)
        return weight @ self.visible


def shade(
    albedo: Tensor, normals: Tensor, towards_camera: Tensor, gloss: Tensor, hardness: Tensor, ambient: Tensor,
    shadows: Tensor, lamps: Lamps,
) -> Tensor:  # fmt: skip
    """Colours of lit points.

    Args:
        albedo: linear light ``[M, N, 3]``.
        normals: unit normals ``[M, N, 3]``.
        towards_camera: unit vectors ``[M, N, 3]``.
        gloss: strength of the highlight ``[M, N]``.
        hardness: exponent of the highlight ``[N]``.
        ambient: ambient visibility ``[N]``.
        shadows: visibility of the lamps ``[M, L, N]``.
        lamps: lamps of the M pictures.

    Returns:
        sRGB ``[M, N, 3]`` in [0, 1].
    """
    up = (normals[..., 1:2] + 1.0) / 2.0
    light = (lamps.ground[:, None] + (lamps.sky - lamps.ground)[:, None] * up) * ambient[:, None]
    shine = torch.zeros_like(light)
    for i in range(lamps.direction.shape[1]):
        towards = lamps.direction[:, i, None]
        wrap = lamps.wrap[:, i, None]
        cosine = (normals * towards).sum(-1)
        lit = ((cosine + wrap) / (1.0 + wrap)).clamp_min(0.0) * torch.lerp(shadows[:, i], torch.ones_like(cosine), 0.15)
        light = light + lit[..., None] * lamps.colour[:, i, None]
        half = torch.nn.functional.normalize(towards + towards_camera, dim=-1)
        spark = (normals * half).sum(-1).clamp_min(0.0) ** hardness * gloss * shadows[:, i] * (cosine > 0)
        shine = shine + spark[..., None] * lamps.colour[:, i, None]
    return to_srgb(albedo * light + shine)


def _sphere(count: int) -> Tensor:
    """Evenly spread unit vectors ``[count, 3]`` (Fibonacci lattice)."""
    i = torch.arange(count, dtype=torch.float32) + 0.5
    z = 1.0 - 2.0 * i / count
    angle = math.pi * (1.0 + math.sqrt(5.0)) * i
    ring = torch.sqrt(1.0 - z * z)
    return torch.stack([ring * torch.cos(angle), z, ring * torch.sin(angle)], dim=-1)


def _sees(points: Tensor, normals: Tensor, direction: Tensor, cell: float = 0.003, bias: float = 0.006) -> Tensor:
    """Whether each point is the outermost along ``direction``, softly, from a depth grid of ``cell`` metres ``[N]``."""
    helper = torch.eye(3, device=points.device)[int(direction.abs().argmin())]
    across = torch.nn.functional.normalize(torch.linalg.cross(direction, helper), dim=0)
    other = torch.linalg.cross(direction, across)
    column = ((points @ across) / cell).floor().long()
    row = ((points @ other) / cell).floor().long()
    column, row = column - column.min() + 1, row - row.min() + 1
    width, height = int(column.max()) + 2, int(row.max()) + 2
    depth = points @ direction
    outer = torch.full((width * height,), -1e3, device=points.device)
    outer = outer.scatter_reduce(0, row * width + column, depth, "amax")
    outer = torch.nn.functional.max_pool2d(outer.view(1, 1, height, width), 3, stride=1, padding=1).view(-1)
    # Within the pooled window a tilted surface rises by this much over the point itself: that is no shadow.
    cosine = (normals @ direction).clamp(0.12, 1.0)
    slope = 2.2 * cell * torch.sqrt(1.0 - cosine * cosine) / cosine
    gap = outer[row * width + column] - depth - slope
    return torch.sigmoid((bias - gap) / 0.0015)
