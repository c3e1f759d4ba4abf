"""FLAME 2020 coefficients over time, as recordings and trackers give them.

All public sources of FLAME coefficients (SHOW and TalkSHOW, DECA, EMOCA, MICA, SMIRK) use the basis of FLAME 2020. The
other editions have as many coefficients, which mean something else, so nothing here is ever given to another head.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from zero1toa.errors import HeadModelError
from zero1toa.head.flame.editions import EDITIONS
from zero1toa.head.protocol import HeadParams

MODEL = EDITIONS["flame2020"].model
"""Name of the head model that all of these coefficients belong to."""
N_SHAPE, N_EXPRESSION = 300, 100

Floats = NDArray[np.float32]


def require_flame2020(model: str, what: str) -> None:
    """Refuse a head that cannot read FLAME 2020 coefficients.

    Args:
        model: name of the head model in use.
        what: the file or folder they come from.

    Raises:
        HeadModelError: unless it is FLAME 2020.
    """
    if model != MODEL:
        raise HeadModelError(
            f"{what} holds coefficients of FLAME 2020, which mean nothing on the head model in use, {model}; make the "
            "avatar with head=flame2020 (zero1toa assets says how to install it)"
        )


@dataclasses.dataclass(frozen=True)
class FlameSequence:
    """Expression and pose of a FLAME 2020 head over time, whoever's identity.

    Attributes:
        expression: coefficients ``[T, 100]`` float32 in standard deviations.
        jaw: rotation of the jaw joint ``[T, 3]`` float32, axis-angle in radians, as all rotations here.
        neck: rotation of the head against the torso ``[T, 3]``.
        eyes: left and right eyeball ``[T, 2, 3]``.
        fps: frames per second.
        name: where it comes from, for messages.
    """

    expression: Floats
    jaw: Floats
    neck: Floats
    eyes: Floats
    fps: float
    name: str

    def __len__(self) -> int:
        return int(self.expression.shape[0])

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self) / self.fps

    def resampled(self, fps: float) -> FlameSequence:
        """The same motion at another rate; the first frame stays the first.

        Coefficients are interpolated linearly, rotations along the shortest turn.

        Args:
            fps: frames per second, positive.
        """
        if abs(fps - self.fps) < 1e-6 or len(self) < 2:
            return dataclasses.replace(self, fps=fps)  # one frame has no rate
        old = np.arange(len(self)) / self.fps
        wanted = np.arange(int(np.floor(old[-1] * fps + 1e-6)) + 1) / fps
        expression = np.stack([np.interp(wanted, old, column) for column in self.expression.T], axis=1)
        eyes = [_turned(old, self.eyes[:, side], wanted) for side in (0, 1)]
        return FlameSequence(
            expression=expression.astype(np.float32),
            jaw=_turned(old, self.jaw, wanted),
            neck=_turned(old, self.neck, wanted),
            eyes=np.stack(eyes, axis=1),
            fps=fps,
            name=self.name,
        )

    def part(self, start: int, frames: int) -> FlameSequence:
        """``frames`` frames from frame ``start`` on."""
        rows = slice(start, start + frames)
        arrays = {name: getattr(self, name)[rows] for name in ("expression", "jaw", "neck", "eyes")}
        return dataclasses.replace(self, **arrays)

    def params(self, identity: HeadParams) -> HeadParams:
        """The motion on somebody's head.

        Args:
            identity: a FLAME 2020 head without batch dimension; its shape and offset are kept.

        Returns:
            Head parameters with leading dimension T; lids stay open, because FLAME 2020 closes them by expression.

        Raises:
            HeadModelError: when ``identity`` is of another head model.
        """
        require_flame2020(identity.model or MODEL, self.name)
        like = identity.expression
        moved = {name: torch.from_numpy(getattr(self, name)).to(like) for name in ("expression", "jaw", "neck", "eyes")}
        return identity.replace(**moved, lids=like.new_zeros(len(self), 2))


def _turned(old: NDArray[np.float64], rotations: Floats, wanted: NDArray[np.float64]) -> Floats:
    from scipy.spatial.transform import Rotation, Slerp

    return Slerp(old, Rotation.from_rotvec(rotations))(wanted).as_rotvec().astype(np.float32)
