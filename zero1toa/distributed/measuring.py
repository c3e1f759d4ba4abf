"""What a batch wants to know of a finished avatar: how like its portrait it is, and a small picture."""

from __future__ import annotations

import dataclasses
import io
import time

import numpy as np

from zero1toa.config import Config
from zero1toa.symgen.loop import choose_device
from zero1toa.symgen.result import GenerationResult

SIDE = 192
"""Side of one picture of a thumbnail in pixels."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures and a picture of an avatar.

    Attributes:
        figures: ``psnr`` in decibel, ``ssim`` and ``iou`` in the portrait's own view, inside its matte.
        thumbnail: JPEG of the portrait, the avatar in the same view, and from the side, in a row.
        seconds: time that it took.
    """

    figures: dict[str, float]
    thumbnail: bytes
    seconds: float


def measure(result: GenerationResult, config: Config) -> Measured:
    """Read the bundle back, render it, and compare it with its portrait.

    Raises:
        BundleError: if the bundle that was just written cannot be read.
    """
    from PIL import Image

    from zero1toa import media
    from zero1toa.avatar.bundle import read_bundle
    from zero1toa.evaluation.playback import AvatarPlayer
    from zero1toa.evaluation.portrait_view import measure_portrait
    from zero1toa.head.arkit import ARKIT_NAMES
    from zero1toa.head.registry import load_head

    start = time.perf_counter()
    head = load_head(config.head)
    player = AvatarPlayer(read_bundle(result.bundle, head), head, str(choose_device(config.device)))
    likeness = measure_portrait(player)
    rest = np.zeros((1, len(ARKIT_NAMES)), np.float32)
    pictures = [player.portrait_view(SIDE), player.render(rest, 45.0, 0.0, SIDE)[0]]
    if player.bundle.portrait is not None:
        pictures.insert(0, media.resize(media.over(player.bundle.portrait), SIDE))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(pictures, axis=1)).save(buffer, format="JPEG", quality=85)
    figures = {"psnr": float(likeness.psnr), "ssim": float(likeness.ssim), "iou": float(likeness.iou)}
    return Measured(figures, buffer.getvalue(), time.perf_counter() - start)
