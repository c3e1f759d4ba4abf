"""A motion: ARKit coefficients and head rotation over time, whatever they were read or computed from."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

HEAD_NAMES: tuple[str, ...] = ("yaw", "pitch", "roll")


@dataclasses.dataclass(frozen=True)
class Motion:
    """Frames of facial motion at a constant rate.

    Attributes:
        coefficients: ARKit weights ``[T, 52]`` float32, in the order of :data:`zero1toa.head.arkit.ARKIT_NAMES`.
        head: head rotation ``[T, 3]`` float32 in degrees: yaw (+ turns to the subject's left), pitch (+ looks up),
            roll (+ tips the crown to the subject's left).
        fps: frames per second.
        name: where it comes from, for messages.
    """

    coefficients: NDArray[np.float32]
    head: NDArray[np.float32]
    fps: float
    name: str

    def __len__(self) -> int:
        return int(self.coefficients.shape[0])

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self) / self.fps

    def neck(self) -> NDArray[np.float32]:
        """Head rotation as axis-angle ``[T, 3]`` float32 in radians, in the head's frame (+y up, +z forward).

        Rotation order: roll about z, then pitch about x, then yaw about y, all about fixed axes.
        """
        from scipy.spatial.transform import Rotation

        yaw, pitch, roll = self.head.T
        turned = Rotation.from_euler("zxy", np.stack([-roll, -pitch, yaw], axis=-1), degrees=True)
        return turned.as_rotvec().astype(np.float32)

    def resampled(self, fps: float) -> Motion:
        """The same motion at another rate, linearly interpolated; the first frame stays the first.

        Args:
            fps: frames per second, positive.
        """
        if abs(fps - self.fps) < 1e-6:
            return self
        old = np.arange(len(self)) / self.fps
        count = int(np.floor(old[-1] * fps + 1e-6)) + 1
        return interpolate(old, self.coefficients, self.head, np.arange(count) / fps, fps, self.name)


def interpolate(
    times: NDArray[np.floating],
    coefficients: NDArray[np.floating],
    head: NDArray[np.floating],
    wanted: NDArray[np.floating],
    fps: float,
    name: str,
) -> Motion:
    """Linear interpolation of a motion given at ``times`` ``[T]`` (increasing seconds) to ``wanted`` ``[N]``.

    Args:
        times: seconds of the given frames.
        coefficients: ``[T, 52]``.
        head: ``[T, 3]`` degrees.
        wanted: seconds of the frames to make.
        fps: rate of ``wanted``.
        name: name of the result.
    """
    values = np.concatenate([coefficients, head], axis=1)
    out = np.stack([np.interp(wanted, times, column) for column in values.T], axis=1).astype(np.float32)
    split = coefficients.shape[1]
    return Motion(out[:, :split], out[:, split:], fps, name)
