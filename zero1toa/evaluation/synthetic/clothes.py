"""Collars: what a portrait shows of clothes once the shoulders are cut away."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.atlas import Atlas
from zero1toa.evaluation.synthetic.colour import to_linear
from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.noise import layered_noise, smoothstep

_PLAIN = ((0.05, 0.05, 0.06), (0.93, 0.93, 0.92), (0.45, 0.45, 0.46), (0.10, 0.13, 0.24), (0.72, 0.66, 0.55))


def paint_clothes(
    albedo: Tensor, gloss: Tensor, atlas: Atlas, bottom: float, draw: Draw, dressed: float = 0.6
) -> tuple[Tensor, Tensor, Tensor]:
    """Dress a share of the necks: round, V-shaped and high collars, plain, striped or checked.

    Args:
        albedo: linear light ``[B, N, 3]``.
        gloss: ``[B, N]``.
        atlas: places on the template's Gaussians.
        bottom: height of the neck's cut in metres, in the head's frame.
        draw: random stream.
        dressed: share of the subjects with clothes.

    Returns:
        Albedo, gloss and the weight of the cloth ``[B, N]``, 1 where it covers the skin.
    """
    batch, device = len(albedo), albedo.device
    points, azimuth = atlas.points, atlas.azimuth[None]
    front = torch.cos(torch.deg2rad(azimuth))
    level = torch.lerp(draw.uniform(0.004, 0.035, batch, 1), draw.uniform(0.035, 0.06, batch, 1),
                       draw.chance(0.25, batch, 1))  # fmt: skip
    opening = draw.chance(0.3, batch, 1) * draw.uniform(0.01, 0.04, batch, 1)
    edge = level - draw.uniform(-0.004, 0.012, batch, 1) * front - opening * (1.0 - azimuth / 50.0).clamp_min(0.0)
    below = edge - (points[None, :, 1] - bottom)
    wears = draw.chance(dressed, batch, 1)
    weight = smoothstep(-0.0008, 0.0008, below) * wears

    plain = torch.tensor(_PLAIN, device=device)[draw.integers(len(_PLAIN), batch)]
    colour = to_linear(torch.lerp(draw.uniform(0.03, 0.95, batch, 3), plain, draw.chance(0.5, batch, 1)))
    other = to_linear(draw.uniform(0.03, 0.95, batch, 3))
    rows = torch.sin(points[None, :, 1] * (2.0 * torch.pi / draw.uniform(0.004, 0.014, batch, 1)))
    columns = torch.sin(torch.deg2rad(azimuth) * draw.uniform(20.0, 70.0, batch, 1))
    pattern = torch.lerp(rows, columns, draw.chance(0.5, batch, 1))
    pattern = torch.where(draw.chance(0.3, batch, 1) > 0, rows * columns, pattern)
    mix = smoothstep(-0.2, 0.2, pattern) * draw.chance(0.35, batch, 1) * draw.uniform(0.3, 1.0, batch, 1)
    hem = draw.chance(0.6, batch, 1) * torch.exp(-(((below - draw.uniform(0.003, 0.01, batch, 1)) / 0.0009) ** 2))
    folds = 0.12 * layered_noise(points, draw, batch, 0.03) - 0.5 * hem
    cloth = torch.lerp(colour[:, None], other[:, None], mix[..., None]) * torch.exp(folds)[..., None]

    shadow = torch.exp(below.clamp_max(0.0) / 0.004) * (below <= 0) * wears * draw.uniform(0.1, 0.6, batch, 1)
    albedo = torch.lerp(albedo * torch.exp(-shadow)[..., None], cloth.clamp(0.0, 1.0), weight[..., None])
    return albedo, torch.lerp(gloss, draw.uniform(0.0, 0.5, batch, 1).expand_as(gloss), weight), weight
