"""From a portrait to its first avatar: hair volume, Gaussians, colours."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.hair import fit_hair
from zero1toa.avatar.initialisation import NECK_FADE, initialise, neck_heights
from zero1toa.avatar.loose_hair import add_loose_hair
from zero1toa.avatar.projection import project_portrait
from zero1toa.avatar.surface import vertex_normals
from zero1toa.config import AvatarConfig
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.render.cameras import camera_centers, project
from zero1toa.types import Portrait

_PAINTED = ("lids_left", "lids_right", "eye_left", "eye_right")


@dataclasses.dataclass(frozen=True)
class NewAvatar:
    """An avatar before its first training step.

    Attributes:
        avatar: the Gaussians.
        params: the portrait's head with its hair offset.
        seen: how far the portrait itself tells the colour of each Gaussian ``[N]``, 0 to 1; all 1 without projection.
        kept: Gaussians ``[N]`` bool on lids and eyeballs, and where a picture shows lashes or teeth instead of skin.
        notes: what was assumed, one line each.
    """

    avatar: GaussianAvatar
    params: HeadParams
    seen: Tensor
    kept: Tensor
    notes: tuple[str, ...]


@torch.no_grad()
def create_avatar(head: HeadModel, portrait: Portrait, config: AvatarConfig) -> NewAvatar:
    """Make the initial avatar of a portrait; deterministic.

    The Gaussians are placed on the person's neutral face, not on the portrait's expression, so that a smile does not
    leave stretched ones behind.

    Args:
        head: head model; the avatar is made on its device.
        portrait: the carved, fitted portrait.
        config: counts, opacities, and which additions to the paper are on.
    """
    device = head.faces.device
    params, notes = portrait.params, []
    if config.hair_volume:
        volume = fit_hair(head.to("cpu"), dataclasses.replace(portrait, params=params.to("cpu")))
        params = volume.params
        notes.append(f"hair: the scalp is lifted by {1000 * volume.thickness:.0f} mm on average to the matte's outline")
    params = params.to(device)
    neutral = head.neutral().to(device)
    rest = head.vertices(neutral.replace(shape=params.shape, offset=params.offset))
    image = torch.from_numpy(portrait.image).to(device).float() / 255
    viewmat, K = (torch.from_numpy(m).to(device) for m in (portrait.viewmat, portrait.K))
    posed = head.vertices(params)
    neck_end = _neck_end(head, rest, posed, image[..., 3], viewmat, K) if config.project_portrait else None
    avatar = initialise(head, rest, config, None if config.by_region else {}, neck_end)
    seen = torch.ones(len(avatar), device=device)
    kept = torch.stack([head.regions[name] for name in _PAINTED]).any(0)[avatar.binding]
    if config.project_portrait:
        seen, margin = project_portrait(avatar, head, rest, posed, image, viewmat, K)
        seen, kept = seen * margin, kept | (margin < 0.9)
        if config.hair_volume:
            avatar = add_loose_hair(avatar, head, posed, image, viewmat, K)
            loose = len(avatar) - len(seen)
            seen = torch.cat([seen, seen.new_zeros(loose)])
            kept = torch.cat([kept, kept.new_zeros(loose)])
    return NewAvatar(avatar, params, seen, kept, tuple(notes))


def _neck_end(head: HeadModel, rest: Tensor, posed: Tensor, matte: Tensor, viewmat: Tensor, K: Tensor) -> float | None:
    """Height of the neck at rest below which the portrait's matte shows less than half of its front, metres.

    A photo may end higher than a neck does, and what it does not show would hang on as a stump.

    Args:
        head: head model.
        rest: neutral vertices ``[V, 3]``.
        posed: vertices in the portrait's pose ``[V, 3]``.
        matte: the portrait's ``[H, H]`` in [0, 1].
        viewmat: its world-to-camera ``[4, 4]``.
        K: its intrinsics in pixels ``[3, 3]``.

    Returns:
        The height, never below the usual one and never above the chin; None where the usual one holds.
    """
    base, chin = neck_heights(head, rest)
    usual = base + 0.5 * NECK_FADE * (chin - base)
    neck = torch.unique(head.faces[head.regions["neck"]])
    if not len(neck):
        return None
    towards = torch.nn.functional.normalize(camera_centers(viewmat[None]) - posed, dim=-1)
    front = neck[(vertex_normals(posed, head.faces)[neck] * towards[neck]).sum(-1) > 0.5]
    pixels = project(posed[front][None], viewmat[None], K[None])[0][0]
    x, y = (pixels.long().clamp(0, len(matte) - 1)).T
    within = ((pixels >= 0) & (pixels < len(matte))).all(-1)
    shown = matte[y, x] * within
    height = rest[front, 1]
    levels = torch.linspace(usual, chin, 24, device=height.device)
    for level in levels:
        near = (height - level).abs() < (chin - base) / 24
        if bool(near.any()) and float(shown[near].mean()) >= 0.5:
            return None if level == levels[0] else float(level)
    return None
