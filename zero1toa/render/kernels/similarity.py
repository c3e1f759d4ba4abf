"""Structural similarity and its gradient, row by row: a vertical pass over 11 rows, then a horizontal one.

Pictures stay ``[B, H, W * C]``: a step to the next pixel is a step of C floats, so rows are filtered without taking
their channels apart, in loops that vectorise. Outside of the picture everything counts as 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zero1toa.render.kernels.jit import kernel

TAPS = 11
_HALF = 5


@kernel
def _filter_row(columns: Any, weights: Any, channels: Any, length: Any, out: Any) -> None:
    """Horizontal pass: ``columns`` has a margin of 5 pixels on both sides, ``out [length]`` is overwritten."""
    w0, w1, w2 = weights[0], weights[1], weights[2]
    w3, w4, w5 = weights[3], weights[4], weights[5]
    for i in range(length):
        out[i] = (
            w5 * columns[i + 5 * channels]
            + w4 * (columns[i + 4 * channels] + columns[i + 6 * channels])
            + w3 * (columns[i + 3 * channels] + columns[i + 7 * channels])
            + w2 * (columns[i + 2 * channels] + columns[i + 8 * channels])
            + w1 * (columns[i + channels] + columns[i + 9 * channels])
            + w0 * (columns[i] + columns[i + 10 * channels])
        )


@kernel
def ssim_forward(
    start: Any, stop: Any, x: Any, y: Any, channels: Any, weights: Any, c1: Any, c2: Any, out: Any, slopes: Any
) -> None:
    """Items are (picture, row). Fills the map ``out [B, H, L]`` and, unless empty, ``slopes [3, B, H, L]``.

    The slopes are the derivatives of the map with respect to the local means of x, x x and x y.
    """
    height, length = x.shape[1], x.shape[2]
    margin = _HALF * channels
    columns = np.zeros((5, length + 2 * margin), x.dtype)
    means = np.empty((5, length), x.dtype)
    keep = slopes.shape[1] > 0
    # Typed, since a plain 2 would lift float32 to float64.
    one, two = x.dtype.type(1), x.dtype.type(2)
    for item in range(start, stop):
        b, row = item // height, item % height
        columns[:, margin : margin + length] = 0
        for tap in range(max(0, _HALF - row), min(TAPS, height + _HALF - row)):
            w = weights[tap]
            x_row, y_row = x[b, row + tap - _HALF], y[b, row + tap - _HALF]
            for i in range(length):
                p, q = x_row[i], y_row[i]
                columns[0, margin + i] += w * p
                columns[1, margin + i] += w * q
                columns[2, margin + i] += w * p * p
                columns[3, margin + i] += w * q * q
                columns[4, margin + i] += w * p * q
        for m in range(5):
            _filter_row(columns[m], weights, channels, length, means[m])
        for i in range(length):
            mx, my = means[0, i], means[1, i]
            a1, b1 = two * mx * my + c1, mx * mx + my * my + c1
            a2, b2 = two * (means[4, i] - mx * my) + c2, means[2, i] - mx * mx + means[3, i] - my * my + c2
            scale = one / (b1 * b2)
            similarity = a1 * a2 * scale
            out[b, row, i] = similarity
            if keep:
                slopes[0, b, row, i] = two * (my * (a2 - a1) * scale + mx * similarity * (one / b2 - one / b1))
                slopes[1, b, row, i] = -similarity / b2
                slopes[2, b, row, i] = two * a1 * scale


@kernel
def ssim_backward(
    start: Any, stop: Any, x: Any, y: Any, channels: Any, weights: Any, slopes: Any, v_map: Any, v_x: Any
) -> None:
    """Items are (picture, row). The filter is its own adjoint, since outside of the picture everything is 0."""
    height, length = x.shape[1], x.shape[2]
    margin = _HALF * channels
    columns = np.zeros((3, length + 2 * margin), x.dtype)
    means = np.empty((3, length), x.dtype)
    two = x.dtype.type(2)
    for item in range(start, stop):
        b, row = item // height, item % height
        columns[:, margin : margin + length] = 0
        for tap in range(max(0, _HALF - row), min(TAPS, height + _HALF - row)):
            w = weights[tap]
            r = row + tap - _HALF
            for i in range(length):
                v = w * v_map[b, r, i]
                columns[0, margin + i] += v * slopes[0, b, r, i]
                columns[1, margin + i] += v * slopes[1, b, r, i]
                columns[2, margin + i] += v * slopes[2, b, r, i]
        for m in range(3):
            _filter_row(columns[m], weights, channels, length, means[m])
        for i in range(length):
            v_x[b, row, i] = means[0, i] + two * x[b, row, i] * means[1, i] + y[b, row, i] * means[2, i]
