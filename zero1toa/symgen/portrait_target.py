"""The portrait as a picture to train on: which of its colours are asked for, and where."""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.avatar.gaussians import GaussianAvatar
from zero1toa.head.protocol import HeadParams
from zero1toa.symgen.back_projection import back_project
from zero1toa.symgen.portrait_trust import clarity, evened
from zero1toa.symgen.posing import PosedClips
from zero1toa.symgen.refine import composite
from zero1toa.types import SampleKey

PORTRAIT = SampleKey("portrait", "portrait")
"""The portrait as a clip of one frame."""

_INSIDE = 0.4  # matte from which a pixel of the portrait, also of its faded neck, is asked for in colour


class PortraitTarget:
    """What an avatar is compared with in the portrait's view.

    Attributes:
        picture: the portrait on the background ``[1, S, S, 3]``, sRGB.
        matte: its alpha ``[1, S, S, 1]``.
    """

    def __init__(self, posed: PosedClips, image: NDArray, size: int) -> None:
        """Scale the portrait.

        Args:
            posed: holds the portrait as a clip, :data:`PORTRAIT`; its device and background are used.
            image: carved portrait, straight alpha ``[H, W, 4]`` uint8.
            size: side in pixels at which is trained.
        """
        self._posed = posed
        device = posed.head.faces.device
        picture, matte = composite(image, posed.background.tolist(), size)
        self.picture, self.matte = picture.to(device)[None], matte.to(device)[None]
        self._background = posed.background
        # The outline is the alpha term's business: asked for in colour, the background whitens the rim.
        self._asked = (self.matte > _INSIDE).float()
        self._colors = (self.picture - (1 - self.matte) * self._background) / self.matte.clamp_min(_INSIDE)

    def ask_for_what_is_clear(self, avatar: GaussianAvatar, params: HeadParams, seen: Tensor) -> None:
        """Ask for less where the portrait shows skin from the side; see :mod:`zero1toa.symgen.portrait_trust`.

        Args:
            avatar: the Gaussians before the first step.
            params: of the portrait.
            seen: how clearly the portrait shows each Gaussian ``[N]``, 0 to 1.
        """
        self._asked = self._asked * clarity(self._posed, PORTRAIT, avatar, params, seen)
        self._colors = evened(self._posed, PORTRAIT, avatar, params, self._colors, self._background)

    def of(self, renders: Tensor, alphas: Tensor) -> Tensor:
        """What to compare with ``renders`` ``[1, S, S, 3]`` that cover ``alphas`` ``[1, S, S, 1]``: where nothing is
        asked for, these themselves.
        """
        covered = alphas.detach()
        targets = self._colors * covered + self._background * (1 - covered)
        return torch.lerp(renders.detach(), targets, self._asked)

    def solve_colors(self, avatar: GaussianAvatar, share: Tensor) -> None:
        """Give Gaussians the colours with which the picture is this one, as far as each has a ``share`` ``[N]``."""
        back_project(self._posed, PORTRAIT, avatar, self._colors, self._asked, share)
