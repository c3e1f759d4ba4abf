"""From a portrait to its first avatar: hair volume, Gaussians, colours."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.avatar.eye_region import eye_triangles, unfolding_triangles
from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.hair import fit_hair
from zero1toa.avatar.initialisation import initialise
from zero1toa.avatar.landmark_offset import lay_on_landmarks
from zero1toa.avatar.loose_hair import add_loose_hair, is_bare
from zero1toa.avatar.neck import fade_neck
from zero1toa.avatar.portrait_teeth import lay_teeth
from zero1toa.avatar.projection import project_portrait
from zero1toa.config import AvatarConfig
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.types import Portrait


@dataclasses.dataclass(frozen=True)
class NewAvatar:
    """An avatar before its first training step.

    Attributes:
        avatar: the Gaussians.
        params: the portrait's head with its hair offset.
        seen: how far the portrait itself tells the colour of each Gaussian ``[N]``, 0 to 1; all 1 without projection.
        kept: Gaussians ``[N]`` bool on eyeballs, lids and the skin that follows them or unfolds, and where a picture
            shows teeth instead of lips.
        notes: what was assumed, one line each.
    """

    avatar: GaussianAvatar
    params: HeadParams
    seen: Tensor
    kept: Tensor
    notes: tuple[str, ...]


@torch.no_grad()
def fit_params(head: HeadModel, portrait: Portrait, config: AvatarConfig) -> tuple[HeadParams, float, tuple[str, ...]]:
    """The portrait's head as its avatar has it: laid on the landmarks, the scalp lifted to the matte's outline.

    Args:
        head: head model.
        portrait: the carved, fitted portrait.
        config: which additions to the paper are on.

    Returns:
        The parameters on the CPU, how far the scalp is lifted on average (metres; 0 where it is not), and what was
        assumed, one line each.
    """
    params, lift = portrait.params.to("cpu"), 0.0
    notes: list[str] = []
    if config.landmark_offset:
        params = lay_on_landmarks(head.to("cpu"), dataclasses.replace(portrait, params=params))
        params = lay_teeth(head.to("cpu"), dataclasses.replace(portrait, params=params))
    if config.hair_volume:
        volume = fit_hair(head.to("cpu"), dataclasses.replace(portrait, params=params))
        params, lift = volume.params, volume.thickness
        notes.append(f"hair: the scalp is lifted by {1000 * volume.thickness:.0f} mm on average to the matte's outline")
    return params, lift, tuple(notes)


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
    params, lift, notes = fit_params(head, portrait, config)
    params = params.to(device)
    neutral = head.neutral().to(device)
    rest = head.vertices(neutral.replace(shape=params.shape, offset=params.offset))
    image = torch.from_numpy(portrait.image).to(device).float() / 255
    viewmat, K = (torch.from_numpy(m).to(device) for m in (portrait.viewmat, portrait.K))
    posed = head.vertices(params)
    avatar = initialise(head, rest, config, None if config.by_region else {})
    seen = torch.ones(len(avatar), device=device)
    # Refined clips know an open eye better than a closed one, and would open what follows the lids.
    kept = (eye_triangles(head) | unfolding_triangles(head))[avatar.binding]
    if config.project_portrait:
        seen, margin = project_portrait(avatar, head, rest, posed, image, viewmat, K)
        seen, kept = seen * margin, kept | (margin < 0.9)
        fade_neck(avatar, head, rest, posed, image[..., 3], viewmat, K)
        if config.hair_volume and not is_bare(avatar, head, lift):
            avatar = add_loose_hair(avatar, head, posed, image, viewmat, K)
            loose = len(avatar) - len(seen)
            seen = torch.cat([seen, seen.new_zeros(loose)])
            kept = torch.cat([kept, kept.new_zeros(loose)])
    return NewAvatar(avatar, params, seen, kept, notes)
