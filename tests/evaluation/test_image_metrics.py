"""PSNR, SSIM and IoU against their formulas, worked out by hand or in plain float64."""

import math

import numpy as np
import pytest
from scipy import ndimage

from zero1toa.evaluation.image_metrics import psnr, silhouette_iou, ssim


def test_psnr_by_hand() -> None:
    reference = np.zeros((2, 2, 3))
    image = reference.copy()
    image[0, 0] = 0.5  # squared error 0.25 in one of four pixels
    assert psnr(image, reference) == pytest.approx(10 * math.log10(1 / 0.0625))
    mask = np.array([[True, False], [False, False]])
    assert psnr(image, reference, mask) == pytest.approx(10 * math.log10(4))
    assert psnr(image, reference, ~mask) == math.inf


def test_psnr_of_bytes_equals_that_of_floats() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert psnr(a, b) == pytest.approx(psnr(a / 255, b / 255))
    assert psnr(a, b) == pytest.approx(-10 * math.log10(((a / 255 - b / 255) ** 2).mean()))


def _ssim_by_formula(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, eq. 13, for one channel in [0, 1]."""

    def blur(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 1.5, truncate=3.5, mode="reflect")

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))


def test_ssim_by_formula() -> None:
    rng = np.random.default_rng(1)
    a = rng.random((32, 32, 3))
    b = np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1)
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    wanted = np.mean([_ssim_by_formula(a[..., c], b[..., c])[mask].mean() for c in range(3)])
    assert ssim(a, b, mask) == pytest.approx(wanted, abs=1e-6)
    assert ssim(a, a) == pytest.approx(1)


def test_iou_by_hand() -> None:
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[:2], b[1:3] = 1, 0.6  # rows 0-1 and 1-2: 4 shared, 12 in either
    assert silhouette_iou(a, b) == pytest.approx(4 / 12)
    assert silhouette_iou(a, b, threshold=0.7) == 0
    assert silhouette_iou(np.zeros((4, 4)), np.zeros((4, 4))) == 1


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="one shape"):
        psnr(np.zeros((4, 4, 3)), np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match="empty"):
        psnr(np.zeros((4, 4, 3)), np.zeros((4, 4, 3)), np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="the mask must be"):
        ssim(np.zeros((16, 16, 3)), np.zeros((16, 16, 3)), np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="differ"):
        silhouette_iou(np.zeros((4, 4)), np.zeros((4, 5)))
