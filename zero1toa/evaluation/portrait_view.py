"""How well an avatar reproduces its own portrait: the figures that are comparable between avatars."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from zero1toa import media
from zero1toa.errors import BundleError
from zero1toa.evaluation.image_metrics import psnr, silhouette_iou, ssim
from zero1toa.evaluation.playback import AvatarPlayer

SIZE = 256
MIN_PSNR, MIN_SSIM, MIN_IOU = 24.0, 0.80, 0.92


@dataclasses.dataclass(frozen=True)
class PortraitFigures:
    """The avatar from the portrait's camera with the portrait's expression, beside the portrait.

    Attributes:
        psnr: decibels inside the portrait's matte, both over white.
        ssim: structural similarity inside the portrait's matte.
        iou: intersection over union of the outlines.
    """

    psnr: float
    ssim: float
    iou: float

    def checks(self) -> dict[str, bool]:
        """Pass or fail of every figure."""
        return {
            f"portrait PSNR >= {MIN_PSNR:g} dB": self.psnr >= MIN_PSNR,
            f"portrait SSIM >= {MIN_SSIM:.2f}": self.ssim >= MIN_SSIM,
            f"outline IoU >= {MIN_IOU:.2f}": self.iou >= MIN_IOU,
        }


def measure_portrait(player: AvatarPlayer, size: int = SIZE) -> PortraitFigures:
    """Render the portrait's own view and compare.

    Args:
        player: the avatar; its bundle must hold the portrait.
        size: side in pixels at which both are compared.

    Raises:
        BundleError: when the bundle holds no portrait.
    """
    if player.bundle.portrait is None:
        raise BundleError("this bundle holds no portrait to compare with")
    wanted = premultiplied_resize(player.bundle.portrait, size)
    seen = player.portrait_view(size, background=None)
    mask = wanted[..., 3] > 127
    return PortraitFigures(
        psnr=psnr(media.over(seen), media.over(wanted), mask),
        ssim=ssim(media.over(seen), media.over(wanted), mask),
        iou=silhouette_iou(seen[..., 3] / 255.0, wanted[..., 3] / 255.0),
    )


def premultiplied_resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize straight alpha ``[H, W, 4]`` to ``[size, size, 4]``; colours of clear pixels do not bleed in."""
    from PIL import Image

    small = Image.fromarray(image).convert("RGBa").resize((size, size), Image.Resampling.BOX).convert("RGBA")
    return np.asarray(small)
