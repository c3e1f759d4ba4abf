"""Eyes, teeth and the inside of the mouth."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.atlas import Atlas
from zero1toa.evaluation.synthetic.colour import to_linear
from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.noise import smoothstep, wave_noise
from zero1toa.evaluation.synthetic.skin import Looks

# sRGB of irises: dark brown, brown, hazel, green, blue, grey.
_IRISES = ((0.16, 0.09, 0.06), (0.30, 0.18, 0.10), (0.42, 0.32, 0.17), (0.36, 0.42, 0.28), (0.35, 0.48, 0.60),
           (0.45, 0.49, 0.52))  # fmt: skip


def paint_eyes(albedo: Tensor, regions: dict[str, Tensor], atlas: Atlas, looks: Looks, draw: Draw) -> Tensor:
    """Sclera, iris with radial fibres, limbal ring and pupil on both eyeballs; both eyes of a face match."""
    batch, device = len(looks.melanin), atlas.points.device
    irises = to_linear(torch.tensor(_IRISES, device=device))
    light, dark = draw.choose((0.15, 0.25, 0.14, 0.12, 0.24, 0.10), batch), draw.choose((0.7, 0.28, 0.02), batch)
    iris = irises[torch.where(draw.uniform(0.0, 1.0, batch) < 1.2 - 1.6 * looks.melanin, light, dark)]
    iris = iris * torch.exp(0.15 * draw.normal(batch, 3))
    inner = iris * torch.exp(draw.uniform(-0.2, 0.6, batch, 1) * torch.tensor([1.0, 0.7, 0.2], device=device))
    white = to_linear(torch.tensor([0.90, 0.88, 0.86], device=device)) * torch.exp(0.05 * draw.normal(batch, 3))
    pupil = draw.uniform(0.28, 0.52, batch, 1)
    size = draw.uniform(0.94, 1.06, batch, 1)
    ring = draw.uniform(0.3, 1.0, batch, 1)
    fibres = draw.integers(12, batch, 1).float() + 9.0
    phase = draw.uniform(0.0, 6.28, batch, 1)
    veins = 0.5 + 0.5 * wave_noise(atlas.points, draw, batch, 0.006)
    bloodshot = draw.uniform(0.0, 0.35, batch, 1)
    for side, eye in zip(("right", "left"), atlas.eyes, strict=True):
        r = eye.angle[None] / size
        spokes = 1.0 + 0.22 * torch.cos(fibres * eye.around[None] + phase) * smoothstep(0.35, 0.7, r)
        colour = torch.lerp(inner[:, None], iris[:, None], smoothstep(0.45, 0.8, r)[..., None]) * spokes[..., None]
        colour = colour * (1.0 - ring * 0.75 * smoothstep(0.75, 1.0, r))[..., None]
        colour = colour * (1.0 - 0.97 * (1.0 - smoothstep(pupil - 0.05, pupil + 0.05, r)))[..., None]
        red = bloodshot * smoothstep(1.3, 2.6, r) * veins.clamp_min(0.2)
        sclera = white[:, None] * torch.exp(-red[..., None] * torch.tensor([0.15, 1.0, 0.9], device=device))
        sclera = sclera * (1.0 - 0.25 * smoothstep(0.1, 0.6, eye.height))[None, :, None]
        colour = torch.lerp(colour, sclera, smoothstep(0.94, 1.10, r)[..., None])
        albedo = torch.where(regions[f"eye_{side}"][None, :, None], colour, albedo)
    return albedo


def paint_mouth(albedo: Tensor, regions: dict[str, Tensor], atlas: Atlas, looks: Looks, draw: Draw) -> Tensor:
    """Teeth with dark gaps, and a cavity that darkens inwards."""
    batch, device = len(looks.melanin), atlas.points.device
    teeth, mouth = regions["teeth"], regions["mouth"]
    if teeth.any():
        tone = to_linear(torch.tensor([0.93, 0.88, 0.79], device=device))
        yellow = draw.uniform(0.0, 0.5, batch, 1) * torch.tensor([0.1, 0.25, 0.6], device=device)
        ivory = tone * torch.exp(-yellow - draw.uniform(0.0, 0.25, batch, 1))
        width = draw.uniform(0.0065, 0.0085, batch, 1)
        gap = smoothstep(0.86, 1.0, torch.cos(atlas.points[None, :, 0] / width * 2.0 * torch.pi + torch.pi).abs())
        colour = ivory[:, None] * (1.0 - draw.uniform(0.1, 0.5, batch, 1) * gap)[..., None]
        albedo = torch.where(teeth[None, :, None], colour, albedo)
    if mouth.any():
        z = atlas.points[:, 2]
        front = z[mouth].max()
        depth = ((front - z) / 0.03).clamp(0.0, 1.0)[None, :, None]
        red = to_linear(torch.tensor([0.55, 0.25, 0.24], device=device)) * torch.exp(0.25 * draw.normal(batch, 3))
        albedo = torch.where(mouth[None, :, None], red[:, None] * torch.exp(-2.2 * depth), albedo)
        if "tongue" in regions:
            flesh = to_linear(torch.tensor([0.72, 0.40, 0.40], device=device)) * torch.exp(0.12 * draw.normal(batch, 3))
            far = torch.exp(-1.2 * depth) * (1.0 + 0.1 * wave_noise(atlas.points, draw, batch, 0.004))[..., None]
            albedo = torch.where(regions["tongue"][None, :, None], flesh[:, None] * far, albedo)
    return albedo
