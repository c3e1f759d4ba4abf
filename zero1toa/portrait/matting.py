"""Person against background: a segmentation, sharpened by closed-form matting, with the background's colour removed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from zero1toa import assets
from zero1toa.errors import AssetError, ConfigError
from zero1toa.portrait import graphs

METHODS = ("auto", "rembg", "mediapipe")

_SURE = 0.9  # segmentation probability that counts as certain
_BAND = 0.045  # half-width of the band left to the matting over the face height: the reach of loose hair


def choose_method(wanted: str) -> tuple[str, str | None]:
    """Resolve ``PortraitConfig.matting`` to ``rembg`` or ``mediapipe``.

    Args:
        wanted: one of :data:`METHODS`.

    Returns:
        The method and, where ``auto`` falls back, one line that says so.

    Raises:
        ConfigError: unknown method.
        AssetError: ``rembg`` is wanted and its model file is not installed.
    """
    if wanted not in METHODS:
        raise ConfigError(f"portrait.matting={wanted} is unknown; choose {', '.join(METHODS)}")
    if wanted == "mediapipe":
        return wanted, None
    if assets.find("u2net") is not None:
        return "rembg", None
    if wanted == "rembg":
        raise AssetError(
            "portrait.matting=rembg needs its model file u2net.onnx, which is not installed; see 'zero1toa assets', "
            "or use portrait.matting=mediapipe"
        )
    return "mediapipe", "background removal: MediaPipe segmentation and pymatting (rembg's model is not installed)"


def segment_person(image: NDArray[np.uint8], method: str = "mediapipe") -> NDArray[np.float32]:
    """Probability of each pixel to be the person.

    Args:
        image: sRGB ``[H, W, 3]`` uint8, about square, the head a third to two thirds of its height.
        method: ``mediapipe`` or ``rembg``, as :func:`choose_method` returns it.

    Returns:
        ``[H, W]`` float32 in [0, 1].

    Raises:
        AssetError: MediaPipe or rembg's model is missing.
    """
    mirrored = np.ascontiguousarray(image[:, ::-1])
    predict = _predict_rembg if method == "rembg" else _predict_mediapipe
    # The mean over both orientations removes the networks' left-right bias.
    return ((predict(np.ascontiguousarray(image)) + predict(mirrored)[:, ::-1]) / 2).astype(np.float32)


def trimap(person: NDArray[np.floating], face_height: float, seed: tuple[float, float]) -> NDArray[np.float64]:
    """Certain person (1), certain background (0) and a band around the outline that is left to the matting (0.5).

    Args:
        person: probability ``[H, W]``.
        face_height: in pixels; the band is a share of it.
        seed: a pixel (x, y) inside the face; other people and separate blobs become background.

    Returns:
        ``[H, W]`` float64.
    """
    inside = _component(person > 0.5, seed)
    band = max(1.0, _BAND * face_height)
    depth = ndimage.distance_transform_edt(inside)
    distance = ndimage.distance_transform_edt(~inside)
    out = np.full(person.shape, 0.5)
    out[inside & (person > _SURE) & (depth > band)] = 1.0
    out[~inside & ((person < 1 - _SURE) | (distance > 3 * band)) & (distance > band)] = 0.0
    return out


def matte(image: NDArray[np.uint8], known: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Closed-form alpha and the person's own colour in every pixel.

    Args:
        image: sRGB ``[H, W, 3]`` uint8.
        known: trimap ``[H, W]`` of 0, 0.5 and 1.

    Returns:
        Alpha ``[H, W]`` and foreground colour ``[H, W, 3]``, float32 in [0, 1]. The foreground is what the pixel would
        show without any background, so that composed hair carries no fringe of the old background.
    """
    if not (known == 1).any() or not (known == 0).any():  # nothing to learn one of the two colours from
        return known.astype(np.float32), (image / 255.0).astype(np.float32)
    from pymatting import estimate_alpha_cf, estimate_foreground_ml

    colors = image.astype(np.float64) / 255.0
    alpha = np.clip(estimate_alpha_cf(colors, known), 0.0, 1.0)
    foreground = np.clip(estimate_foreground_ml(colors, alpha), 0.0, 1.0)
    return alpha.astype(np.float32), foreground.astype(np.float32)


def _component(mask: NDArray[np.bool_], seed: tuple[float, float]) -> NDArray[np.bool_]:
    """The connected part of ``mask`` that holds ``seed``, without holes; all of it if the seed lies outside."""
    labels, _ = ndimage.label(mask)
    y = int(np.clip(seed[1], 0, mask.shape[0] - 1))
    x = int(np.clip(seed[0], 0, mask.shape[1] - 1))
    part = labels == labels[y, x] if labels[y, x] else mask
    return ndimage.binary_fill_holes(part)


def _predict_mediapipe(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    if not graphs.has_solutions():
        raise AssetError(
            "this MediaPipe has no built-in segmentation: install mediapipe==0.10.21, or rembg's model "
            "(see 'zero1toa assets')"
        )
    with graphs.LOCK:
        return np.asarray(graphs.selfie_segmenter().process(image).segmentation_mask, dtype=np.float32)


def _predict_rembg(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    path = assets.find("u2net")
    if path is None:
        raise AssetError("rembg's model file u2net.onnx is not installed; see 'zero1toa assets'")
    mask = _rembg_session(path).predict(Image.fromarray(image))[0]
    return np.asarray(mask, dtype=np.float32) / 255.0


@functools.lru_cache(maxsize=1)
def _rembg_session(path: Path) -> Any:
    import onnxruntime
    from rembg.sessions.u2net import U2netSession

    class Installed(U2netSession):
        """Reads the installed file; rembg itself would download a file that is missing or has another checksum."""

        @classmethod
        def download_models(cls, *args: Any, **kwargs: Any) -> str:
            return str(path)

    try:
        return Installed("u2net", onnxruntime.SessionOptions())
    except Exception as error:  # onnxruntime's errors share no base class
        raise AssetError(f"{path} cannot be loaded as rembg's model: {str(error).splitlines()[0]}") from error
