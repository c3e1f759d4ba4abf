"""Structural similarity (Wang et al. 2004): 11 x 11 Gaussian window of sigma 1.5, zero padding, population variances.

The same numbers from a compiled kernel on the CPU and from plain torch on CUDA. With the plain torch version the loss,
not the rasteriser, would set the pace of training on a CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity around every pixel, channel by channel.

    Args:
        x: pictures ``[B, H, W, C]`` in [0, 1], float32 or float64.
        y: pictures like ``x``.

    Returns:
        ``[B, H, W, C]``, at most 1. Within 5 pixels of the border the window also covers zeros outside of the picture.
        Differentiable in both arguments.

    Raises:
        ValueError: when the shapes, dtypes or devices of the two differ or are no pictures.
    """
    if x.dim() != 4 or x.shape != y.shape:
        raise ValueError(f"x and y must both be [B, H, W, C], got {list(x.shape)} and {list(y.shape)}")
    if x.dtype != y.dtype or x.device != y.device or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "x and y must both be float32 or float64 on one device, "
            f"got {x.dtype} on {x.device} and {y.dtype} on {y.device}"
        )
    if x.device.type == "cpu":
        result: Tensor = _CompiledSSIM.apply(x, y)
        return result
    return ssim_map_torch(x, y)


def ssim(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean structural similarity.

    Args:
        x: pictures ``[B, H, W, C]`` in [0, 1].
        y: pictures like ``x``.
        mask: weights of the pixels ``[B, H, W]`` or ``[B, H, W, 1]``, not negative; all equal when left out. It weighs
            the map: to keep what is outside of a mask from influencing its rim, make the pictures equal there.

    Returns:
        A scalar; 0 for a mask without any weight.

    Raises:
        ValueError: as :func:`ssim_map`, and for a mask of another shape.
    """
    similarity = ssim_map(x, y)
    if mask is None:
        return similarity.mean()
    if mask.dim() == 3:
        mask = mask[..., None]
    if mask.shape != (*x.shape[:3], 1):
        raise ValueError(f"mask must be {[*x.shape[:3]]} or {[*x.shape[:3], 1]}, got {list(mask.shape)}")
    weights = mask.to(x.dtype)
    total = weights.sum() * x.shape[-1]
    return (similarity * weights).sum() / total.clamp(min=torch.finfo(x.dtype).tiny)


def ssim_map_torch(x: Tensor, y: Tensor) -> Tensor:
    """The same map in plain torch, on any device.

    Sums of shifted pictures and not convolutions: on CUDA those may round to TF32, which the difference between the
    mean square and the squared mean does not survive.
    """
    maps = torch.stack([x, y, x * x, y * y, x * y])
    mx, my, xx, yy, xy = _filter(_filter(maps, 2), 3)
    structure = (2 * mx * my + C1) * (2 * (xy - mx * my) + C2)
    return structure / ((mx * mx + my * my + C1) * (xx - mx * mx + yy - my * my + C2))


def _filter(maps: Tensor, dimension: int) -> Tensor:
    """Window ``maps [5, B, H, W, C]`` along H (2) or W (3)."""
    half = WINDOW // 2
    margin = [0, 0, half, half] if dimension == 3 else [0, 0, 0, 0, half, half]
    padded = torch.nn.functional.pad(maps, margin)
    total = torch.zeros_like(maps)
    for tap, weight in enumerate(_window().tolist()):
        total = torch.add(total, padded.narrow(dimension, tap, maps.shape[dimension]), alpha=weight)
    return total


def _window() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Gaussian weights ``[11]`` float64 that sum to 1."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    return weights / weights.sum()


class _CompiledSSIM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        # A gradient for y alone comes from the map's symmetry: swap the two.
        ctx.swap = ctx.needs_input_grad[1] and not ctx.needs_input_grad[0]
        first, second = (y, x) if ctx.swap else (x, y)
        similarity, slopes = _forward(first, second, any(ctx.needs_input_grad))
        ctx.save_for_backward(first, second)
        ctx.slopes = slopes
        return similarity

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        first, second = ctx.saved_tensors
        v_first = _backward(first, second, ctx.slopes, gradients[0])
        if ctx.swap:
            return None, v_first
        if not ctx.needs_input_grad[1]:
            return v_first, None
        _, slopes = _forward(second, first, True)
        return v_first, _backward(second, first, slopes, gradients[0])


def _rows(tensor: Tensor) -> np.ndarray[Any, Any]:
    B, H, W, C = tensor.shape
    return tensor.detach().contiguous().view(B, H, W * C).numpy()


def _forward(x: Tensor, y: Tensor, keep_slopes: bool) -> tuple[Tensor, np.ndarray[Any, Any]]:
    from zero1toa.render.kernels.similarity import ssim_forward
    from zero1toa.render.threads import run_parallel

    x_rows, y_rows = _rows(x), _rows(y)
    B, H, L = x_rows.shape
    similarity = np.empty_like(x_rows)
    slopes = np.empty((3, B if keep_slopes else 0, H, L), x_rows.dtype)
    scalar = x_rows.dtype.type
    weights = _window().astype(x_rows.dtype)
    run_parallel(ssim_forward, B * H, x_rows, y_rows, x.shape[-1], weights, scalar(C1), scalar(C2), similarity, slopes)
    return torch.from_numpy(similarity).view(x.shape), slopes


def _backward(x: Tensor, y: Tensor, slopes: np.ndarray[Any, Any], v_map: Tensor) -> Tensor:
    from zero1toa.render.kernels.similarity import ssim_backward
    from zero1toa.render.threads import run_parallel

    x_rows = _rows(x)
    v_x = np.empty_like(x_rows)
    weights = _window().astype(x_rows.dtype)
    run_parallel(
        ssim_backward,
        x_rows.shape[0] * x_rows.shape[1],
        x_rows,
        _rows(y),
        x.shape[-1],
        weights,
        slopes,
        _rows(v_map),
        v_x,
    )
    return torch.from_numpy(v_x).view(x.shape)
