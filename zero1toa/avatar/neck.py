"""The neck's lower end: it fades out where, and as softly as, the portrait's matte does."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.avatar.initialisation import neck_heights
from zero1toa.avatar.surface import vertex_normals
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import camera_centers, project, resize_intrinsics

SIZE = 256
"""Side of the pictures that are compared."""
LEVELS = 32
"""Heights between the neck's base and the chin at which they are compared."""
ROUNDS = 4
"""Times that the opacities are corrected by what they render to."""
LAYERS = 4
"""Gaussians that a ray meets, as a first guess: two walls of about two each."""
LARGEST_STEP = 3.0
"""Factor by which one round may change how much a Gaussian blocks (minus the logarithm of what it lets pass)."""
ENDS = (0.45, 0.8)
"""Heights over the chin's, above the neck's base: a neck may end up to the first and must be whole over the second,
whatever its photo shows.
"""
SEEN = (0.3, 0.6)
"""Cosines towards the camera from which what it sees of a neck is corrected pixel by pixel, and from which wholly."""
UNEVEN = 2.0
"""Factor by which that may make a Gaussian block more or less than others of its level, as other views show."""
FACING = 0.8
"""Least cosine towards the camera of the front of a neck."""


@torch.no_grad()
def fade_neck(
    avatar: GaussianAvatar, head: HeadModel, rest: Tensor, posed: Tensor, matte: Tensor, viewmat: Tensor, K: Tensor
) -> None:
    """Set the opacities on the neck so that it renders as the matte of the portrait shows it, level by level.

    A matte may end higher than a neck does, where the photo or a collar ends it, and what it does not show would hang
    on as a stump. Levels go around the neck, so that its back ends with its front; what the portrait shows of it
    follows the matte pixel by pixel. Nothing happens on a head without a neck, or where the portrait shows none of its
    front.

    Args:
        avatar: initialised on ``rest``; its opacities are changed in place.
        head: its head model.
        rest: neutral vertices ``[V, 3]``, metres.
        posed: vertices in the portrait's pose ``[V, 3]``.
        matte: the portrait's ``[H, H]`` in [0, 1].
        viewmat: its world-to-camera ``[4, 4]``.
        K: its intrinsics in pixels ``[3, 3]``.
    """
    base, chin = neck_heights(head, rest)
    neck = torch.unique(head.faces[head.regions["neck"]])
    towards = torch.nn.functional.normalize(camera_centers(viewmat[None]) - posed, dim=-1)
    front = neck[(vertex_normals(posed, head.faces)[neck] * towards[neck]).sum(-1) > FACING]
    small = resize_intrinsics(K, len(matte), SIZE)
    pixels = project(posed[front][None], viewmat[None], small[None])[0][0]
    inside = ((pixels >= 0) & (pixels < SIZE)).all(-1)
    front, pixels = front[inside], pixels[inside]
    if not len(front):
        return
    picture = torch.nn.functional.interpolate(matte[None, None], (SIZE, SIZE), mode="bilinear", antialias=True)[0, 0]
    height = rest[front, 1].double().cpu().numpy()
    levels = np.linspace(base, chin, LEVELS)
    near = np.exp(-0.5 * ((levels[:, None] - height) / (0.6 * (levels[1] - levels[0]))) ** 2)
    shown = near.sum(1) > 0.1
    if not shown.any():
        return
    grid = (pixels / SIZE * 2 - 1)[None, None].to(matte)

    def pixel(alpha: Tensor, where: Tensor) -> NDArray[np.float64]:
        """A picture at points ``[1, 1, N, 2]``."""
        sampled = torch.nn.functional.grid_sample(alpha[None, None], where, align_corners=False)[0, 0, 0]
        return sampled.double().cpu().numpy().clip(0, 0.999)

    def profile(alpha: Tensor) -> NDArray[np.float64]:
        """Mean of a picture at each level of the neck's front ``[LEVELS]``; what fades stays faded further down."""
        mean = near[shown] @ pixel(alpha, grid) / near[shown].sum(1)
        return np.minimum.accumulate(np.interp(levels, levels[shown], mean)[::-1])[::-1]

    def step(wanted: NDArray[np.float64], got: NDArray[np.float64]) -> NDArray[np.float64]:
        """Factor on what Gaussians block that brings ``got`` to ``wanted``."""
        return (np.log1p(-wanted) / np.minimum(np.log1p(-got), -1e-4)).clip(1 / LARGEST_STEP, LARGEST_STEP)

    ramp = ((levels - base) / max(chin - base, 1e-6) - ENDS[0]) / (ENDS[1] - ENDS[0])
    least = np.clip(ramp, 0, 0.999)
    wanted = np.maximum(profile(picture), least)
    wanted[0] = 0.0  # where the mesh ends it must have faded
    on_neck = head.regions["neck"][avatar.binding]
    at = (avatar.splats(rest[None]).means[0, on_neck, 1]).double().cpu().numpy()
    # Towards its sides a ray meets more of a neck, so that what the camera sees is corrected pixel by pixel there.
    splats = avatar.splats(posed[None]).means[0, on_neck]
    own = project(splats[None], viewmat[None], small[None])[0][0]
    normals = vertex_normals(posed, head.faces)[head.faces[avatar.binding[on_neck], 0]]
    cosine = (normals * torch.nn.functional.normalize(camera_centers(viewmat[None]) - splats, dim=-1)).sum(-1)
    seen = ((cosine - SEEN[0]) / (SEEN[1] - SEEN[0])).clamp(0, 1) * ((own >= 0) & (own < SIZE)).all(-1)
    share = seen.double().cpu().numpy()
    own = (own / SIZE * 2 - 1)[None, None].to(matte)
    wanted_there = np.maximum(pixel(picture, own), np.interp(at, levels, least))
    most = -float(torch.log1p(-torch.sigmoid(avatar.opacity_logits[on_neck])).min())
    even, uneven = np.interp(at, levels, -np.log1p(-wanted) / LAYERS), np.ones(len(at))
    for _ in range(ROUNDS):
        opacity = torch.from_numpy(-np.expm1(-np.minimum(even * uneven, most))).to(avatar.opacity_logits)
        avatar.opacity_logits[on_neck] = torch.logit(opacity.clamp(0.004, 1 - 1e-4))
        _, alpha, _ = avatar.render(posed[None], viewmat[None, None], small[None, None], SIZE, (0.0, 0.0, 0.0))
        got = profile(alpha[0, 0, ..., 0])
        around = np.interp(at, levels, step(wanted, got))
        here = step(wanted_there, pixel(alpha[0, 0, ..., 0], own))
        even = np.minimum(even * around, most)
        uneven = (uneven * (here / around) ** share).clip(1 / UNEVEN, UNEVEN)
