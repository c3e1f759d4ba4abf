"""What a portrait is believed of the head it shows, where its own pixels are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.avatar.facing import cosines
from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.picture_sampling import smooth_step
from zero1toa.avatar.strain import strain
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.symgen.posing import PosedClips
from zero1toa.types import SampleKey

_CLEAR = (0.4, 0.9)  # how clearly the portrait must show a pixel to be asked for in part, and in full
_CLEAR_CHEEK = (0.75, 1.0)  # the same where a cheek is seen
_CHEEK_SHARE = 0.05  # from which share of its Gaussians a pixel shows a cheek
_ASIDE = 0.5  # of half the face's width, from which on a face below its eyes is cheek and jaw
_TURNED = (0.4, 0.85)  # cosines between a cheek and the view from which the portrait's detail shows, and in full
_TURNED_NECK = (0.1, 0.4)  # the same of necks, where clothes begin that are not skin's colour
_STRAINED = (0.8, 0.95)  # lengths from 1 to which skin is strained, where the portrait trains nothing, and in full


def calm(head: HeadModel, params: HeadParams) -> Tensor:
    """How far a portrait's expression leaves triangles as they are at rest, 0 to 1 ``[F]``.

    The folds of a smile are where skin is strained. Sharpened there, they become scars of the face at rest.

    Args:
        head: head model.
        params: of the portrait, no batch dimension.
    """
    rest = head.neutral().to(head.faces.device).replace(shape=params.shape, offset=params.offset)
    kept = strain(head.faces, *(head.vertices(pose) for pose in (params, rest)))
    return smooth_step((kept - _STRAINED[0]) / (_STRAINED[1] - _STRAINED[0]))


@torch.no_grad()
def clarity(posed: PosedClips, key: SampleKey, avatar: GaussianAvatar, params: HeadParams, seen: Tensor) -> Tensor:
    """How clearly a portrait shows what lies at each of its pixels, for asking for its colours there.

    What is asked for at a face's rim stands as a line on cheeks that are seen from the side, so that more is asked of
    cheek and jaw.

    Args:
        posed: holds the portrait as a clip.
        key: that clip's.
        avatar: the Gaussians.
        params: of the portrait.
        seen: how clearly the portrait shows each Gaussian ``[N]``, 0 to 1.

    Returns:
        ``[1, H, W, 1]``, 0 to 1.
    """
    cheek = _cheeks(posed.head, params)[avatar.binding].float()
    loose = smooth_step((seen - _CLEAR[0]) / (_CLEAR[1] - _CLEAR[0]))
    beside, shown, share, clear = (
        posed.mean_of(avatar, key, 0, values) for values in (torch.zeros_like(seen), seen * cheek, cheek, loose)
    )
    shown, share = shown - beside, share - beside
    low, high = _CLEAR_CHEEK
    strict = smooth_step((shown / share.clamp_min(1e-6) - low) / (high - low))
    return torch.where(share > _CHEEK_SHARE, strict, clear)


@torch.no_grad()
def evened(
    posed: PosedClips, key: SampleKey, avatar: GaussianAvatar, params: HeadParams, colors: Tensor, background: Tensor
) -> Tensor:
    """A portrait's colours, which on cheeks, jaw and neck give way to the first avatar's the more these turn aside.

    Skin that is trained is sharper than what it was projected as. Where one ends beside the other there would be an
    edge, which nobody sees from the front.

    Args:
        posed: holds the portrait as a clip.
        key: that clip's.
        avatar: the Gaussians before the first step.
        params: of the portrait.
        colors: the portrait's, of the head alone ``[1, H, W, 3]``.
        background: sRGB ``[3]`` behind clips.

    Returns:
        As ``colors``.
    """
    head = posed.head
    viewmats, _ = posed.cameras(key, [0])
    squarely = cosines(head.faces, posed.vertices(key)[:1], viewmats)[0]
    kept = torch.ones_like(squarely)
    for triangles, (low, high) in ((head.regions["neck"], _TURNED_NECK), (_cheeks(head, params), _TURNED)):
        kept = torch.where(triangles, smooth_step((squarely - low) / (high - low)), kept)
    pictures, alphas, _ = posed.render(avatar, key, [0])
    first = (pictures - background * (1 - alphas)) / alphas.clamp_min(1e-3)
    return torch.lerp(first, colors, posed.mean_of(avatar, key, 0, kept[avatar.binding]))


def _cheeks(head: HeadModel, params: HeadParams) -> Tensor:
    """Triangles ``[F]`` bool of a face below its eyes and aside of its middle."""
    rest = head.vertices(head.neutral().to(head.faces.device).replace(shape=params.shape))
    middle, face = rest[head.faces].mean(1), head.regions["face"].to(rest.device)
    eyes = middle[head.regions["eye_left"] | head.regions["eye_right"], 1].mean()
    aside = middle[:, 0].abs()
    return face & (aside > _ASIDE * aside[face].max()) & (middle[:, 1] < eyes)
