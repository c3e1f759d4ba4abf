"""What a batch wants to know of a finished avatar: how like its portrait it is, and a small picture."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from zero1toa.config import Config
from zero1toa.symgen.loop import choose_device
from zero1toa.symgen.result import GenerationResult

SIDE = 192
"""Side of one picture of a thumbnail in pixels."""

_SHOWN_SIDE = 256  # of a picture of the contact sheet, and of the video
_VIDEO_FPS = 12.5  # half of what a single avatar's video has, at half the time that a batch waits for it

Keep = Callable[[Mapping[str, float], Callable[[Path], None], Callable[[Path], None]], None]
"""Takes the figures, and what draws the contact sheet and the video into files."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures and a picture of an avatar.

    Attributes:
        figures: ``psnr`` in decibel, ``ssim`` and ``iou`` in the portrait's own view, inside its matte.
        thumbnail: JPEG of the portrait, the avatar in the same view, and from the side, in a row.
        seconds: time that it took, contact sheet and video included.
    """

    figures: dict[str, float]
    thumbnail: bytes
    seconds: float


def measure(result: GenerationResult, config: Config, keep: Keep = lambda figures, sheet, video: None) -> Measured:
    """Read the bundle back, render it, and compare it with its portrait.

    Args:
        result: the finished avatar.
        config: its configuration.
        keep: is given the figures with contact sheet and video, which are only made if it asks for them.

    Raises:
        BundleError: if the bundle that was just written cannot be read.
    """
    from PIL import Image

    from zero1toa import media
    from zero1toa.avatar.bundle import read_bundle
    from zero1toa.evaluation.playback import AvatarPlayer
    from zero1toa.evaluation.portrait_view import measure_portrait
    from zero1toa.evaluation.preview import preview_sheet, turntable
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
    keep(
        figures,
        lambda path: media.write_png(path, preview_sheet(player, _SHOWN_SIDE)),
        lambda path: media.write_video(path, turntable(player, _SHOWN_SIDE, _VIDEO_FPS), _VIDEO_FPS),
    )
    return Measured(figures, buffer.getvalue(), time.perf_counter() - start)
