"""Measured rates, each with the machine it was measured on. A new measurement replaces a number here, and only here.

Nothing is scaled to another GPU, and a backbone that was not measured has no rate: a prediction says whose rates it
used, or that there are none.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DiffusionRate:
    """Speed of a video diffusion network and its autoencoder.

    Attributes:
        gpu: what it was measured on.
        source: when and how.
        frames: frames of the measured clip; the seconds below are for all of them.
        teraflop_per_frame: arithmetic of one evaluation of one frame, in 10^12 operations.
        single: seconds of one evaluation of the clip, conditional alone.
        guided: seconds of one guided evaluation (conditional and unconditional).
        compiled_single: ``single`` with the network compiled.
        compiled_guided: ``guided`` with the network compiled.
        encode: seconds to encode the clip.
        decode: seconds to decode it.
    """

    gpu: str
    source: str
    frames: int
    teraflop_per_frame: float
    single: float
    guided: float
    compiled_single: float
    compiled_guided: float
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


_SD15 = DiffusionRate(
    gpu="one NVIDIA H200",
    source=(
        "November 2026, bfloat16, clips of 16 frames at 512 pixels (64 x 64 latents). The network was diffusers' "
        "UNetMotionModel of Stable Diffusion 1.5 at its real size with random weights. It stands in for the animators' "
        "denoisers: they have the same blocks; reading the reference's features comes on top and was not measured"
    ),
    frames=16,
    teraflop_per_frame=1.103,
    single=0.085,
    guided=0.154,
    compiled_single=0.057,
    compiled_guided=0.106,
    encode=0.088,
    decode=0.206,
)

DIFFUSION: dict[str, DiffusionRate] = {
    "follow_your_emoji": _SD15,
    "aniportrait": _SD15,
    "echomimic": _SD15,
}
"""Rates by backbone. ``compact`` has none: it was never timed alone on a named GPU."""

RASTER = RasterRate(
    gpu="one NVIDIA H200",
    source="November 2026, gsplat 1.5.3, 100 000 Gaussians at 512 pixels, forward and backward",
    size=512,
    gaussians=100_000,
    one=0.00138,
    eight=0.00387,
)
"""Rate of the rasteriser. The other parts of a training iteration (perceptual loss, optimiser) were not measured."""

ACTIVATIONS_GIB: dict[str, float] = {}
"""Peak of a refinement's activations by backbone, GiB beyond the weights. None has been measured yet."""
