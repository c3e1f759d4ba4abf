"""Colours that make an avatar's picture the portrait's, before and after training.

A picture is linear in the Gaussians' colours: each pixel is a weighted mean of them. Projection
(:mod:`zero1toa.avatar.projection`) reads the colours off the portrait, and drawing them blurs it once more. The
simultaneous algebraic reconstruction technique (Andersen and Kak 1984) undoes that: every Gaussian takes the mean of
what its pixels lack, weighted as they are drawn, and again. It needs two dozen pictures, where gradient steps of a
learning rate that suits refined clips need hundreds. An addition to the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zero1toa.avatar.gaussians import SH_C0, GaussianAvatar
from zero1toa.symgen.posing import PosedClips
from zero1toa.types import SampleKey

ROUNDS = 24
RELAXATION = 1.5
"""Of the mean that each round adds; below 2 it converges (Censor and Elfving 2002)."""
LEAST = 0.02
"""Pixels that a Gaussian must cover by its weight to take all of what they lack."""


@torch.no_grad()
def back_project(
    posed: PosedClips, key: SampleKey, avatar: GaussianAvatar, target: Tensor, asked: Tensor, share: Tensor
) -> None:
    """Change the colours of an avatar such that the first frame of a clip looks like its target.

    Args:
        posed: holds the clip.
        key: that clip's.
        avatar: the Gaussians; ``sh0`` is changed in place, within [0, 1] as sRGB.
        target: colours of what the avatar covers ``[1, H, W, 3]``.
        asked: how far each pixel is asked for ``[1, H, W, 1]``, 0 to 1.
        share: how far each Gaussian follows ``[N]``, 0 to 1.
    """
    drawn = avatar.colors.detach().requires_grad_()
    with torch.enable_grad():
        picture, alpha, _ = posed.render(avatar, key, [0], drawn)

    def spread(pixels: Tensor) -> Tensor:
        """Sums ``[N, 3]`` of pixels ``[1, H, W, 3]``, weighted as each Gaussian is drawn in them."""
        return torch.autograd.grad(picture, drawn, pixels, retain_graph=True)[0]

    target = torch.lerp(posed.background.expand_as(target), target, alpha)
    step = RELAXATION * share[:, None] / spread(asked.expand_as(target)).clamp_min(LEAST)
    for _ in range(ROUNDS):
        shown, _, _ = posed.render(avatar, key, [0])
        change = step * spread(asked * (target - shown)) / SH_C0
        avatar.sh0.add_(change).clamp_(-0.5 / SH_C0, 0.5 / SH_C0)
