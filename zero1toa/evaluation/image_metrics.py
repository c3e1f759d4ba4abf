"""Picture against picture, inside a mask: PSNR, SSIM, and the overlap of two silhouettes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Picture = NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float64]


def psnr(image: Picture, reference: Picture, mask: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio, ``10 log10(1 / MSE)`` over the pixels of ``mask``.

    Args:
        image: ``[H, W, 3]``, uint8 or float in [0, 1].
        reference: same shape.
        mask: pixels that count ``[H, W]``; all by default.

    Returns:
        Decibels; infinite for equal pixels.

    Raises:
        ValueError: shapes differ or the mask is empty.
    """
    a, b, mask = _prepare(image, reference, mask)
    error = float(np.square(a - b)[mask].mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: Picture, reference: Picture, mask: NDArray[np.bool_] | None = None) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window of 1.5 pixels), averaged over ``mask``.

    Args:
        image: ``[H, W, 3]``, uint8 or float in [0, 1], at least 11 x 11.
        reference: same shape.
        mask: pixels that count ``[H, W]``; all by default. Windows reach over its border.

    Returns:
        Similarity in [-1, 1], 1 for equal pictures.

    Raises:
        ValueError: shapes differ or the mask is empty.
    """
    a, b, mask = _prepare(image, reference, mask)
    _, full = structural_similarity(
        a, b, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(full[mask].mean())


def silhouette_iou(alpha: NDArray[np.floating], reference: NDArray[np.floating], threshold: float = 0.5) -> float:
    """Intersection over union of two mattes ``[H, W]`` in [0, 1], each cut at ``threshold``; 1 if both are empty.

    Raises:
        ValueError: shapes differ.
    """
    if alpha.shape != reference.shape:
        raise ValueError(f"mattes differ in shape: {list(alpha.shape)} and {list(reference.shape)}")
    a, b = alpha > threshold, reference > threshold
    union = int((a | b).sum())
    return float((a & b).sum()) / union if union else 1.0


def _prepare(
    image: Picture, reference: Picture, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    if image.shape != reference.shape or image.ndim != 3:
        raise ValueError(f"pictures must have one shape [H, W, 3], got {list(image.shape)} and {list(reference.shape)}")
    if mask is None:
        mask = np.ones(image.shape[:2], bool)
    if mask.shape != image.shape[:2]:
        raise ValueError(f"the mask must be {list(image.shape[:2])}, got {list(mask.shape)}")
    if not mask.any():
        raise ValueError("the mask is empty")
    return _unit(image), _unit(reference), mask.astype(bool)


def _unit(image: Picture) -> NDArray[np.float64]:
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)
