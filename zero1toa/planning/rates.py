"""Measured rates, each with the machine it was measured on. A new measurement replaces a number here, and only here.

Nothing is scaled to another GPU, and a backbone that was not measured has no rate: a prediction says whose rates it
used, or that there are none. Memory stands in :mod:`zero1toa.diffusion.memory`, which refuses runs by it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DiffusionRate:
    """Speed of a video diffusion network and its autoencoder, as the package runs them on CUDA.

    Attributes:
        gpu: what it was measured on.
        source: when and how.
        frames: frames of the measured clip; the figures below are for all of them.
        single_teraflop: arithmetic of one evaluation of the clip, conditional alone, in 10^12 operations.
        guided_teraflop: arithmetic of one guided evaluation (conditional and unconditional).
        single: seconds of one evaluation, conditional alone.
        guided: seconds of one guided evaluation.
        encode: seconds to encode the clip.
        decode: seconds to decode it.
    """

    gpu: str
    source: str
    frames: int
    single_teraflop: float
    guided_teraflop: float
    single: float
    guided: float
    encode: float
    decode: float


@dataclasses.dataclass(frozen=True)
class TrainingRate:
    """Speed of a training iteration on frames of one clip, everything in it.

    Attributes:
        gpu: what it was measured on.
        source: when and how.
        size: side of the pictures in pixels.
        gaussians: number of Gaussians.
        frames: pictures in an iteration.
        lpips: seconds with LPIPS, which has seen the clip's frames before.
        without: seconds without a perceptual term.
    """

    gpu: str
    source: str
    size: int
    gaussians: int
    frames: int
    lpips: float
    without: float


_GPU = "one NVIDIA H200"
_SOURCE = (
    "2026-11-30, torch 2.11, bfloat16, clips of {} frames at 512 pixels, random weights of the real size "
    "(docs/performance.md)"
)

DIFFUSION: dict[str, DiffusionRate] = {
    "follow_your_emoji": DiffusionRate(
        gpu=_GPU,
        source=_SOURCE.format(16),
        frames=16,
        single_teraflop=19.794,
        guided_teraflop=37.029,
        single=0.0411,
        guided=0.0715,
        encode=0.0433,
        decode=0.0728,
    ),
    "aniportrait": DiffusionRate(
        gpu=_GPU,
        source=_SOURCE.format(16),
        frames=16,
        single_teraflop=19.195,
        guided_teraflop=36.429,
        single=0.0396,
        guided=0.0701,
        encode=0.0437,
        decode=0.0727,
    ),
    "echomimic": DiffusionRate(
        gpu=_GPU,
        source=_SOURCE.format(12),
        frames=12,
        single_teraflop=14.391,
        guided_teraflop=27.313,
        single=0.0307,
        guided=0.0555,
        encode=0.0340,
        decode=0.0568,
    ),
}
"""Rates by backbone, of the longest clip up to 16 frames that it takes at once."""

TRAINING = TrainingRate(
    gpu=_GPU,
    source="2026-11-30, torch 2.11, gsplat 1.5.3, 120 560 Gaussians, 8 frames at 512 pixels (docs/performance.md)",
    size=512,
    gaussians=120_560,
    frames=8,
    lpips=0.0140,
    without=0.0058,
)
"""Rate of training; landmarks, previews, checkpoints and the dataset's files come on top."""
