"""Procedural talk as smooth ARKit trajectories: the stand-in for recorded and synthesised speech (paper sec. 4.2).

Speech is a row of visemes. A mouth does not visit them one after the other: each pulls with a dominance that rises
before it sounds and decays after it, and the mouth is the weighted mean of all pulls (co-articulation after Cohen and
Massaro, 1993). Blinks, brows and gaze run beside it on their own clocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES

FRAME_RATE = 12.5
"""Frames per second of a talk clip: 16 frames then span 1.3 s, about six visemes, instead of half a second."""

Shape = Mapping[str, float]

_SMILE = ("mouthSmileLeft", "mouthSmileRight")
_LOWER = ("mouthLowerDownLeft", "mouthLowerDownRight")
_UPPER = ("mouthUpperUpLeft", "mouthUpperUpRight")
_STRETCH = ("mouthStretchLeft", "mouthStretchRight")


def _both(names: tuple[str, str], weight: float) -> dict[str, float]:
    return dict.fromkeys(names, weight)


# Mouth shapes of English visemes at conversational strength. The third number of a row of _SPEECH is how strongly the
# shape insists: lips must meet for a bilabial, a schwa takes whatever its neighbours leave.
_VISEMES: dict[str, Shape] = {
    "rest": {},
    "bilabial": {"mouthPressLeft": 0.35, "mouthPressRight": 0.35, "mouthRollLower": 0.15, "mouthRollUpper": 0.15},
    "labiodental": {"mouthRollLower": 0.4, "jawOpen": 0.06} | _both(_UPPER, 0.25),
    "open": {"jawOpen": 0.45} | _both(_LOWER, 0.25),
    "spread": {"jawOpen": 0.12} | _both(_SMILE, 0.3) | _both(_STRETCH, 0.2),
    "mid": {"jawOpen": 0.25} | _both(_LOWER, 0.2) | _both(_STRETCH, 0.1),
    "rounded": {"jawOpen": 0.25, "mouthFunnel": 0.5},
    "pursed": {"jawOpen": 0.08, "mouthPucker": 0.6, "mouthFunnel": 0.15},
    "dental": {"jawOpen": 0.1} | _both(_LOWER, 0.15) | _both(_UPPER, 0.1),
    "sibilant": {"jawOpen": 0.04, "mouthFunnel": 0.2} | _both(_LOWER, 0.3) | _both(_UPPER, 0.15),
    "schwa": {"jawOpen": 0.15},
}

# viseme, seconds, dominance, share among the sounds
_SPEECH: tuple[tuple[str, float, float, float], ...] = (
    ("bilabial", 0.09, 3.0, 0.12),
    ("labiodental", 0.09, 2.0, 0.06),
    ("open", 0.17, 1.2, 0.14),
    ("spread", 0.15, 1.2, 0.13),
    ("mid", 0.13, 1.0, 0.12),
    ("rounded", 0.16, 1.5, 0.09),
    ("pursed", 0.13, 1.8, 0.08),
    ("dental", 0.08, 0.8, 0.12),
    ("sibilant", 0.11, 1.2, 0.08),
    ("schwa", 0.08, 0.4, 0.06),
)
_REST = ("rest", 0.25, 1.0)
_DECAY = 14.0  # per second: a viseme's pull falls to a third within 70 ms of its edge


@dataclasses.dataclass(frozen=True)
class TalkStyle:
    """How somebody talks.

    Attributes:
        mouth: multiplies all mouth shapes, before the limits of the coefficients.
        rate: multiplies the speaking rate.
        wide_jaw: peak of one wide opening of the jaw in the clip; 0 for none.
        jaw_limit: largest ``jawOpen`` of the speech itself.
        brow: peak of the brow movement.
        emotion: range from which the strength of a lasting emotion is drawn.
        blinks: blinks per second.
        gaze: peak of the gaze coefficients.
    """

    mouth: float
    rate: float
    wide_jaw: float
    jaw_limit: float
    brow: float
    emotion: tuple[float, float]
    blinks: float
    gaze: float


RELAXED = TalkStyle(
    mouth=0.8, rate=0.9, wide_jaw=0.0, jaw_limit=0.45, brow=0.2, emotion=(0.0, 0.15), blinks=0.4, gaze=0.15
)
"""Calm conversation, the synthetic stage; recorded talk-show jaws stay under 10 degrees as well."""

EXAGGERATED = TalkStyle(
    mouth=1.5, rate=1.2, wide_jaw=0.0, jaw_limit=0.5, brow=0.8, emotion=(0.3, 0.8), blinks=0.7, gaze=0.4
)
"""Lively talk, the real stage, without the wide-open jaws that recordings lack."""

_EMOTIONS: tuple[Shape, ...] = (
    {**_both(_SMILE, 1.0), "cheekSquintLeft": 0.5, "cheekSquintRight": 0.5},
    {"mouthFrownLeft": 0.9, "mouthFrownRight": 0.9, "browInnerUp": 0.5},
    {"browDownLeft": 1.0, "browDownRight": 1.0, "noseSneerLeft": 0.5, "noseSneerRight": 0.5},
    {"browInnerUp": 1.0, "browOuterUpLeft": 0.9, "browOuterUpRight": 0.9, "eyeWideLeft": 0.8, "eyeWideRight": 0.8},
)


def talk(frames: int, style: TalkStyle, rng: np.random.Generator) -> NDArray[np.float32]:
    """Make a stretch of talk.

    Args:
        frames: length T at :data:`FRAME_RATE`.
        style: how.
        rng: source of all draws.

    Returns:
        ARKit coefficients ``[T, 52]`` float32 in [0, 1], smooth in time.
    """
    seconds = np.arange(frames) / FRAME_RATE
    out = style.mouth * _mouth(seconds, style, rng)
    jaw = ARKIT_INDEX["jawOpen"]
    out[:, jaw] = np.minimum(out[:, jaw], style.jaw_limit)
    out += rng.uniform(*style.emotion) * _vector(_EMOTIONS[int(rng.integers(len(_EMOTIONS)))])
    _add_brows(out, seconds, style, rng)
    _add_gaze(out, seconds, style, rng)
    if style.wide_jaw > 0:
        _add_wide_jaw(out, seconds, style, rng)
    _add_blinks(out, seconds, style, rng)
    return np.clip(out, 0.0, 1.0).astype(np.float32)


def _mouth(seconds: NDArray[np.float64], style: TalkStyle, rng: np.random.Generator) -> NDArray[np.float64]:
    """Dominance-weighted mean of the visemes that sound between half a second before and after the clip."""
    shares = np.array([row[3] for row in _SPEECH])
    clock = -0.5 - float(rng.uniform(0, 0.2))
    weighted = np.zeros((len(seconds), len(ARKIT_NAMES)))
    total = np.full(len(seconds), 1e-3)  # a faint pull to rest where nothing sounds
    end = float(seconds[-1]) + 0.5
    while clock < end:
        chosen = _SPEECH[int(rng.choice(len(_SPEECH), p=shares / shares.sum()))]
        name, length, dominance = _REST if rng.random() < 0.06 else chosen[:3]
        length *= float(rng.uniform(0.8, 1.3)) / style.rate
        strength = float(rng.uniform(0.75, 1.15))
        outside = np.maximum(np.maximum(clock - seconds, seconds - (clock + length)), 0.0)
        pull = dominance * np.exp(-_DECAY * style.rate * outside)
        weighted += pull[:, None] * strength * _vector(_VISEMES[name])
        total += pull
        clock += length
    return weighted / total[:, None]


def _add_brows(
    out: NDArray[np.float64], seconds: NDArray[np.float64], style: TalkStyle, rng: np.random.Generator
) -> None:
    """One slow rise and fall of the brows, up or down."""
    bump = _bump(seconds, float(rng.uniform(0, seconds[-1] + 0.1)), 0.35)
    up = ("browInnerUp", "browOuterUpLeft", "browOuterUpRight")
    names = up if rng.random() < 0.7 else ("browDownLeft", "browDownRight")
    height = style.brow * float(rng.uniform(0.5, 1.0))
    for name in names:
        out[:, ARKIT_INDEX[name]] += height * bump


def _add_gaze(
    out: NDArray[np.float64], seconds: NDArray[np.float64], style: TalkStyle, rng: np.random.Generator
) -> None:
    """Both eyes drift together; a glance to the left turns the left eye out and the right eye in."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    speed = rng.uniform(0.2, 0.5, 2)
    sideways = style.gaze * np.sin(2 * np.pi * speed[0] * seconds + phase[0])
    upwards = 0.5 * style.gaze * np.sin(2 * np.pi * speed[1] * seconds + phase[1])
    for value, names in (
        (sideways, ("eyeLookOutLeft", "eyeLookInRight")),
        (-sideways, ("eyeLookInLeft", "eyeLookOutRight")),
        (upwards, ("eyeLookUpLeft", "eyeLookUpRight")),
        (-upwards, ("eyeLookDownLeft", "eyeLookDownRight")),
    ):
        for name in names:
            out[:, ARKIT_INDEX[name]] += np.maximum(value, 0.0)


def _add_wide_jaw(
    out: NDArray[np.float64], seconds: NDArray[np.float64], style: TalkStyle, rng: np.random.Generator
) -> None:
    """Open the jaw wide once. Shapes that press the lips together give way, else lips would be torn through teeth."""
    bump = _bump(seconds, float(rng.uniform(0.3, 0.7)) * float(seconds[-1]), 0.3)
    bump /= max(float(bump.max()), 1e-6)  # the peak falls on a frame
    jaw = ARKIT_INDEX["jawOpen"]
    pressing = [ARKIT_INDEX[n] for n in ("mouthPressLeft", "mouthPressRight", "mouthRollLower", "mouthRollUpper")]
    pressing += [ARKIT_INDEX["mouthPucker"], ARKIT_INDEX["mouthClose"]]
    out[:, pressing] *= (1.0 - bump)[:, None]
    out[:, jaw] = (1.0 - bump) * out[:, jaw] + bump * style.wide_jaw


def _add_blinks(
    out: NDArray[np.float64], seconds: NDArray[np.float64], style: TalkStyle, rng: np.random.Generator
) -> None:
    """Complete blinks: lids close within 80 ms and open within 160 ms, a little apart from each other."""
    length = float(seconds[-1]) + 1.0 / FRAME_RATE
    for _ in range(int(rng.poisson(style.blinks * length))):
        start = float(rng.uniform(0, length))
        for name, lag in (("eyeBlinkLeft", 0.0), ("eyeBlinkRight", float(rng.uniform(-0.01, 0.01)))):
            since = seconds - start - lag
            lid = np.clip(np.where(since < 0, 1 + since / 0.08, 1 - since / 0.16), 0.0, 1.0)
            column = out[:, ARKIT_INDEX[name]]
            np.maximum(column, lid, out=column)
            # Wide eyes and blinks exclude each other.
            out[:, ARKIT_INDEX[name.replace("Blink", "Wide")]] *= 1 - lid


def _bump(seconds: NDArray[np.float64], middle: float, width: float) -> NDArray[np.float64]:
    """Raised cosine of the given half width in seconds."""
    phase = np.clip((seconds - middle) / width, -1.0, 1.0)
    return 0.5 + 0.5 * np.cos(np.pi * phase)


def _vector(shape: Shape) -> NDArray[np.float64]:
    out = np.zeros(len(ARKIT_NAMES))
    for name, weight in shape.items():
        out[ARKIT_INDEX[name]] = weight
    return out
