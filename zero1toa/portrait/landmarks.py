"""MediaPipe's 478 face landmarks: carefully for a photo of any kind, quickly for rendered frames."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zero1toa import assets
from zero1toa.errors import AssetError
from zero1toa.head.protocol import N_LANDMARKS
from zero1toa.portrait import graphs
from zero1toa.types import LandmarkTrack

FOREHEAD, CHIN = 10, 152
"""Landmarks whose distance is the face height, the unit of all residuals."""

TASK_VARIABLE = "ZERO1TOA_FACE_LANDMARKER"
"""Environment variable that names a ``face_landmarker.task`` file, for a MediaPipe without built-in models; without it
the file is looked for in the asset folder."""

_MESH_SIDE = 512  # the network sees 192 pixels; more than this only costs time
_CROPS = (1.6, 1.8, 2.0, 2.2, 2.4, 2.6)  # side of the crops over the face height, for the median
_TRACK_CROPS = (1.7, 2.0, 2.3)
_MIN_SEEN = 4  # crops that must show the face
_MAX_SPREAD = 0.015  # largest mean disagreement between crops over the face height; real faces stay under 0.007
_SAME_FACE = 0.4  # overlap above which two detections are one face
_THREADS = 8  # that look at frames, at most; each has a graph of its own, which takes 30 MB

Landmarks = NDArray[np.float32]
"""``[478, 3]`` float32: x, y in pixels; z in pixels too, towards the camera negative, about the head's centre."""


def face_height(points: NDArray[np.floating]) -> float:
    """Distance in pixels from forehead (10) to chin (152) of ``points`` ``[478, >=2]``."""
    return float(np.linalg.norm(points[FOREHEAD, :2] - points[CHIN, :2]))


def detect_faces(image: NDArray[np.uint8], max_faces: int = 8) -> list[Landmarks]:
    """Find all faces of a photo and measure their landmarks.

    Faces are looked for in the whole picture, then, if there is none, in the picture with a border (faces that fill the
    frame) and in overlapping tiles (small faces). Landmarks are the median over several crops, which halves
    the detector's jitter of 0.3 to 0.8 % of the face height.

    Args:
        image: sRGB ``[H, W, 3]`` uint8.
        max_faces: most faces returned.

    Returns:
        Landmarks in pixels of ``image`` (pixel centres at +0.5), the largest face first; empty without a face.

    Raises:
        AssetError: MediaPipe or its model is missing.
    """
    image = np.ascontiguousarray(image[..., :3])
    found: list[Landmarks] = []
    for boxes in (_boxes_whole, _boxes_padded, _boxes_tiled):
        for center, side in boxes(image, max_faces):
            points = _measure(image, center, side)
            if points is not None and all(_overlap(points, other) < _SAME_FACE for other in found):
                found.append(points)
        if found:
            break
    return sorted(found, key=face_height, reverse=True)[:max_faces]


def track_face(image: NDArray[np.uint8], previous: Landmarks | None = None) -> Landmarks | None:
    """Landmarks of one person in the next frame of a video.

    Args:
        image: sRGB ``[H, W, 3]`` uint8.
        previous: landmarks in the frame before; None looks for the largest face.

    Returns:
        The median over a few crops about where the face was, or None without a face.

    Raises:
        AssetError: MediaPipe or its model is missing.
    """
    if previous is not None:
        middle = (previous[:, :2].min(0) + previous[:, :2].max(0)) / 2
        height = max(face_height(previous), float(np.ptp(previous[:, 0])))
        crops = [_mesh_in_crop(image, middle, factor * height) for factor in _TRACK_CROPS]
        seen = [points for points in crops if points is not None]
        if len(seen) == len(crops):
            return np.median(seen, 0).astype(np.float32)
    found = detect_faces(image, 1)
    return found[0] if found else None


def detect_landmarks(frames: NDArray[np.uint8]) -> LandmarkTrack:
    """Landmarks of rendered frames, one face each, every frame on its own (no smoothing, no state), several at once.

    Args:
        frames: ``[T, H, W, 3]`` uint8 with a single large face.

    Returns:
        A track whose ``valid`` is False where no face was found; ``projected`` is False throughout.

    Raises:
        AssetError: MediaPipe or its model is missing.
    """
    count, height, width = frames.shape[:3]
    points = np.zeros((count, N_LANDMARKS, 2), np.float32)
    valid = np.zeros(count, bool)
    size = np.array([width, height], np.float32)
    with ThreadPoolExecutor(min(torch.get_num_threads(), _THREADS)) as threads:
        for i, found in enumerate(threads.map(_single, frames)):
            if found is not None:
                points[i], valid[i] = found[:, :2] / size, True
    return LandmarkTrack(points, valid, np.zeros(count, bool))


def _single(image: NDArray[np.uint8]) -> Landmarks | None:
    """One face of ``image``, tried again inside a border: a face that fills the frame is easily missed."""
    image = np.ascontiguousarray(image)
    for margin in (0.0, 0.25):
        padded, border = _square(image, margin)
        found = _mesh(padded, 1)
        if found:
            return found[0] - np.append(border, np.float32(0))
    return None


def _measure(image: NDArray[np.uint8], center: NDArray[np.floating], side: float) -> Landmarks | None:
    """Median landmarks over crops around a detected face, or None if the mesh sees no face there.

    What is no face (an eye, a rocket's tip) is found in a few crops only, and differently in each.
    """
    first = _mesh_in_crop(image, center, 2.0 * side)
    if first is None:
        return None
    middle, height = (first[:, :2].min(0) + first[:, :2].max(0)) / 2, max(face_height(first), np.ptp(first[:, 0]))
    crops = [_mesh_in_crop(image, middle, factor * height) for factor in _CROPS]
    seen = [points for points in crops if points is not None]
    if len(seen) < _MIN_SEEN:
        return None
    median = np.median(seen, 0).astype(np.float32)
    spread = np.linalg.norm(np.asarray(seen)[..., :2] - median[:, :2], axis=-1).mean()
    return median if spread <= _MAX_SPREAD * height else None


def _mesh_in_crop(image: NDArray[np.uint8], center: NDArray[np.floating], side: float) -> Landmarks | None:
    half = max(side / 2, 8.0)
    box = (center[0] - half, center[1] - half, center[0] + half, center[1] + half)
    pixels = int(min(_MESH_SIDE, max(128, round(2 * half))))
    found = _mesh(cut(image, box, pixels), 1)
    if not found:
        return None
    scale = 2 * half / pixels
    return (found[0] * scale + np.array([box[0], box[1], 0.0], np.float32)).astype(np.float32)


def cut(image: NDArray[np.uint8], box: tuple[float, float, float, float], side: int) -> NDArray[np.uint8]:
    """Resample ``box`` (left, top, right, bottom in pixels) of ``image`` to ``side`` x ``side``, edges repeated."""
    left, top = int(np.floor(box[0])), int(np.floor(box[1]))
    right, bottom = int(np.ceil(box[2])), int(np.ceil(box[3]))
    height, width = image.shape[:2]
    x = np.clip(np.arange(left, max(right, left + 1)), 0, width - 1)
    y = np.clip(np.arange(top, max(bottom, top + 1)), 0, height - 1)
    inner = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    patch = Image.fromarray(np.ascontiguousarray(image[y][:, x]))
    resized = patch.resize((side, side), Image.Resampling.LANCZOS, box=inner, reducing_gap=3.0)
    return np.asarray(resized, dtype=np.uint8)


def _mesh(image: NDArray[np.uint8], max_faces: int) -> list[Landmarks]:
    height, width = image.shape[:2]
    if graphs.has_solutions():
        lists = [face.landmark for face in graphs.mesh_faces(image, max_faces)]
    else:
        picture = graphs.as_image(graphs.import_mediapipe(), image)
        with graphs.LOCK:
            lists = graphs.face_landmarker(_task_file(), max_faces).detect(picture).face_landmarks
    scale = np.array([width, height, width], np.float32)
    return [np.array([[p.x, p.y, p.z] for p in points], np.float32) * scale for points in lists]


def task_place() -> Path:
    """Where MediaPipe's ``face_landmarker.task`` is looked for."""
    named = os.environ.get(TASK_VARIABLE, "")
    return Path(named).expanduser() if named else assets.home() / "face_landmarker.task"


def _task_file() -> Path:
    place = task_place()
    if place.is_file():
        return place
    raise AssetError(
        "this MediaPipe has no built-in models (mp.solutions): install mediapipe==0.10.21, or download MediaPipe's "
        f"face_landmarker.task and put it at {place} or name it in {TASK_VARIABLE}"
    )


Box = tuple[NDArray[np.floating], float]  # centre in pixels, side in pixels


def _boxes_whole(image: NDArray[np.uint8], max_faces: int) -> list[Box]:
    return _boxes(image, max_faces)


def _boxes_padded(image: NDArray[np.uint8], max_faces: int) -> list[Box]:
    padded, border = _square(image, 0.4)
    return [(center - border, side) for center, side in _boxes(padded, max_faces)]


def _boxes_tiled(image: NDArray[np.uint8], max_faces: int) -> list[Box]:
    """Overlapping tiles of a half and a quarter of the short side."""
    height, width = image.shape[:2]
    found: list[Box] = []
    for fraction in (2, 4):
        tile = min(height, width) // fraction
        if tile < 96:  # smaller tiles hold no face of use
            break
        for y in np.linspace(0, height - tile, -(-2 * height // tile) - 1).astype(int):
            for x in np.linspace(0, width - tile, -(-2 * width // tile) - 1).astype(int):
                corner = np.array([x, y], np.float32)
                for center, side in _boxes(np.ascontiguousarray(image[y : y + tile, x : x + tile]), max_faces):
                    found.append((center + corner, side))
        if found:
            break
    return sorted(found, key=lambda box: -box[1])[: 4 * max_faces]


def _boxes(image: NDArray[np.uint8], max_faces: int) -> list[Box]:
    """Face boxes of one picture; their side is about the face height."""
    image, border = _square(image)
    side = image.shape[0]
    boxes: list[Box] = []
    if graphs.has_solutions():
        for far in (True, False):
            with graphs.LOCK:
                detections = graphs.face_detector(far).process(image).detections or []
            for detection in detections:
                box = detection.location_data.relative_bounding_box
                center = np.array([box.xmin + box.width / 2, box.ymin + box.height / 2], np.float32) * side
                boxes.append((center - border, float(max(box.width, box.height)) * side))
    else:
        for points in _mesh(image, max_faces):
            low, high = points[:, :2].min(0), points[:, :2].max(0)
            boxes.append(((low + high) / 2 - border, float((high - low).max())))
    return boxes


def _square(image: NDArray[np.uint8], margin: float = 0.0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pad to a square with ``margin`` sides around it; returns it and the left and top border in pixels.

    MediaPipe's region of interest is exact for square pictures only.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    extra = round(margin * side)
    top, left = (side - height) // 2 + extra, (side - width) // 2 + extra
    if not (extra or height != width):
        return image, np.zeros(2, np.float32)
    out = np.full((side + 2 * extra, side + 2 * extra, 3), 255, np.uint8)
    out[top : top + height, left : left + width] = image
    return out, np.array([left, top], np.float32)


def _overlap(a: Landmarks, b: Landmarks) -> float:
    """Intersection over union of the boxes around two faces."""
    low = np.maximum(a[:, :2].min(0), b[:, :2].min(0))
    high = np.minimum(a[:, :2].max(0), b[:, :2].max(0))
    shared = float(np.prod(np.clip(high - low, 0, None)))
    areas = sum(float(np.prod(np.ptp(points[:, :2], axis=0))) for points in (a, b))
    return shared / max(areas - shared, 1e-6)
