"""A video of a face as a motion: MediaPipe's blendshapes where its ``.task`` file is installed, else landmark fitting.

Fitting: one identity for the whole video, then each frame's camera and ARKit coefficients from where the frame before
ended. The camera stands still, so that what the fit says of it is how the head turns. Both ways give rotations in the
camera's frame. Frames without a face are interpolated, and the whole is smoothed over little more than a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zero1toa.errors import MotionError, PortraitError
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES
from zero1toa.head.protocol import HeadModel
from zero1toa.media import Picture
from zero1toa.motion.sequence import Motion, interpolate
from zero1toa.portrait import graphs
from zero1toa.portrait.fitting import HeadFit, KnownHead, fit_head, portrait_intrinsics
from zero1toa.portrait.landmarks import Landmarks, face_height, task_place, track_face

SUFFIXES = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")

_SMOOTHING = 0.03  # seconds; a lid closes within 80 ms
_IDENTITIES = 5  # frames whose fitted identities are averaged
_TO_CAMERA = np.diag([1.0, -1.0, -1.0])  # a head that looks into an OpenCV camera


@dataclasses.dataclass(frozen=True)
class _Frame:
    """One frame: ARKit coefficients ``[52]`` and the head's rotation ``[3, 3]`` (+y up, +z towards the camera)."""

    coefficients: NDArray[np.float32]
    rotation: NDArray[np.float64]


def read_video_motion(path: Path, head: HeadModel) -> Motion:
    """Read the expression and the head's rotation off a video.

    Args:
        path: a video with one face; of several the largest is followed.
        head: head model that is fitted to the landmarks, on the CPU.

    Returns:
        The motion at the video's rate; its name says how it was found.

    Raises:
        MotionError: when the video cannot be read or shows a face in less than half of its frames.
        AssetError: when MediaPipe or its model is missing.
    """
    fps, pictures = _open(path)
    task = task_place()
    if task.is_file():
        frames, way = [_blendshapes(picture, task) for picture in pictures], "MediaPipe's blendshapes"
    else:
        frames, way = _fitted(pictures, head), "landmark fitting"
    found = [i for i, frame in enumerate(frames) if frame is not None]
    if not frames or 2 * len(found) < len(frames):
        raise MotionError(
            f"{path} shows a face in {len(found)} of {len(frames)} frames; give a video of one face, not in profile"
        )
    seen = [frame for frame in frames if frame is not None]
    motion = interpolate(
        np.asarray(found) / fps,
        np.stack([frame.coefficients for frame in seen]),
        head_angles(np.stack([frame.rotation for frame in seen])),
        np.arange(len(frames)) / fps,
        fps,
        f"{path.name}: {way}, face in {len(found)} of {len(frames)} frames",
    )
    return _smoothed(motion)


def head_angles(rotations: NDArray[np.floating]) -> NDArray[np.float64]:
    """Yaw, pitch and roll ``[T, 3]`` in degrees, without jumps, of rotations ``[T, 3, 3]`` (+y up, +z forward).

    The inverse of :meth:`zero1toa.motion.sequence.Motion.neck`.
    """
    from scipy.spatial.transform import Rotation

    roll, pitch, yaw = Rotation.from_matrix(rotations).as_euler("zxy").T
    return np.degrees(np.unwrap(np.stack([yaw, -pitch, -roll], axis=1), axis=0))


def _open(path: Path) -> tuple[float, Iterator[Picture]]:
    """Rate and pictures ``[H, W, 3]`` of a video."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        meta = next(reader)
        width, height = meta["size"]
        fps = float(meta["fps"])
    except (OSError, RuntimeError, StopIteration, KeyError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no frames"])[-1]
        raise MotionError(f"{path} is not a readable video: {reason}") from error
    if not 1 <= fps <= 240:
        raise MotionError(f"{path} has {fps:g} frames per second; give a video with 1 to 240")
    return fps, (np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in reader)


def _blendshapes(picture: Picture, task: Path) -> _Frame | None:
    with graphs.LOCK:
        image = graphs.as_image(graphs.import_mediapipe(), picture)
        return from_landmarker(graphs.blendshape_landmarker(task).detect(image))


def from_landmarker(result: Any) -> _Frame | None:
    """One face of a ``FaceLandmarkerResult``: its scores by name (there is no ``tongueOut``) and its pose, or None.

    MediaPipe's pose is that of its own upright head before a camera that looks along -z with +y up.
    """
    if not result.face_blendshapes or not result.facial_transformation_matrixes:
        return None
    coefficients = np.zeros(len(ARKIT_NAMES), np.float32)
    for category in result.face_blendshapes[0]:
        if category.category_name in ARKIT_INDEX:
            coefficients[ARKIT_INDEX[category.category_name]] = category.score
    pose = np.asarray(result.facial_transformation_matrixes[0], np.float64)[:3, :3]
    u, _, vt = np.linalg.svd(pose)  # it carries a scale
    return _Frame(coefficients, u @ vt)


def _fitted(pictures: Iterator[Picture], head: HeadModel) -> list[_Frame | None]:
    tracks: list[Landmarks | None] = []
    last, middle = None, (0.0, 0.0)
    for picture in pictures:
        middle = (picture.shape[1] / 2, picture.shape[0] / 2)
        points = track_face(picture, last)
        last = points if points is not None else last
        tracks.append(points)
    faces = [points for points in tracks if points is not None]
    if not faces:
        return [None] * len(tracks)
    typical = faces[int(np.argsort([face_height(points) for points in faces])[len(faces) // 2])]
    K = portrait_intrinsics(typical, middle)
    chosen = np.unique(np.linspace(0, len(faces) - 1, _IDENTITIES).round().astype(int))
    fits = [fit for i in chosen if (fit := _fit(faces[i], K, head)) is not None]
    if not fits:
        return [None] * len(tracks)
    known = KnownHead(torch.stack([fit.params.shape for fit in fits]).mean(0))
    out: list[_Frame | None] = []
    start: HeadFit | None = None
    for points in tracks:
        fit = None if points is None else _fit(points, K, head, start, known)
        start = fit or start
        rotation = None if fit is None else _TO_CAMERA @ fit.viewmat[:3, :3].double().numpy()
        out.append(None if fit is None or rotation is None else _Frame(fit.arkit.numpy(), rotation))
    return out


def _fit(
    points: Landmarks, K: torch.Tensor, head: HeadModel, start: HeadFit | None = None, known: KnownHead | None = None
) -> HeadFit | None:
    try:
        return fit_head(points, K, head, start=start, known=known)
    except PortraitError:  # a frame in which something covers the face
        return None


def _smoothed(motion: Motion) -> Motion:
    from scipy.ndimage import gaussian_filter1d

    width = _SMOOTHING * motion.fps
    coefficients, head = (
        gaussian_filter1d(a, width, axis=0, mode="nearest") for a in (motion.coefficients, motion.head)
    )
    return dataclasses.replace(motion, coefficients=coefficients, head=head)
