"""Skin, lips, brows, lashes and beards: linear-light albedo of a batch of faces, painted with the atlas's fields."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.atlas import Atlas
from zero1toa.evaluation.synthetic.colour import to_linear
from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.noise import layered_noise, smoothstep, wave_noise

# sRGB of unshaded skin from very light to very dark.
_TONES = (
    (0.96, 0.84, 0.78), (0.93, 0.77, 0.67), (0.87, 0.68, 0.55), (0.78, 0.57, 0.43), (0.65, 0.44, 0.31),
    (0.47, 0.31, 0.22), (0.33, 0.21, 0.155),
)  # fmt: skip
# sRGB of hair: black, dark brown, brown, light brown, blond, light blond, auburn, red, grey, white.
_HAIR = (
    (0.07, 0.06, 0.06), (0.16, 0.11, 0.08), (0.28, 0.19, 0.13), (0.42, 0.30, 0.20), (0.66, 0.52, 0.34),
    (0.82, 0.72, 0.55), (0.36, 0.17, 0.10), (0.60, 0.29, 0.12), (0.52, 0.51, 0.50), (0.86, 0.85, 0.83),
)  # fmt: skip
_HAIR_LIGHT_SKIN = (0.10, 0.20, 0.18, 0.14, 0.12, 0.07, 0.04, 0.04, 0.08, 0.05)
_HAIR_DARK_SKIN = (0.62, 0.22, 0.05, 0.01, 0.01, 0.01, 0.01, 0.0, 0.05, 0.03)
_BEARDS = ("none", "stubble", "full", "goatee", "moustache")


@dataclasses.dataclass(frozen=True)
class Looks:
    """What runs through a face: colours shared by several parts, ``[B, 3]`` in linear light, and choices ``[B]``.

    Attributes:
        melanin: 0 very light to 1 very dark ``[B]``.
        skin: base albedo of the skin.
        hair: base albedo of the hair.
        age: 0 young to 1 old ``[B]``.
        beard: 0 none, 1 stubble, 2 full, 3 goatee, 4 moustache, int64 ``[B]``.
        freckled: strength of freckles ``[B]``.
    """

    melanin: Tensor
    skin: Tensor
    hair: Tensor
    age: Tensor
    beard: Tensor
    freckled: Tensor


def draw_looks(draw: Draw, batch: int) -> Looks:
    """Random colours over the human range."""
    device = draw.device
    melanin = draw.uniform(0.0, 1.0, batch)
    tones = to_linear(torch.tensor(_TONES, device=device))
    place = melanin * (len(_TONES) - 1)
    low = place.long().clamp(0, len(_TONES) - 2)
    skin = torch.lerp(tones[low], tones[low + 1], (place - low)[:, None])
    warmth = 0.06 * draw.normal(batch, 1) * torch.tensor([0.3, -0.2, -1.0], device=device)
    pink = 0.05 * draw.normal(batch, 1) * torch.tensor([0.4, -0.8, -0.2], device=device)
    skin = skin * torch.exp(warmth + pink + 0.06 * draw.normal(batch, 1))
    colours = to_linear(torch.tensor(_HAIR, device=device))
    light = draw.choose(_HAIR_LIGHT_SKIN, batch)
    dark = draw.choose(_HAIR_DARK_SKIN, batch)
    hair = colours[torch.where(draw.uniform(0.0, 1.0, batch) < 1.1 - 1.5 * melanin, light, dark)]
    hair = hair * torch.exp(0.2 * draw.normal(batch, 1) + 0.06 * draw.normal(batch, 3))
    dyed = draw.chance(0.03, batch, 1)
    hair = torch.lerp(hair, draw.uniform(0.02, 0.6, batch, 3), dyed)
    age = draw.uniform(0.0, 1.0, batch) ** 1.5
    return Looks(
        melanin=melanin,
        skin=skin,
        hair=hair,
        age=age,
        beard=draw.choose((0.60, 0.14, 0.12, 0.07, 0.07), batch),
        freckled=draw.chance(0.2, batch) * draw.uniform(0.3, 1.0, batch) * (1.0 - 0.7 * melanin),
    )


def paint_skin(atlas: Atlas, looks: Looks, draw: Draw) -> tuple[Tensor, Tensor]:
    """Bare skin with mottling, redness, freckles, moles and wrinkles.

    Returns:
        Albedo ``[B, N, 3]`` in linear light and gloss ``[B, N]`` (1 is ordinary skin).
    """
    batch, device = len(looks.melanin), atlas.points.device
    mottle = 0.035 * layered_noise(atlas.points, draw, batch, 0.06) + 0.03 * wave_noise(
        atlas.points, draw, batch, 0.008
    )
    mottle = mottle * draw.uniform(0.3, 1.3, batch, 1)
    albedo = looks.skin[:, None] * torch.exp(mottle)[..., None] * torch.ones(len(atlas.points), 3, device=device)

    flush = 1.0 + 0.35 * layered_noise(atlas.points, draw, batch, 0.03)
    spots = atlas.spots
    red = (
        draw.uniform(0.0, 0.8, batch, 1) * spots["cheeks"]
        + draw.uniform(0.1, 0.8, batch, 1) * spots["nose"]
        + draw.uniform(0.0, 0.4, batch, 1) * spots["chin"]
    )
    red = (red * flush).clamp(0.0, 1.2) * (1.0 - 0.5 * looks.melanin[:, None])
    albedo = albedo * torch.exp(red[..., None] * torch.tensor([0.02, -0.38, -0.34], device=device))
    albedo = albedo * torch.exp(draw.uniform(-0.1, 0.15, batch, 1) * spots["forehead"][None]).unsqueeze(-1)
    tired = draw.uniform(0.0, 0.45, batch, 1) * torch.exp(-((atlas.under_eye / 0.005) ** 2))
    albedo = albedo * torch.exp(-tired[..., None] * torch.tensor([0.55, 0.75, 0.6], device=device))

    speckle = smoothstep(0.5, 1.6, wave_noise(atlas.points, draw, batch, 0.0055, waves=14))
    patch = (spots["cheeks"] + 0.8 * spots["nose"] + 0.35 * spots["forehead"]).clamp(0.0, 1.0)
    freckles = looks.freckled[:, None] * speckle * (0.15 + 0.85 * patch)
    albedo = albedo * torch.exp(-freckles[..., None] * torch.tensor([0.45, 0.75, 0.9], device=device))
    albedo = albedo * torch.exp(-_moles(atlas, draw, batch)[..., None] * torch.tensor([1.2, 1.6, 1.7], device=device))
    albedo = albedo * torch.exp(
        -_wrinkles(atlas, looks, draw)[..., None] * torch.tensor([0.5, 0.7, 0.75], device=device)
    )
    gloss = 1.0 + 0.6 * spots["nose"] + 0.5 * spots["forehead"] + 0.3 * spots["cheeks"]
    return albedo, gloss * draw.uniform(0.3, 1.6, batch, 1)


def paint_lips(
    albedo: Tensor, gloss: Tensor, lips: Tensor, atlas: Atlas, looks: Looks, draw: Draw
) -> tuple[Tensor, Tensor]:
    """Colour the lips, sometimes with lipstick; ``lips`` is the region mask ``[N]``."""
    batch, device = len(looks.melanin), atlas.points.device
    natural = looks.skin * torch.exp(
        torch.tensor([-0.12, -0.62, -0.50], device=device) * draw.uniform(0.4, 1.15, batch, 1)
    )
    stick = to_linear(torch.stack([draw.uniform(0.45, 0.85, batch), draw.uniform(0.05, 0.4, batch),
                                   draw.uniform(0.1, 0.42, batch)], dim=-1))  # fmt: skip
    worn = draw.chance(0.22, batch, 1) * draw.uniform(0.4, 1.0, batch, 1)
    colour = torch.lerp(natural, stick, worn)[:, None]
    lines = 0.08 * wave_noise(atlas.points * torch.tensor([1.0, 0.25, 0.25], device=device), draw, batch, 0.004)
    edge = torch.exp(-((atlas.mouth_line / 0.0022) ** 2)) * draw.uniform(0.1, 0.6, batch, 1)
    colour = colour * torch.exp(lines - edge)[..., None]
    on = lips[None, :, None].float() * draw.uniform(0.75, 1.0, batch, 1, 1)
    return torch.lerp(albedo, colour, on), torch.where(lips, gloss * (1.4 + 2.0 * worn), gloss)


def paint_brows(albedo: Tensor, atlas: Atlas, looks: Looks, draw: Draw) -> Tensor:
    """Brows of random height, arch, thickness, length, density and colour."""
    batch = len(looks.melanin)
    u = atlas.brow_u[None]
    shift = draw.uniform(-0.0025, 0.003, batch, 1)
    arch = draw.uniform(-0.002, 0.0045, batch, 1) * (1.0 - ((u - 0.62) / 0.6) ** 2)
    drop = draw.uniform(-0.002, 0.003, batch, 1) * smoothstep(0.6, 1.1, u)
    v = atlas.brow_v[None] - shift - arch + drop
    thick = draw.uniform(0.0022, 0.0058, batch, 1)
    taper = thick * (1.0 - draw.uniform(0.35, 0.75, batch, 1) * smoothstep(0.45, 1.05, u))
    end = draw.uniform(0.9, 1.14, batch, 1)
    inner = draw.uniform(-0.10, 0.08, batch, 1)
    body = 1.0 - smoothstep(0.6, 1.25, v.abs() / taper)
    length = smoothstep(inner - 0.06, inner + 0.08, u) * (1.0 - smoothstep(end - 0.12, end + 0.03, u))
    strands = torch.stack([0.05 * atlas.brow_u + 0.5 * atlas.brow_v, 0.15 * atlas.brow_v, 0.0 * atlas.brow_v], dim=-1)
    hairs = 1.0 + 0.25 * wave_noise(strands, draw, batch, 0.0022)
    density = draw.uniform(0.35, 1.0, batch, 1) * hairs
    light = (looks.hair.mean(-1, keepdim=True) > 0.2).float()
    colour = looks.hair * torch.where(light > 0, draw.uniform(0.3, 0.7, batch, 1), draw.uniform(0.6, 1.2, batch, 1))
    return torch.lerp(albedo, colour[:, None], (body * length * density).clamp(0.0, 0.95)[..., None])


def paint_lids(albedo: Tensor, atlas: Atlas, looks: Looks, draw: Draw) -> Tensor:
    """Lash lines, the crease of the upper lid, and sometimes eye shadow."""
    batch, device = len(looks.melanin), atlas.points.device
    upper, above = atlas.lash_upper[None], atlas.above_lid[None]
    made_up = draw.chance(0.25, batch, 1)
    shadow = draw.uniform(0.05, 0.5, batch, 3)
    reach = torch.exp(-((upper / 0.006) ** 2)) * above
    albedo = torch.lerp(albedo, albedo * shadow[:, None] * 1.6,
                        (made_up * draw.uniform(0.2, 0.8, batch, 1) * reach)[..., None])  # fmt: skip
    crease = draw.uniform(0.0055, 0.0085, batch, 1)
    dent = torch.exp(-(((upper - crease) / 0.0011) ** 2)) * above * draw.uniform(0.05, 0.55, batch, 1)
    dent = dent * smoothstep(0.0, 0.15, atlas.lash_u)
    albedo = albedo * torch.exp(-dent[..., None] * torch.tensor([0.8, 1.0, 1.0], device=device))
    width = draw.uniform(0.0009, 0.0016, batch, 1) * (1.0 + 0.7 * made_up)
    heavy = 0.35 + 0.65 * smoothstep(0.1, 0.7, atlas.lash_u)[None]
    line = torch.exp(-((upper / width) ** 2)) * heavy * draw.uniform(0.55, 1.0, batch, 1)
    lower = torch.exp(-((atlas.lash_lower[None] / (0.6 * width)) ** 2)) * draw.uniform(0.1, 0.5, batch, 1)
    dark = (looks.hair * 0.4).clamp_max(0.05)[:, None]
    return torch.lerp(albedo, dark.expand_as(albedo), torch.maximum(line, lower).clamp(0.0, 0.95)[..., None])


def paint_beard(albedo: Tensor, lips: Tensor, atlas: Atlas, looks: Looks, draw: Draw) -> tuple[Tensor, Tensor]:
    """Shaved shadow, stubble and beards.

    Returns:
        Albedo ``[B, N, 3]`` and the beard's thickness weight ``[B, N]`` (0 where there is only a shadow).
    """
    batch, device = len(looks.melanin), atlas.points.device
    s = atlas.spots
    parts = torch.stack([s["moustache"], s["goatee"], s["jaw"], s["sideburns"]])
    styles = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0.7], [1, 1, 1, 1], [0.9, 1, 0, 0], [1, 0, 0, 0.0]], device=device)
    weight = torch.einsum("bk,kn->bn", styles[looks.beard], parts)
    ragged = 0.12 * layered_noise(atlas.points, draw, batch, 0.02)
    cover = smoothstep(0.30, 0.75, weight + ragged)
    cover = cover * smoothstep(0.001, 0.005, atlas.mouth_line - 0.004) * (~lips).float()
    strands = 1.0 + 0.22 * wave_noise(atlas.points * torch.tensor([1.0, 0.3, 1.0], device=device), draw, batch, 0.0025)
    stubble = (looks.beard == 1)[:, None].float()
    density = torch.where(stubble > 0, draw.uniform(0.15, 0.55, batch, 1), draw.uniform(0.75, 1.0, batch, 1))
    grey = draw.chance(0.3, batch, 1) * looks.age[:, None]
    colour = torch.lerp(
        looks.hair * draw.uniform(0.6, 1.1, batch, 1), torch.tensor([0.36, 0.33, 0.30], device=device), 0.7 * grey
    )
    alpha = (cover * density * strands).clamp(0.0, 0.97)
    return torch.lerp(albedo, colour[:, None], alpha[..., None]), cover * (1.0 - stubble)


def _moles(atlas: Atlas, draw: Draw, batch: int, most: int = 4) -> Tensor:
    where = atlas.points[draw.integers(len(atlas.points), batch, most)]
    size = draw.uniform(0.0008, 0.0022, batch, most)
    there = draw.chance(0.35, batch, most) * draw.uniform(0.4, 1.0, batch, most)
    total = torch.zeros(batch, len(atlas.points), device=atlas.points.device)
    for i in range(most):
        distance = (atlas.points[None] - where[:, i, None]).norm(dim=-1)
        total += there[:, i, None] * torch.exp(-((distance / size[:, i, None]) ** 2))
    return total


def _wrinkles(atlas: Atlas, looks: Looks, draw: Draw) -> Tensor:
    batch = len(looks.age)
    age = looks.age[:, None]
    fold = torch.exp(-((atlas.fold / 0.0016) ** 2)) * (0.08 + 0.6 * age) * draw.uniform(0.3, 1.0, batch, 1)
    bend = 0.004 * wave_noise(atlas.points, draw, batch, 0.05)
    rows = torch.cos((atlas.points[None, :, 1] + bend) * (2.0 * torch.pi / draw.uniform(0.008, 0.013, batch, 1)))
    brow = smoothstep(0.6, 1.0, rows) * atlas.spots["forehead"] * smoothstep(0.35, 0.9, age) * 0.6
    groove = torch.exp(-((atlas.under_eye / 0.0015) ** 2)) * (0.05 + 0.45 * age)
    corner = torch.exp(-((atlas.lash_upper / 0.012) ** 2)) * smoothstep(0.97, 1.0, atlas.lash_u)
    feet = corner * smoothstep(0.2, 0.9, age) * (0.5 + 0.5 * wave_noise(atlas.points, draw, batch, 0.006)).clamp_min(0)
    return fold + brow + groove + 0.5 * feet
