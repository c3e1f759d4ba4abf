"""Talk that the user has: TalkSHOW's clips as temporal samples, the paper's own source (sec. 4.2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from zero1toa.config import CurriculumConfig
from zero1toa.curriculum.talk import FRAME_RATE
from zero1toa.errors import MotionError
from zero1toa.head.arkit import coefficients
from zero1toa.head.flame.sequence import require_flame2020
from zero1toa.head.flame.talkshow import read_talkshow, talkshow_files
from zero1toa.head.protocol import HeadModel, HeadParams

_OPENING = 0.3  # seconds from shut to wide open


class Recordings:
    """A folder's clips, in an order that the generator draws; each is read when its turn comes.

    Args:
        place: folder of SHOW's ``.pkl`` and TalkSHOW's ``.npy`` clips, in folders of any depth; or one such file.
        head: the head model in use.
        rng: source of the order.

    Raises:
        HeadModelError: unless the head is FLAME 2020.
        MotionError: when there are no clips.
    """

    def __init__(self, place: str, head: HeadModel, rng: np.random.Generator) -> None:
        require_flame2020(head.name, place)
        files = talkshow_files(Path(place).expanduser())
        self._files = [files[int(i)] for i in rng.permutation(len(files))]
        self._taken = 0

    def take(self, frames: int, identity: HeadParams, rng: np.random.Generator) -> HeadParams:
        """A stretch of the next clip at :data:`~zero1toa.curriculum.talk.FRAME_RATE`; after the last comes the first.

        Args:
            frames: length T.
            identity: the avatar's head, no batch dimension.
            rng: source of the first frame.

        Raises:
            MotionError: when the clip is unreadable or shorter than T frames.
        """
        path = self._files[self._taken % len(self._files)]
        self._taken += 1
        talk = read_talkshow(path).resampled(FRAME_RATE)
        if len(talk) < frames:
            raise MotionError(
                f"{path} lasts {talk.duration:.1f} s; a clip of {frames} frames needs {frames / FRAME_RATE:.1f} s: "
                "take it out of the folder, or lower curriculum.frames"
            )
        return talk.part(int(rng.integers(len(talk) - frames + 1)), frames).params(identity)


def check_recordings(config: CurriculumConfig, head: HeadModel) -> None:
    """Find out before any work whether the configured folders can be used.

    Args:
        config: names the folders, or none.
        head: the head model in use.

    Raises:
        HeadModelError: unless the head is FLAME 2020.
        MotionError: when a folder has no clips.
    """
    for place in (config.synthetic_talk, config.real_talk):
        if place:
            Recordings(place, head, np.random.default_rng(0))


def open_wide(params: HeadParams, head: HeadModel, strength: float, rng: np.random.Generator) -> HeadParams:
    """Open the jaw wide once in a recording, whose own expression gives way to it.

    Args:
        params: expression and pose of T frames.
        head: knows how its mouth opens.
        strength: ``jawOpen`` at the peak.
        rng: source of the peak's time.
    """
    frames = len(params.jaw)
    middle = float(rng.uniform(0.3, 0.7)) * (frames - 1)
    distance = np.abs(np.arange(frames) - middle) / (_OPENING * FRAME_RATE)
    share = 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance, 1.0))
    share /= share.max()  # the peak falls on a frame
    with torch.no_grad():
        wide = head.arkit(coefficients({"jawOpen": strength}).to(params.jaw), params)
        weight = torch.from_numpy(share).to(params.jaw)[:, None]
        return params.replace(
            expression=torch.lerp(params.expression, wide.expression.expand_as(params.expression), weight),
            jaw=torch.lerp(params.jaw, wide.jaw.expand_as(params.jaw), weight),
        )
