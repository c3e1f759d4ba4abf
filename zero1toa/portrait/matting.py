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
from zero1toa.errors import AssetError, ConfigError, nearest
from zero1toa.portrait import graphs

METHODS = ("auto", "rembg", "mediapipe")

_SURE = 0.9  # segmentation probability that counts as certain
_BAND = 0.045  # half-width of the band left to the matting over the face height: the reach of loose hair


def choose_method(wanted: str, model: str) -> tuple[str, str | None]:
    """Resolve ``PortraitConfig.matting`` and ``matting_model`` to what :func:`segment_person` is given.

    Args:
        wanted: one of :data:`METHODS`.
        model: rembg's model, one of :data:`zero1toa.assets.REMBG_MODELS`.

    Returns:
        ``mediapipe`` or the name of rembg's model, and, where ``auto`` falls back, one line that says so.

    Raises:
        ConfigError: unknown method or model.
        AssetError: ``rembg`` is wanted and the model's file is not installed.
    """
    for key, value, valid in (("matting", wanted, METHODS), ("matting_model", model, assets.REMBG_MODELS)):
        if value not in valid:
            raise ConfigError(f"portrait.{key}={value} is unknown{nearest(value, valid)}; choose {', '.join(valid)}")
    if wanted == "mediapipe":
        return wanted, None
    if assets.find(model) is not None:
        return model, None
    if wanted == "rembg":
        raise AssetError(f"portrait.matting=rembg: {_absent(model)}, or use portrait.matting=mediapipe")
    return (
        "mediapipe",
        f"background removal: MediaPipe segmentation and pymatting (rembg's model {model} is not installed)",
    )


def segment_person(image: NDArray[np.uint8], method: str = "mediapipe") -> NDArray[np.float32]:
    """Probability of each pixel to be the person.

    Args:
        image: sRGB ``[H, W, 3]`` uint8, about square, the head a third to two thirds of its height.
        method: ``mediapipe`` or the name of rembg's model, as :func:`choose_method` returns it.

    Returns:
        ``[H, W]`` float32 in [0, 1].

    Raises:
        AssetError: MediaPipe or rembg's model is missing, or its file is not that model.
    """
    mirrored = np.ascontiguousarray(image[:, ::-1])
    predict = _predict_mediapipe if method == "mediapipe" else functools.partial(_predict_rembg, model=method)
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


def _absent(model: str) -> str:
    """What is missing when the file of rembg's ``model`` is, and how it is installed."""
    asset = assets.get(model)
    return (
        f"rembg's model {model} is not installed; fetch {asset.source}, then zero1toa assets install {model} "
        f"{asset.download}"
    )


def _predict_rembg(image: NDArray[np.uint8], model: str) -> NDArray[np.float32]:
    path = assets.find(model)
    if path is None:
        raise AssetError(_absent(model))
    session = _rembg_session(model, path)
    try:
        # Where a network is sure, rembg's sigmoid overflows to the right value; where it gives the same everywhere,
        # rembg divides zero by zero and the mask becomes 0: nobody.
        with np.errstate(over="ignore", invalid="ignore"):
            mask = session.predict(Image.fromarray(image))[0]
    except Exception as error:  # onnxruntime's errors share no base class; another network's output fails in rembg
        raise AssetError(f"{path} does not run as rembg's model {model}: {_one_line(error)}") from error
    return np.asarray(mask, dtype=np.float32) / 255.0


@functools.lru_cache(maxsize=1)
def _rembg_session(model: str, path: Path) -> Any:
    """rembg's session of ``model`` with the network in ``path``.

    Raises:
        AssetError: the file is no network, or the installed rembg does not know the model.
    """
    import onnxruntime
    from rembg.sessions import sessions

    if model not in sessions:
        raise AssetError(
            f"the installed rembg has no model {model}; install a newer rembg, or choose another portrait.matting_model"
        )
    # rembg itself would download a file that is missing or has another checksum.
    installed = type("Installed", (sessions[model],), {"download_models": classmethod(lambda *_, **__: str(path))})
    try:
        return installed(model, onnxruntime.SessionOptions())
    except Exception as error:  # as above
        raise AssetError(f"{path} cannot be loaded as rembg's model {model}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
