"""MediaPipe, once per process and quiet: its graphs take a while to build and greet the user with log lines."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zero1toa.errors import AssetError

LOCK = threading.RLock()
"""MediaPipe graphs are not thread safe: hold this while calling one that others may call."""

_IDLE: dict[tuple[int, int], list[tuple[Any, bool]]] = {}
"""Face meshes that nobody calls, and whether they have found a face before; by process and number of faces."""

_NOISE = (
    "XNNPACK",
    "absl::InitializeLog",
    "inference_feedback_manager",
    "landmark_projection_calculator",
    "gl_context",
    "GL version",
    "face_landmarker_graph",
)


def has_solutions() -> bool:
    """Whether this MediaPipe carries its models (``mp.solutions``, up to 0.10.21)."""
    return hasattr(import_mediapipe(), "solutions")


@functools.lru_cache(maxsize=1)
def import_mediapipe() -> Any:
    """The ``mediapipe`` module.

    Raises:
        AssetError: it is not installed.
    """
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with quiet():
            import mediapipe
    except ImportError as error:
        raise AssetError(
            f"landmarks and segmentation need MediaPipe, which cannot be imported ({error}); "
            "install mediapipe==0.10.21, or prepare the portrait on a machine that has it"
        ) from error
    return mediapipe


def mesh_faces(image: NDArray[np.uint8], max_faces: int) -> list[Any]:
    """Normalised landmark lists of up to ``max_faces`` faces, by ``FaceMesh`` with irises on a single picture.

    Threads may call this at once: each has a graph of its own meanwhile.
    """
    idle = _IDLE.setdefault((os.getpid(), max_faces), [])  # a graph's threads do not survive a fork
    try:
        graph, greeted = idle.pop()
    except IndexError:
        graph, greeted = None, False
    if greeted:
        faces = graph.process(image).multi_face_landmarks
    else:
        with LOCK, quiet():
            graph = graph or _new_mesh(max_faces)
            faces = graph.process(image).multi_face_landmarks
    idle.append((graph, greeted or bool(faces)))  # its last log line comes with the first face
    return list(faces or [])


def face_detector(far: bool) -> Any:
    """``FaceDetection``: the full-range model if ``far``, else the one for faces within two metres."""
    return _solution("face_detection", "FaceDetection", int(far))


def selfie_segmenter() -> Any:
    """``SelfieSegmentation``, the general 256 x 256 model."""
    return _solution("selfie_segmentation", "SelfieSegmentation", 0)


def face_landmarker(task_file: Path, max_faces: int) -> Any:
    """Tasks API ``FaceLandmarker`` from a ``.task`` file, for a MediaPipe without ``mp.solutions``.

    Raises:
        AssetError: the file is not a face landmarker.
    """
    return _landmarker(os.getpid(), str(task_file), max_faces)


def blendshape_landmarker(task_file: Path) -> Any:
    """The same for one face, with ARKit blendshapes and the head's pose; both need the ``.task`` file."""
    return _landmarker(os.getpid(), str(task_file), 1, True)


def _solution(module: str, kind: str, option: int) -> Any:
    return _build_solution(os.getpid(), module, kind, option)


@functools.lru_cache(maxsize=8)
def _build_solution(pid: int, module: str, kind: str, option: int) -> Any:
    # ``pid`` keys the cache because a graph's threads do not survive a fork.
    choices: dict[str, dict[str, Any]] = {
        "face_detection": {"model_selection": option, "min_detection_confidence": 0.5},
        "selfie_segmentation": {"model_selection": option},
    }
    with quiet():
        return _started(getattr(import_mediapipe().solutions, module), kind, **choices[module])


def _new_mesh(max_faces: int) -> Any:
    module = import_mediapipe().solutions.face_mesh
    return _started(
        module,
        "FaceMesh",
        static_image_mode=True,
        max_num_faces=max_faces,
        refine_landmarks=True,
        min_detection_confidence=0.5,
    )


def _started(module: Any, kind: str, **choices: Any) -> Any:
    graph = getattr(module, kind)(**choices)
    graph.process(np.zeros((64, 64, 3), np.uint8))  # most log lines come with the first picture
    return graph


@functools.lru_cache(maxsize=4)
def _landmarker(pid: int, task_file: str, max_faces: int, blendshapes: bool = False) -> Any:
    mediapipe = import_mediapipe()
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=task_file),
        running_mode=vision.RunningMode.IMAGE,
        num_faces=max_faces,
        output_face_blendshapes=blendshapes,
        output_facial_transformation_matrixes=blendshapes,
    )
    try:
        with quiet():
            graph = vision.FaceLandmarker.create_from_options(options)
            graph.detect(as_image(mediapipe, np.zeros((64, 64, 3), np.uint8)))
    except (RuntimeError, ValueError, OSError) as error:
        raise AssetError(f"{task_file} is not a MediaPipe face landmarker: {error}") from error
    return graph


def as_image(mediapipe: Any, image: NDArray[np.uint8]) -> Any:
    """``image`` ``[H, W, 3]`` as the Tasks API wants it."""
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))


@contextmanager
def quiet() -> Iterator[None]:
    """Drop MediaPipe's greetings, written past Python to file descriptor 2; every other line is passed on."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # no standard error to keep clean
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            lines = held.read().decode(errors="replace").splitlines(keepends=True)
            os.write(2, "".join(line for line in lines if not any(n in line for n in _NOISE)).encode())
