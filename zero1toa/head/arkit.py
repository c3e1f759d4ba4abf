"""The 52 ARKit blendshape names: the control vocabulary that every head model and every motion driver shares.

Order: Apple's ``ARFaceAnchor.BlendShapeLocation`` in the order MediaPipe reports it, without ``_neutral``.
"left" and "right" are the subject's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zero1toa.errors import MotionError, nearest

ARKIT_NAMES: tuple[str, ...] = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight",
    "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight",
    "eyeWideLeft", "eyeWideRight",
    "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
    "tongueOut",
)  # fmt: skip

ARKIT_INDEX: dict[str, int] = {name: i for i, name in enumerate(ARKIT_NAMES)}


def coefficients(values: Mapping[str, float]) -> torch.Tensor:
    """Turn ``{"jawOpen": 0.8}`` into a coefficient vector.

    Args:
        values: ARKit names to weights; names that are absent are 0.

    Returns:
        Float32 tensor ``[52]`` in the order of :data:`ARKIT_NAMES`.

    Raises:
        MotionError: for a name that is not one of the 52, naming the nearest valid one.
    """
    out = torch.zeros(len(ARKIT_NAMES))
    for name, value in values.items():
        if name not in ARKIT_INDEX:
            raise MotionError(f"'{name}' is not an ARKit blendshape{nearest(name, ARKIT_NAMES)}")
        out[ARKIT_INDEX[name]] = float(value)
    return out
