"""What shows an avatar at a glance: frames of a video, and a sheet of views and expressions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zero1toa import media
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.evaluation.portrait_view import premultiplied_resize
from zero1toa.head.arkit import ARKIT_NAMES, coefficients
from zero1toa.motion.procedural import POSES, expressions
from zero1toa.motion.reader import load_motion

FPS = 25.0
"""Frames per second of the preview."""

_SWEEP_SECONDS, _SWEEP_DEGREES = 4.0, 55.0
_SHOWN_POSES = (0, 1, 2, 6, 9)  # of POSES: smile, surprise, wink, pucker, closed eyes
_TALK = slice(8, 68)  # frames of the shipped talk
_SHEET_AZIMUTHS = (-60, -30, 0, 30, 60)
_SHEET_EXPRESSIONS: tuple[tuple[str, dict[str, float]], ...] = (
    ("mouth open", {"jawOpen": 1.0}),
    ("smile", {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4}),
    ("eyes closed", {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}),
    ("left wink", {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.5}),
    ("pucker", {"mouthPucker": 1.0}),
)


def turntable(player: AvatarPlayer, size: int, fps: float = FPS) -> Iterator[NDArray[np.uint8]]:
    """Frames ``[S, S, 3]`` uint8 of the head at rest, from its front to both sides and back."""
    count = round(_SWEEP_SECONDS * fps)
    azimuth = _SWEEP_DEGREES * np.sin(2 * np.pi * np.arange(count) / count)
    yield from player.frames(np.zeros((count, len(ARKIT_NAMES)), np.float32), azimuth, size=size)


def preview_frames(player: AvatarPlayer, size: int) -> Iterator[NDArray[np.uint8]]:
    """Frames ``[S, S, 3]`` uint8 of the preview: :func:`turntable`, then expressions, then talk."""
    yield from turntable(player, size)
    tour = expressions(FPS, move=0.24, hold=0.24, poses=[POSES[i] for i in _SHOWN_POSES])
    yield from player.frames(tour.coefficients, size=size, neck=tour.neck())
    talk = load_motion("talk", FPS)
    yield from player.frames(talk.coefficients[_TALK], size=size, neck=talk.neck()[_TALK])


def preview_sheet(player: AvatarPlayer, size: int) -> NDArray[np.uint8]:
    """The portrait and the avatar from around, above and below, and with expressions, in one labelled picture."""
    pictures, labels = [], []
    if player.bundle.portrait is not None:
        pictures.append(media.over(premultiplied_resize(player.bundle.portrait, size)))
        labels.append("portrait")
    pictures.append(player.portrait_view(size))
    labels.append("same view")
    rest = np.zeros((1, len(ARKIT_NAMES)), np.float32)
    for elevation, label in ((25, "from above"), (0, "at rest"), (-20, "from below")):
        pictures.append(player.render(rest, 0.0, elevation, size)[0])
        labels.append(label)
    for azimuth in _SHEET_AZIMUTHS:
        pictures.append(player.render(rest, azimuth, 0.0, size)[0])
        labels.append(f"{azimuth:+d}°" if azimuth else "front")
    for label, weights in _SHEET_EXPRESSIONS:
        pictures.append(player.render(coefficients(weights).numpy()[None], 0.0, 0.0, size)[0])
        labels.append(label)
    return media.contact_sheet(pictures, labels, columns=5)
