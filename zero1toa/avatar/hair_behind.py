"""Loose hair around the back of a head, after that of the outline which a portrait shows."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.rigging import triangle_frames
from zero1toa.avatar.round_gaussians import RoundGaussians
from zero1toa.head.protocol import HeadModel

COPIES = 4
"""Copies of each around the back. Seen along the outline many lie behind each other, so that few are enough."""
BEHIND = 95.0
"""Degrees by which they are turned at most."""
RISE = 0.04
"""Metres above the middle of the ears over which they become as dense as beside the face."""


def behind(avatar: GaussianAvatar, head: HeadModel, posed: Tensor, loose: RoundGaussians) -> RoundGaussians:
    """The same loose hair around the back of the head, where the portrait shows no outline.

    Each Gaussian beside the scalp, above the middle of the ears, is turned about the vertical axis by :data:`COPIES`
    random angles, away from the face, and stands off the scalp there as it does here, in the colour of the hair below.

    Args:
        avatar: coloured avatar.
        head: its head model.
        posed: vertices in the portrait's pose ``[V, 3]``, metres.
        loose: loose hair at the portrait's outline.
    """
    frames = triangle_frames(posed, avatar.faces)
    scalp = head.regions["scalp"].nonzero().squeeze(1)
    centers = frames.center[scalp]
    middle = (centers.amax(0) + centers.amin(0)) / 2
    ears = frames.center[head.regions["ears"]]
    # What sticks out beside and below the ears lies close to the head behind them.
    level = (ears if len(ears) else centers)[:, 1].mean()
    kept = ((loose.points[:, 1] - level) / RISE).clamp(0, 1) * head.regions["scalp"][loose.binding]
    source = (kept > 0.1).nonzero().squeeze(1).repeat_interleave(COPIES)
    binding, points = loose.binding[source], loose.points[source]
    foot = frames.center[binding]
    normal = frames.rotation[binding][..., 1]
    height = ((points - foot) * normal).sum(-1, keepdim=True)
    turn = math.radians(BEHIND) * torch.from_numpy(np.random.default_rng(1).random(len(source))).to(posed)
    # Azimuth grows towards the subject's left, and the back lies beyond it.
    angle = torch.where((points - middle)[:, 0] > 0, turn, -turn)
    directions = torch.nn.functional.normalize(centers - middle, dim=-1).double().cpu().numpy()
    turned = torch.nn.functional.normalize(_turned(foot - middle, angle), dim=-1).double().cpu().numpy()
    target = scalp[torch.from_numpy(cKDTree(directions).query(turned)[1]).to(scalp.device)]
    other = frames.rotation[target][..., 1]
    beside = _turned(points - foot - height * normal, angle)
    beside = beside - (beside * other).sum(-1, keepdim=True) * other
    colors = avatar.triangle_means(avatar.colors)[target]
    index = source.cpu().numpy()
    opacity = loose.opacity[index] * kept[source].cpu().numpy()
    placed = frames.center[target] + height * other + beside
    return RoundGaussians(target, placed, loose.sigma[index], opacity, colors.clamp(0, 1).cpu().numpy())


def _turned(vectors: Tensor, angle: Tensor) -> Tensor:
    """Vectors ``[P, 3]`` turned about the vertical axis by angles ``[P]`` towards the subject's left of the front."""
    x, y, z = vectors.unbind(-1)
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack([cosine * x + sine * z, y, cosine * z - sine * x], -1)
