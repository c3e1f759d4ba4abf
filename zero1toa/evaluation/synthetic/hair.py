"""Hair: a hairline, a lifted cap with combed colour on the scalp, and strands that stand off it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.atlas import Atlas
from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.noise import layered_noise, smoothstep, wave_noise

STYLES = ("bald", "buzz", "short", "medium", "long", "curly")
_STYLE_WEIGHTS = (0.09, 0.12, 0.34, 0.16, 0.19, 0.10)
# Per style, low and high of: cap thickness (m), strand length (m), droop, unruliness.
_THICKNESS = ((0.0, 0.0), (0.001, 0.003), (0.005, 0.016), (0.008, 0.02), (0.008, 0.02), (0.018, 0.05))
_LENGTH = ((0.0, 0.0), (0.0, 0.0), (0.015, 0.045), (0.06, 0.13), (0.16, 0.30), (0.02, 0.07))
_DROOP = ((0.0, 0.0), (0.0, 0.0), (0.05, 0.35), (0.4, 0.8), (0.6, 1.0), (0.0, 0.15))
_UNRULY = ((0.0, 0.0), (0.0, 0.0), (0.1, 0.6), (0.04, 0.28), (0.02, 0.15), (0.7, 1.3))


@dataclasses.dataclass(frozen=True)
class Haircut:
    """The hair of a batch of heads; numbers are ``[B, 1]``.

    Attributes:
        style: index into :data:`STYLES`, int64 ``[B]``.
        anchors: hairline elevations at the atlas's anchors in degrees ``[B, 7]``.
        thickness: height of the cap over the scalp in metres.
        sides: thickness at the sides over that on top.
        length: strand length in metres.
        droop: 0 strands follow the comb, 1 they hang.
        unruly: random turning of the strands.
        part: x of the parting in metres.
        comb: direction combed in: sideways weight, forward weight ``[B, 2]``.
        colour: linear-light albedo ``[B, 3]``.
        grey: share of grey strands.
    """

    style: Tensor
    anchors: Tensor
    thickness: Tensor
    sides: Tensor
    length: Tensor
    droop: Tensor
    unruly: Tensor
    part: Tensor
    comb: Tensor
    colour: Tensor
    grey: Tensor


@dataclasses.dataclass(frozen=True)
class Strands:
    """Gaussians along strands, in the rest frame, relative to the strand's root.

    Attributes:
        offset: middle of each piece minus its root ``[B, R, K, 3]`` in metres.
        direction: unit direction of each piece ``[B, R, K, 3]``.
        normal: direction that the piece is shaded with ``[B, R, K, 3]``.
        scale: half length and half width of the pieces in metres ``[B, R, K, 2]``.
        albedo: linear light ``[B, R, K, 3]``.
        opacity: ``[B, R, K]``.
    """

    offset: Tensor
    direction: Tensor
    normal: Tensor
    scale: Tensor
    albedo: Tensor
    opacity: Tensor


def draw_haircuts(draw: Draw, atlas: Atlas, colour: Tensor, age: Tensor, beard: Tensor) -> Haircut:
    """Random haircuts; long hair is rarer above beards, bald heads more frequent with age.

    Args:
        draw: random stream.
        atlas: fields, for the hairline.
        colour: hair albedo ``[B, 3]`` in linear light.
        age: 0 to 1 ``[B]``.
        beard: beard style ``[B]``, 0 for none.
    """
    batch, device = len(age), draw.device
    style = draw.choose(_STYLE_WEIGHTS, batch)
    shave = (beard > 0) & (style >= 3) & (style <= 4) & (draw.uniform(0.0, 1.0, batch) < 0.7)
    style = torch.where(shave, torch.full_like(style, 2), style)

    def between(table: tuple[tuple[float, float], ...]) -> Tensor:
        limits = torch.tensor(table, device=device)[style]
        return limits[:, :1] + (limits[:, 1:] - limits[:, :1]) * draw.uniform(0.0, 1.0, batch, 1)

    # Long hair combed forwards would hide the face.
    forward = draw.uniform(-0.9, 0.7, batch) * torch.where((style == 3) | (style == 4), 0.5, 1.0) - 0.2 * (style == 4)
    front = draw.uniform(-2.0, 5.0, batch) + 7.0 * age * draw.uniform(0.0, 1.0, batch)
    recede = draw.uniform(-1.0, 7.0, batch) + 10.0 * age * draw.uniform(0.0, 1.0, batch)
    lower = draw.uniform(-5.0, 8.0, batch)
    nape = draw.uniform(-12.0, 12.0, batch)
    shift = torch.stack([front, front + 0.4 * recede, recede + 3.0, 0.3 * recede + 2.0, lower, lower, nape], dim=-1)
    return Haircut(
        style=style,
        anchors=atlas.base_hairline + shift,
        thickness=between(_THICKNESS),
        sides=draw.uniform(0.35, 1.1, batch, 1),
        length=between(_LENGTH),
        droop=between(_DROOP),
        unruly=between(_UNRULY),
        part=draw.uniform(-0.05, 0.05, batch, 1) * draw.chance(0.7, batch, 1),
        comb=torch.stack([draw.uniform(0.2, 1.0, batch), forward], dim=-1),
        colour=colour,
        grey=draw.chance(0.4, batch, 1) * age[:, None] * draw.uniform(0.0, 0.8, batch, 1),
    )


def above_hairline(atlas: Atlas, cut: Haircut, draw: Draw) -> Tensor:
    """Degrees of elevation above the ragged hairline ``[B, P]``; bald heads are below it everywhere."""
    batch = len(cut.style)
    ragged = 1.2 * layered_noise(atlas.points, draw, batch, 0.03)
    above = atlas.elevation[None] - cut.anchors @ atlas.hairline.T + ragged
    return torch.where((cut.style == 0)[:, None], torch.full_like(above, -90.0), above)


def lift_cap(atlas: Atlas, normals: Tensor, movable: Tensor, cut: Haircut, draw: Draw) -> Tensor:
    """Displacement of the vertices under hair.

    Args:
        atlas: fields over the vertices.
        normals: rest normals ``[V, 3]``.
        movable: vertices of the outer skin ``[V]`` float, 0 for ears, eyes and mouth.
        cut: the haircuts.
        draw: random stream.

    Returns:
        ``[B, V, 3]`` in metres.
    """
    above = above_hairline(atlas, cut, draw)
    profile = cut.sides + (1.0 - cut.sides) * smoothstep(5.0, 50.0, atlas.elevation)[None]
    lump = 1.0 + 0.22 * layered_noise(atlas.points, draw, len(cut.style), 0.12, octaves=2)
    height = cut.thickness * smoothstep(-1.0, 16.0, above) * profile * lump.clamp_min(0.2)
    return (height * movable)[..., None] * normals


def paint_cap(albedo: Tensor, scalp: Tensor, atlas: Atlas, centre: Tensor, cut: Haircut, draw: Draw) -> Tensor:
    """Hair colour above the hairline, streaked down from the crown; ``scalp`` is 1 where hair can grow ``[N]``."""
    batch, device = len(cut.style), atlas.points.device
    relative = atlas.points - centre
    azimuth = torch.atan2(relative[:, 0], relative[:, 2])
    meridian = torch.stack(
        [0.09 * torch.sin(azimuth), 0.02 * torch.deg2rad(atlas.elevation), 0.09 * torch.cos(azimuth)], dim=-1
    )
    combed = wave_noise(meridian, draw, batch, 0.006) + 0.6 * wave_noise(meridian, draw, batch, 0.02)
    curls = wave_noise(atlas.points, draw, batch, 0.007) * 1.2
    streak = torch.where((cut.style == 5)[:, None], curls, combed)
    colour = _streaked(cut, streak, draw)
    part = torch.exp(-(((relative[None, :, 0] - cut.part) / 0.0018) ** 2)) * (cut.style >= 2)[:, None] * 0.35
    thin = torch.where(
        (cut.style == 1)[:, None], draw.uniform(0.45, 0.9, batch, 1), torch.ones(batch, 1, device=device)
    )
    cover = smoothstep(-0.5, 4.0, above_hairline(atlas, cut, draw)) * scalp
    cover = cover * thin * (1.0 - part * smoothstep(20.0, 45.0, atlas.elevation))
    return torch.lerp(albedo, colour, cover.clamp(0.0, 0.98)[..., None])


def grow_strands(
    roots: Atlas, points: Tensor, normals: Tensor, cut: Haircut, centre: Tensor, radii: Tensor, brow_height: float,
    draw: Draw, pieces: int = 6,
) -> Strands:  # fmt: skip
    """Grow strands piece by piece: along the comb, pulled down by their droop, pushed out of the skull.

    Args:
        roots: fields over the R candidate roots on the template.
        points: the roots on each identity's bare scalp ``[B, R, 3]``.
        normals: rest normals at the roots ``[R, 3]``.
        cut: the haircuts.
        centre: middle of the skull ``[3]``.
        radii: half axes of each skull ``[B, 3]`` in metres.
        brow_height: y of the brows in metres; no strand hangs into the face below it.
        draw: random stream.
        pieces: K, Gaussians along a strand.
    """
    batch, count, device = len(cut.style), points.shape[1], points.device
    grows = smoothstep(1.0, 5.0, above_hairline(roots, cut, draw)) * (cut.length > 0)
    reach = cut.length * torch.exp(0.2 * draw.normal(batch, count))
    step = (reach / pieces)[..., None]
    position = points + normals * (0.6 * cut.thickness[..., None])
    side = torch.tanh((points[..., 0] - cut.part) / 0.012)
    zero = torch.zeros_like(side)
    comb = torch.stack([side * cut.comb[:, :1], zero - 0.35, zero + cut.comb[:, 1:]], dim=-1)
    down = torch.tensor([0.0, -1.0, 0.0], device=device)
    shell = (radii + 0.75 * cut.thickness)[:, None]  # strands lie on the lifted cap, not on the scalp
    wander = draw.normal(batch, count, 3) * cut.unruly[..., None]
    offsets, directions, outwards = [], [], []
    for piece in range(pieces):
        out = torch.nn.functional.normalize((position - centre) / radii[:, None] ** 2, dim=-1)
        along = comb * (1.0 - 0.8 * cut.droop[..., None] * piece / pieces)  # long hair falls instead of flying on
        flow = along - (along * out).sum(-1, keepdim=True) * out
        pull = cut.droop[..., None] * (0.6 + 1.8 * piece / pieces)
        wander = 0.6 * wander + 0.6 * cut.unruly[..., None] * draw.normal(batch, count, 3)
        heading = flow + pull * down + wander + out * (0.2 if piece == 0 else 0.03)
        target = position + torch.nn.functional.normalize(heading, dim=-1) * step
        target = _outside(target, centre, shell)
        move = target - position
        offsets.append((position + target) / 2.0 - points)
        directions.append(torch.nn.functional.normalize(move, dim=-1))
        outwards.append(out)
        position = target
    offset = torch.stack(offsets, dim=2)
    middle = offset + points[:, :, None]
    in_face = (
        smoothstep(0.0, 0.012, brow_height + 0.012 - middle[..., 1])
        * smoothstep(0.0, 0.01, 0.066 - middle[..., 0].abs())
        * (middle[..., 2] > centre[2] + 0.02)
    )
    shade = torch.exp(0.28 * draw.normal(batch, count, 1))
    tip = torch.linspace(0.92, 1.12, pieces, device=device)
    colour = _streaked(cut, torch.zeros(batch, count, device=device), draw)[:, :, None] * (shade * tip)[..., None]
    width = draw.uniform(0.0009, 0.0019, batch, 1, 1).expand(batch, count, pieces)
    half = (0.55 * step).expand(batch, count, pieces)
    fade = torch.linspace(1.0, 0.75, pieces, device=device)
    return Strands(
        offset=offset,
        direction=torch.stack(directions, dim=2),
        normal=torch.stack(outwards, dim=2),
        scale=torch.stack([half.clamp_min(1e-4), width], dim=-1),
        albedo=colour,
        opacity=(grows[..., None] * fade * (1.0 - in_face) * 0.9).clamp(0.0, 1.0),
    )


def _outside(points: Tensor, centre: Tensor, radii: Tensor) -> Tensor:
    """Move points inside the ellipsoid onto it; below its middle it goes on as a cylinder, for the cheeks."""
    relative = points - centre
    scaled = relative / radii
    scaled = torch.cat([scaled[..., :1], scaled[..., 1:2].clamp_min(-0.2), scaled[..., 2:]], dim=-1)
    inside = scaled.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    factor = (1.0 / inside).clamp_min(1.0)
    pushed = relative * torch.cat([factor, torch.ones_like(factor), factor], dim=-1)
    above = relative * factor
    return centre + torch.where(relative[..., 1:2] > 0, above, pushed)


def _streaked(cut: Haircut, streak: Tensor, draw: Draw) -> Tensor:
    """Hair colour ``[B, N, 3]`` modulated by ``streak`` ``[B, N]``, with grey strands."""
    batch, count = streak.shape
    contrast = draw.uniform(0.12, 0.4, batch, 1)
    colour = cut.colour[:, None] * torch.exp(contrast * streak)[..., None]
    grey = (draw.uniform(0.0, 1.0, batch, count) < cut.grey).float() * 0.85
    return torch.lerp(colour, torch.full_like(colour, 0.5), grey[..., None])
