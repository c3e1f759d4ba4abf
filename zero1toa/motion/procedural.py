"""The two motions that ship: ``talk`` and ``expressions``. ``python -m zero1toa.motion.procedural`` writes their files.

Nobody was recorded for them. Talk is a train of syllables: each has a vowel shape that swells and fades while the
next one begins, lips meet between some of them, phrases pause for breath, and eyes, brows and head move along.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES
from zero1toa.media import write_text
from zero1toa.motion.sequence import HEAD_NAMES, Motion

Shape = Mapping[str, float]
Pose = tuple[Shape, tuple[float, float, float]]  # weights; head yaw, pitch and roll in degrees


def _shape(text: str) -> Shape:
    """Weights written shortly: ``_shape("mouthSmile 0.9, jawOpen 0.2")``; a name without side means both sides."""
    shape: dict[str, float] = {}
    for item in text.split(","):
        name, weight = item.split()
        sides = [name] if name in ARKIT_INDEX else [f"{name}Left", f"{name}Right"]
        shape.update(dict.fromkeys(sides, float(weight)))
    return shape


# Mouth shapes at the height of a sound: ah, eh, ee, oh, oo; then m/b/p, f/v, s/t/d.
VOWELS: tuple[Shape, ...] = (
    _shape("jawOpen 0.52, mouthLowerDown 0.25"),
    _shape("jawOpen 0.30, mouthStretch 0.30, mouthUpperUp 0.20"),
    _shape("jawOpen 0.14, mouthSmile 0.35, mouthStretch 0.20"),
    _shape("jawOpen 0.34, mouthFunnel 0.55"),
    _shape("jawOpen 0.14, mouthPucker 0.55, mouthFunnel 0.25"),
)
CONSONANTS: tuple[Shape, ...] = (
    _shape("mouthPress 0.35, mouthRollLower 0.15, mouthRollUpper 0.10"),
    _shape("jawOpen 0.06, mouthRollLower 0.30, mouthUpperUp 0.15"),
    _shape("jawOpen 0.08, mouthStretch 0.15"),
)

POSES: tuple[Pose, ...] = (
    (_shape("mouthSmile 0.9, cheekSquint 0.4"), (0, 0, 0)),
    (_shape("jawOpen 0.55, browInnerUp 0.9, browOuterUp 0.8, eyeWide 0.8, mouthFunnel 0.2"), (0, 4, 0)),
    (_shape("eyeBlinkLeft 1, mouthSmileLeft 0.5, cheekSquintLeft 0.4"), (8, 0, 4)),
    (_shape("eyeBlinkRight 1, mouthSmileRight 0.5, cheekSquintRight 0.4"), (-8, 0, -4)),
    (_shape("browDown 0.9, noseSneer 0.5, mouthFrown 0.5"), (0, -6, 0)),
    (_shape("mouthFrown 0.8, browInnerUp 0.7, mouthShrugLower 0.4, eyeLookDown 0.4"), (0, -8, 3)),
    (_shape("mouthPucker 0.9, browOuterUpRight 0.4"), (0, 0, 0)),
    (_shape("cheekPuff 0.9, mouthPress 0.3"), (0, 0, 0)),
    (_shape("jawOpen 0.9, mouthLowerDown 0.3"), (0, 5, 0)),
    (_shape("eyeBlink 1"), (0, 0, 0)),
    (
        _shape("mouthLeft 0.7, mouthSmileLeft 0.3, browOuterUpLeft 0.6, eyeLookOutLeft 0.5, eyeLookInRight 0.5"),
        (20, 0, 0),
    ),
    (_shape("mouthSmile 0.6, jawOpen 0.25, mouthUpperUp 0.3, eyeLookOutRight 0.4, eyeLookInLeft 0.4"), (-20, 0, 0)),
)


def _vector(shape: Shape) -> NDArray[np.float64]:
    out = np.zeros(len(ARKIT_NAMES))
    for name, weight in shape.items():
        out[ARKIT_INDEX[name]] = weight
    return out


def _bump(times: NDArray[np.float64], center: float, rise: float, fall: float) -> NDArray[np.float64]:
    """Raised cosine that is 1 at ``center`` and 0 from ``rise`` before to ``fall`` after it, in seconds."""
    offset = times - center
    width = np.where(offset < 0, rise, fall)
    return np.where(np.abs(offset) < width, 0.5 + 0.5 * np.cos(np.pi * offset / width), 0.0)


def _add_blinks(values: NDArray[np.float64], times: NDArray[np.float64], moments: list[float]) -> None:
    """Lids close in 0.1 s and open in 0.2 s; they are the same on both sides."""
    for moment in moments:
        closed = _bump(times, moment, 0.1, 0.2)
        for name in ("eyeBlinkLeft", "eyeBlinkRight"):
            values[:, ARKIT_INDEX[name]] = np.maximum(values[:, ARKIT_INDEX[name]], closed)


def talk(rng: np.random.Generator, seconds: float = 8.0, fps: float = 25.0) -> Motion:
    """Synthetic talk: phrases of syllables at about five a second, with blinks, brows, gaze and a swaying head.

    Args:
        rng: source of the syllables.
        seconds: length.
        fps: frames per second.

    Returns:
        A motion that begins and ends at rest.
    """
    times = np.arange(round(seconds * fps)) / fps
    values = np.zeros((len(times), len(ARKIT_NAMES)))
    head = np.zeros((len(times), 3))
    at, blinks, phrase_ends = 0.35, [1.1], [0.0]
    while at < seconds - 0.7:
        end = min(at + rng.uniform(1.4, 2.4), seconds - 0.5)
        accent = at + rng.uniform(0.1, 0.5)
        lift = _bump(times, accent, 0.2, 0.5) * rng.uniform(0.25, 0.5)
        for name in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"):
            values[:, ARKIT_INDEX[name]] += lift
        head[:, 1] += 2.5 * lift
        while at < end:
            length = rng.uniform(0.15, 0.26)
            loud = rng.uniform(0.65, 1.15)
            vowel = _vector(VOWELS[rng.integers(len(VOWELS))])
            values += loud * _bump(times, at + length / 2, 0.6 * length, 0.7 * length)[:, None] * vowel
            if rng.random() < 0.55:
                consonant = _vector(CONSONANTS[rng.integers(len(CONSONANTS))])
                values += _bump(times, at, 0.07, 0.07)[:, None] * consonant
            at += length
        phrase_ends.append(end)
        blinks.append(end + 0.1)
        at = end + rng.uniform(0.3, 0.5)
    _add_blinks(values, times, blinks)
    fade = np.clip(np.minimum(times, seconds - 1 / fps - times) / 0.4, 0.0, 1.0)
    fade = fade * fade * (3 - 2 * fade)
    phase = rng.uniform(0, 2 * np.pi, 3)
    head += np.stack(
        [
            5.0 * np.sin(2 * np.pi * 0.19 * times + phase[0]),
            1.5 * np.sin(2 * np.pi * 0.31 * times + phase[1]),
            1.5 * np.sin(2 * np.pi * 0.13 * times + phase[2]),
        ],
        axis=1,
    )
    glance = _bump(times, phrase_ends[1], 0.2, 0.5) * 0.35
    values[:, ARKIT_INDEX["eyeLookOutLeft"]] += glance
    values[:, ARKIT_INDEX["eyeLookInRight"]] += glance
    return _motion(values * fade[:, None], head * fade[:, None], fps, "talk")


def expressions(
    fps: float = 25.0, move: float = 0.32, hold: float = 0.36, poses: Sequence[Pose] | None = None
) -> Motion:
    """A tour of poses, from rest to each and back through rest.

    Args:
        fps: frames per second.
        move: seconds between rest and a pose.
        hold: seconds that a pose and the rest after it are held.
        poses: which; all of :data:`POSES` by default.
    """
    poses = POSES if poses is None else poses
    step = 2 * move + 1.5 * hold
    seconds = step * len(poses) + 2 * hold
    times = np.arange(round(seconds * fps)) / fps
    values, head = np.zeros((len(times), len(ARKIT_NAMES))), np.zeros((len(times), 3))
    for i, (shape, turn) in enumerate(poses):
        start = hold + i * step
        ramp = np.clip((times - start) / move, 0, 1) * np.clip((start + 2 * move + hold - times) / move, 0, 1)
        weight = (ramp * ramp * (3 - 2 * ramp))[:, None]
        values += weight * _vector(shape)
        head += weight * np.asarray(turn, np.float64)
    return _motion(values, head, fps, "expressions")


def _motion(values: NDArray[np.float64], head: NDArray[np.float64], fps: float, name: str) -> Motion:
    return Motion(np.clip(values, 0, 1).astype(np.float32), head.astype(np.float32), fps, name)


def to_csv(motion: Motion) -> str:
    """CSV text of a motion: ``time``, the coefficients that are used, and the head; three decimals."""
    used = [j for j in range(len(ARKIT_NAMES)) if np.abs(motion.coefficients[:, j]).max() >= 5e-4]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["time", *(ARKIT_NAMES[j] for j in used), *HEAD_NAMES])
    for i in range(len(motion)):
        row = [*motion.coefficients[i, used], *motion.head[i]]
        writer.writerow([f"{i / motion.fps:g}", *(f"{round(float(value), 3) + 0.0:g}" for value in row)])
    return buffer.getvalue()


def main() -> None:
    """Write the shipped files."""
    folder = Path(__file__).parent / "data"
    for motion in (talk(np.random.default_rng(7)), expressions()):
        write_text(folder / f"{motion.name}.csv", to_csv(motion))


if __name__ == "__main__":
    main()
