"""What may drive an avatar, by the kind of file: ARKit coefficients, or talk in FLAME 2020's own coefficients."""

from __future__ import annotations

from pathlib import Path

from zero1toa.errors import MotionError
from zero1toa.head.flame.sequence import FlameSequence
from zero1toa.head.flame.talkshow import SUFFIXES, read_talkshow
from zero1toa.motion.reader import load_motion
from zero1toa.motion.sequence import Motion


def load_driver(source: str, fps: float | None = None) -> Motion | FlameSequence:
    """Read whatever drives an avatar.

    Args:
        source: a ``.csv`` or ``.npz`` file of ARKit coefficients or a shipped motion's name, as
            :func:`~zero1toa.motion.reader.load_motion`; or a ``.pkl`` or ``.npy`` file of SHOW or TalkSHOW.
        fps: frames per second of the result; its own by default.

    Returns:
        ARKit coefficients for any head, or coefficients that only FLAME 2020 can read.

    Raises:
        MotionError: for a missing or unreadable file, or a rate out of range.
    """
    path = Path(source)
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        return load_motion(source, fps)
    if fps is not None and not 0 < fps <= 240:
        raise MotionError(f"{fps:g} frames per second is out of range; give 1 to 240")
    talk = read_talkshow(path)
    return talk if fps is None else talk.resampled(fps)
