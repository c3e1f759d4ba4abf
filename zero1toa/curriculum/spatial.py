"""Spatial clips: one expression each, the camera moves from front to side (paper sec. 4.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zero1toa.config import CurriculumConfig
from zero1toa.curriculum.cameras import draw_lens, front_to_side
from zero1toa.curriculum.clips import clip_spec
from zero1toa.head.arkit import coefficients
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.types import ClipSpec, SampleKey

# Basic expressions, each an ARKit action unit (both sides of it where a face moves them together). The order spreads
# mouth, eyes and brows, so that a short list covers all of them. Clips alternate between the subject's left and right
# side, and the list is odd, so that a second round sees every expression from the other side; a wink is seen first
# from its own side.
UNITS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("jawOpen", {"jawOpen": 1.0}),
    ("eyeBlink", {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}),
    ("mouthSmile", {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0}),
    ("browInnerUp", {"browInnerUp": 1.0, "browOuterUpLeft": 0.8, "browOuterUpRight": 0.8}),
    ("mouthPucker", {"mouthPucker": 1.0}),
    ("browDown", {"browDownLeft": 1.0, "browDownRight": 1.0}),
    ("eyeBlinkLeft", {"eyeBlinkLeft": 1.0}),
    ("eyeBlinkRight", {"eyeBlinkRight": 1.0}),
    ("mouthFunnel", {"mouthFunnel": 1.0, "jawOpen": 0.2}),
    ("mouthFrown", {"mouthFrownLeft": 1.0, "mouthFrownRight": 1.0}),
    ("eyeWide", {"eyeWideLeft": 1.0, "eyeWideRight": 1.0}),
    ("mouthLowerDown", {"mouthLowerDownLeft": 1.0, "mouthLowerDownRight": 1.0}),
    ("mouthLeft", {"mouthLeft": 1.0}),
    ("mouthRight", {"mouthRight": 1.0}),
    ("mouthUpperUp", {"mouthUpperUpLeft": 1.0, "mouthUpperUpRight": 1.0}),
    ("eyeSquint", {"eyeSquintLeft": 1.0, "eyeSquintRight": 1.0, "cheekSquintLeft": 0.6, "cheekSquintRight": 0.6}),
    ("mouthStretch", {"mouthStretchLeft": 1.0, "mouthStretchRight": 1.0}),
    ("cheekPuff", {"cheekPuff": 1.0}),
    ("mouthPress", {"mouthPressLeft": 1.0, "mouthPressRight": 1.0}),
    ("jawLeft", {"jawLeft": 1.0}),
    ("jawRight", {"jawRight": 1.0}),
)

_WEAKEST = 0.7  # smallest weight drawn for a unit; a blink is always complete, or the closed lid is never seen
_COMPLETE = ("eyeBlink", "eyeBlinkLeft", "eyeBlinkRight")


def spatial_clips(
    config: CurriculumConfig, head: HeadModel, identity: HeadParams, size: int, rng: np.random.Generator
) -> list[ClipSpec]:
    """Specifications of the spatial dataset D_s.

    Args:
        config: number of clips and frames, camera ranges.
        head: the head model.
        identity: the avatar's head, no batch dimension.
        size: side of the frames in pixels.
        rng: source of all draws.

    Returns:
        ``config.spatial_clips`` clips: camera in front at frame 0, at a drawn side view at the last frame.
    """
    clips = []
    for index in range(config.spatial_clips):
        name, unit = UNITS[index % len(UNITS)]
        lens = draw_lens(rng, config, head.height)
        side = 1.0 if index % 2 == 0 else -1.0
        azimuths, elevations = front_to_side(
            side * float(rng.uniform(*config.spatial_azimuth)),
            float(rng.uniform(*config.spatial_elevation)),
            config.frames,
        )
        drawn = float(rng.uniform(_WEAKEST, 1.0))
        weights = coefficients(unit).numpy() * (1.0 if name in _COMPLETE else drawn)
        clips.append(
            clip_spec(
                SampleKey("spatial", f"{name}-{index:02d}"),
                head=head,
                identity=identity,
                coefficients=np.tile(weights.astype(np.float32), (config.frames, 1)),
                azimuths=azimuths,
                elevations=elevations,
                lens=lens,
                size=size,
            )
        )
    return clips
