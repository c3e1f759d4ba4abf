"""Structural similarity and its gradient, row by row: a vertical pass over 11 rows, then a horizontal one.

Pictures stay ``[B, H, W * C]``: a step to the next pixel is a step of C floats, so rows are filtered without taking
their channels apart. Outside of the picture everything counts as 0. Sums run in blocks of one flat buffer at constant
offsets; with one array for each sum the compiler could not rule out that they overlap, and would not vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zero1toa.render.kernels.jit import kernel

TAPS = 11
BLOCK = 512
_HALF = 5
_B1, _B2, _B3, _B4 = np.uintp(BLOCK), np.uintp(2 * BLOCK), np.uintp(3 * BLOCK), np.uintp(4 * BLOCK)


@kernel
def _filter_row(columns: Any, row: Any, weights: Any, channels: Any, first: Any, size: Any, block: Any) -> None:
    """Horizontal pass over one block of ``columns[row]``, which has a margin of 5 pixels on both sides."""
    base = np.uintp(row * BLOCK)
    for i in range(size):
        block[base + i] = 0
    for tap in range(TAPS):
        w = weights[tap]
        source = columns[row, first + tap * channels :]
        for i in range(size):
            block[base + i] += w * source[i]


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
    block = np.empty(5 * BLOCK, x.dtype)
    keep = slopes.shape[1] > 0
    # Typed, since a plain 2 would lift float32 to float64.
    one, two = x.dtype.type(1), x.dtype.type(2)
    for item in range(start, stop):
        b, row = item // height, item % height
        for first in range(0, length, BLOCK):
            size = np.uintp(min(BLOCK, length - first))
            last = min(first + BLOCK, length)
            block[:] = 0
            for tap in range(max(0, _HALF - row), min(TAPS, height + _HALF - row)):
                w = weights[tap]
                x_row, y_row = x[b, row + tap - _HALF, first:last], y[b, row + tap - _HALF, first:last]
                for i in range(size):
                    p, q = x_row[i], y_row[i]
                    wp, wq = w * p, w * q
                    block[i] += wp
                    block[i + _B1] += wq
                    block[i + _B2] += wp * p
                    block[i + _B3] += wq * q
                    block[i + _B4] += wp * q
            for m in range(5):
                columns[m, margin + first : margin + last] = block[m * BLOCK : m * BLOCK + last - first]
        for first in range(0, length, BLOCK):
            size = np.uintp(min(BLOCK, length - first))
            last = min(first + BLOCK, length)
            for m in range(5):
                _filter_row(columns, m, weights, channels, first, size, block)
            for i in range(size):
                mx, my = block[i], block[i + _B1]
                a1, b1 = two * mx * my + c1, mx * mx + my * my + c1
                a2 = two * (block[i + _B4] - mx * my) + c2
                b2 = block[i + _B2] - mx * mx + block[i + _B3] - my * my + c2
                inverse1, inverse2 = one / b1, one / b2
                scale = inverse1 * inverse2
                similarity = a1 * a2 * scale
                block[i] = similarity
                block[i + _B1] = two * (my * (a2 - a1) * scale + mx * similarity * (inverse2 - inverse1))
                block[i + _B2] = -similarity * inverse2
                block[i + _B3] = two * a1 * scale
            out[b, row, first:last] = block[: last - first]
            if keep:
                for m in range(3):
                    slopes[m, b, row, first:last] = block[(m + 1) * BLOCK : (m + 1) * BLOCK + last - first]


@kernel
def ssim_backward(
    start: Any, stop: Any, x: Any, y: Any, channels: Any, weights: Any, slopes: Any, v_map: Any, v_x: Any
) -> None:
    """Items are (picture, row). The filter is its own adjoint, since outside of the picture everything is 0."""
    height, length = x.shape[1], x.shape[2]
    margin = _HALF * channels
    columns = np.zeros((3, length + 2 * margin), x.dtype)
    block = np.empty(5 * BLOCK, x.dtype)
    two = x.dtype.type(2)
    for item in range(start, stop):
        b, row = item // height, item % height
        for first in range(0, length, BLOCK):
            size = np.uintp(min(BLOCK, length - first))
            last = min(first + BLOCK, length)
            block[:] = 0
            for tap in range(max(0, _HALF - row), min(TAPS, height + _HALF - row)):
                w = weights[tap]
                r = row + tap - _HALF
                v_row = v_map[b, r, first:last]
                s0, s1, s2 = slopes[0, b, r, first:last], slopes[1, b, r, first:last], slopes[2, b, r, first:last]
                for i in range(size):
                    v = w * v_row[i]
                    block[i] += v * s0[i]
                    block[i + _B1] += v * s1[i]
                    block[i + _B2] += v * s2[i]
            for m in range(3):
                columns[m, margin + first : margin + last] = block[m * BLOCK : m * BLOCK + last - first]
        for first in range(0, length, BLOCK):
            size = np.uintp(min(BLOCK, length - first))
            last = min(first + BLOCK, length)
            for m in range(3):
                _filter_row(columns, m, weights, channels, first, size, block)
            x_row, y_row = x[b, row, first:last], y[b, row, first:last]
            for i in range(size):
                block[i] += two * x_row[i] * block[i + _B1] + y_row[i] * block[i + _B2]
            v_x[b, row, first:last] = block[: last - first]
