"""What may drive an avatar, by the kind of file: ARKit coefficients, FLAME 2020's own coefficients, or a video."""

from __future__ import annotations

from pathlib import Path

from zero1toa.errors import MotionError
from zero1toa.head.flame.sequence import FlameSequence
from zero1toa.head.flame.talkshow import SUFFIXES, read_talkshow
from zero1toa.head.registry import load_head
from zero1toa.motion.reader import load_motion
from zero1toa.motion.sequence import Motion
from zero1toa.motion.video import SUFFIXES as VIDEO_SUFFIXES
from zero1toa.motion.video import read_video_motion


def load_driver(source: str, fps: float | None = None) -> Motion | FlameSequence:
    """Read whatever drives an avatar.

    Args:
        source: a ``.csv`` or ``.npz`` file of ARKit coefficients or a shipped motion's name, as
            :func:`~zero1toa.motion.reader.load_motion`; a ``.pkl`` or ``.npy`` file of SHOW or TalkSHOW; or a video.
        fps: frames per second of the result; its own by default.

    Returns:
        ARKit coefficients for any head, or coefficients that only FLAME 2020 can read.

    Raises:
        MotionError: for a missing or unreadable file, a video without a face, or a rate out of range.
        AssetError: for a video where MediaPipe is missing.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (*SUFFIXES, *VIDEO_SUFFIXES):
        return load_motion(source, fps)
    if fps is not None and not 0 < fps <= 240:
        raise MotionError(f"{fps:g} frames per second is out of range; give 1 to 240")
    if suffix in SUFFIXES:
        talk = read_talkshow(path)
        return talk if fps is None else talk.resampled(fps)
    # Only ARKit coefficients are kept, which every head understands; the embedded head is always there and fits fast.
    motion = read_video_motion(path, load_head("canonical"))
    return motion if fps is None else motion.resampled(fps)


def is_video(source: str) -> bool:
    """Whether :func:`load_driver` would read a video, which takes about as many seconds as it has frames."""
    path = Path(source)
    return path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES
