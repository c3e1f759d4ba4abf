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
class RasterRate:
    """Speed of rasterising, forward and backward.

    Attributes:
        gpu: what it was measured on.
        source: when and how.
        size: side of the pictures in pixels.
        gaussians: number of Gaussians.
        one: seconds of one picture.
        eight: seconds of eight pictures at once.
    """

    gpu: str
    source: str
    size: int
    gaussians: int
    one: float
    eight: float


_SOURCE = (
    "2026-11-28, torch 2.11, bfloat16, clips of 16 frames at 512 pixels, random weights of the real size "
    "(docs/performance.md)"
)

DIFFUSION: dict[str, DiffusionRate] = {
    "follow_your_emoji": DiffusionRate(
        gpu="one NVIDIA H100 80GB",
        source=_SOURCE,
        frames=16,
        single_teraflop=19.794,
        guided_teraflop=37.028,
        single=0.0593,
        guided=0.1074,
        encode=0.0503,
        decode=0.1138,
    ),
    "aniportrait": DiffusionRate(
        gpu="one NVIDIA H100 80GB",
        source=_SOURCE,
        frames=16,
        single_teraflop=19.195,
        guided_teraflop=36.429,
        single=0.0578,
        guided=0.1051,
        encode=0.0503,
        decode=0.1138,
    ),
}
"""Rates by backbone; both animators have the same autoencoder. The others were never timed alone on a named GPU."""

RASTER = RasterRate(
    gpu="one NVIDIA H200",
    source="November 2026, gsplat 1.5.3, 100 000 Gaussians at 512 pixels, forward and backward",
    size=512,
    gaussians=100_000,
    one=0.00138,
    eight=0.00387,
)
"""Rate of the rasteriser. The other parts of a training iteration (perceptual loss, optimiser) were not measured."""
