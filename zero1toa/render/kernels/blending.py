"""Blending of depth-ordered splats, tile by tile, and its gradient.

All state of a tile lies in one flat float32 buffer, the loops over its pixels have no branches and float32 constants
only: that is what lets them vectorise, without which they are eight times slower. The benchmark watches over it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from zero1toa.render.kernels.jit import kernel

PIXELS = 256
CHANNELS = 3
"""Colour channels of one pass; the caller renders more channels in several passes."""
SUMS = 9
"""Floats a slot: colour gradients (3), then sums of d loss / d sigma weighted by 1, dx, dy, dx dx, dx dy, dy dy."""

_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)
_ALPHA_MIN = np.float32(1.0 / 255.0)
_ALPHA_MAX = np.float32(0.999)
_REST_MIN = np.float32(1e-4)
_LOG2_E = np.float32(-1.4426950408889634)
_LOWEST = np.float32(-125.0)
# 2^f on [-1, 0]: degree 5, minimax in relative error (7.5e-8).
_C0, _C1, _C2 = np.float32(0.999999925063), np.float32(0.693142252589), np.float32(0.24017218922)
_C3, _C4, _C5 = np.float32(0.0552797225047), np.float32(0.0091886116467), np.float32(0.000938788304062)
_P1, _P2, _P3 = np.uintp(256), np.uintp(512), np.uintp(768)
_P4, _P5, _P6, _P7 = np.uintp(1024), np.uintp(1280), np.uintp(1536), np.uintp(1792)


@intrinsic
def _float_of_bits(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@kernel
def _exp_negative(sigma: Any) -> Any:
    """exp(-sigma) for sigma >= 0; libm's would not vectorise."""
    x = max(sigma * _LOG2_E, _LOWEST)
    whole = np.int32(x)
    f = x - np.float32(whole)
    power = _C0 + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * _C5))))
    return power * _float_of_bits(np.int32((whole + np.int32(127)) << np.int32(23)))  # type: ignore[call-arg]


@kernel
def _rows(y: Any, reach: Any, top: Any) -> Any:
    """First and last + 1 pixel of the tile's rows within ``reach`` of ``y``, as indices into its 256 pixels."""
    centre = y - np.float32(top) - np.float32(0.5)
    first = max(math.ceil(centre - reach), np.float32(0.0))
    last = min(math.floor(centre + reach), np.float32(15.0))
    return np.uintp(np.int64(first) << 4), np.uintp(max(np.int64(last) + 1, np.int64(first)) << 4)


@kernel
def _open_tile(state: Any, left: Any, top: Any, width: Any, height: Any) -> None:
    """Pixel centres relative to the tile, and transmittance 1 inside and 0 outside of the picture."""
    for p in range(PIXELS):
        column, row = p & 15, p >> 4
        state[p] = np.float32(column) + np.float32(0.5)
        state[256 + p] = np.float32(row) + np.float32(0.5)
        inside = left + column < width and top + row < height
        state[512 + p] = _ONE if inside else _ZERO


@kernel
def _all_done(state: Any) -> Any:
    most = _ZERO
    for p in range(np.uintp(512), np.uintp(768)):
        most = max(most, state[p])
    return most == _ZERO


@kernel
def blend_forward(
    start: Any,
    stop: Any,
    tiles: Any,
    order: Any,
    geometry: Any,
    colors: Any,
    offsets: Any,
    pair_splats: Any,
    backgrounds: Any,
    image: Any,
    rest: Any,
) -> None:
    """Items are (frame, tile). Frame f takes its colours from set f // C; fills image and final transmittance."""
    height, width = image.shape[1], image.shape[2]
    count = tiles[0] * tiles[1]
    cameras = image.shape[0] // colors.shape[0]
    state = np.empty(7 * PIXELS, np.float32)
    for item in range(start, stop):
        f, tile = item // count, item % count
        b = f // cameras
        left, top = tile % tiles[0] * 16, tile // tiles[0] * 16
        _open_tile(state, left, top, width, height)
        for p in range(PIXELS):
            state[768 + p] = _ONE
            state[1024 + p] = _ZERO
            state[1280 + p] = _ZERO
            state[1536 + p] = _ZERO
        begin, end = offsets[f, tile], offsets[f, tile + 1]
        for pair in range(begin, end):
            if (pair - begin) & 15 == 15 and _all_done(state):
                break
            k = pair_splats[pair]
            mx, my = geometry[f, k, 0] - np.float32(left), geometry[f, k, 1] - np.float32(top)
            ha, hb, hc, opacity = geometry[f, k, 2], geometry[f, k, 3], geometry[f, k, 4], geometry[f, k, 5]
            g = order[f, k]
            red, green, blue = colors[b, g, 0], colors[b, g, 1], colors[b, g, 2]
            first, last = _rows(geometry[f, k, 1], geometry[f, k, 7], top)
            for p in range(first, last):
                dx, dy = mx - state[p], my - state[p + _P1]
                sigma = (ha * dx + hb * dy) * dx + hc * dy * dy
                alpha = min(_ALPHA_MAX, opacity * _exp_negative(sigma))
                alpha = alpha if (sigma >= _ZERO) & (alpha >= _ALPHA_MIN) else _ZERO
                open_rest = state[p + _P2]
                after = open_rest * (_ONE - alpha)
                drawn = after > _REST_MIN
                weight = alpha * open_rest if drawn else _ZERO
                # Transmittance goes to 0 where the pixel stops, its last value is kept beside.
                state[p + _P2] = after if drawn else _ZERO
                state[p + _P3] = after if drawn else state[p + _P3]
                state[p + _P4] += weight * red
                state[p + _P5] += weight * green
                state[p + _P6] += weight * blue
        for row in range(min(16, height - top)):
            for column in range(min(16, width - left)):
                p = row * 16 + column
                left_over = state[768 + p]
                rest[f, top + row, left + column] = left_over
                for d in range(3):
                    image[f, top + row, left + column, d] = state[1024 + 256 * d + p] + left_over * backgrounds[f, d]


@kernel
def blend_backward(
    start: Any,
    stop: Any,
    tiles: Any,
    order: Any,
    geometry: Any,
    colors: Any,
    offsets: Any,
    pair_splats: Any,
    pair_slots: Any,
    backgrounds: Any,
    image: Any,
    rest: Any,
    v_image: Any,
    v_alpha: Any,
    sums: Any,
) -> None:
    """Items are (frame, tile). Replays the blending front to back and leaves nine sums in every pair's slot.

    With g_i = color_i . v the gradient of the loss with respect to alpha_i is
    T_i g_i - (sum over j > i of w_j g_j + T_end (background . v - v_alpha)) / (1 - alpha_i).
    The bracket is one number a pixel that shrinks by w_i g_i from splat to splat.
    """
    height, width = image.shape[1], image.shape[2]
    count = tiles[0] * tiles[1]
    cameras = image.shape[0] // colors.shape[0]
    state = np.empty(7 * PIXELS, np.float32)
    for item in range(start, stop):
        f, tile = item // count, item % count
        b = f // cameras
        left, top = tile % tiles[0] * 16, tile // tiles[0] * 16
        _open_tile(state, left, top, width, height)
        state[768:] = _ZERO
        for row in range(min(16, height - top)):
            for column in range(min(16, width - left)):
                p = row * 16 + column
                behind = -rest[f, top + row, left + column] * v_alpha[f, top + row, left + column]
                for d in range(3):
                    v = v_image[f, top + row, left + column, d]
                    behind += image[f, top + row, left + column, d] * v
                    state[1024 + 256 * d + p] = v
                state[768 + p] = behind
        begin, end = offsets[f, tile], offsets[f, tile + 1]
        done = False
        for pair in range(begin, end):
            slot = pair_slots[pair]
            if (pair - begin) & 15 == 15 and not done:
                done = _all_done(state)
            if done:
                for d in range(SUMS):
                    sums[slot, d] = _ZERO
                continue
            k = pair_splats[pair]
            mx, my = geometry[f, k, 0] - np.float32(left), geometry[f, k, 1] - np.float32(top)
            ha, hb, hc, opacity = geometry[f, k, 2], geometry[f, k, 3], geometry[f, k, 4], geometry[f, k, 5]
            g = order[f, k]
            red, green, blue = colors[b, g, 0], colors[b, g, 1], colors[b, g, 2]
            first, last = _rows(geometry[f, k, 1], geometry[f, k, 7], top)
            s0, s1, s2, s3, s4, s5, s6, s7, s8 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            for p in range(first, last):
                dx, dy = mx - state[p], my - state[p + _P1]
                sigma = (ha * dx + hb * dy) * dx + hc * dy * dy
                full = opacity * _exp_negative(sigma)
                alpha = min(_ALPHA_MAX, full)
                alpha = alpha if (sigma >= _ZERO) & (alpha >= _ALPHA_MIN) else _ZERO
                open_rest = state[p + _P2]
                pass_on = _ONE - alpha
                after = open_rest * pass_on
                drawn = after > _REST_MIN
                state[p + _P2] = after if drawn else _ZERO
                weight = alpha * open_rest if drawn else _ZERO
                v0, v1, v2 = state[p + _P4], state[p + _P5], state[p + _P6]
                along = red * v0 + green * v1 + blue * v2
                behind = state[p + _P3] - weight * along
                state[p + _P3] = behind
                slope = open_rest * along - behind / pass_on
                # d loss / d sigma; none where alpha is capped, skipped or not drawn.
                steep = full * slope if (weight > _ZERO) & (full <= _ALPHA_MAX) else _ZERO
                s0 += weight * v0
                s1 += weight * v1
                s2 += weight * v2
                s3 -= steep
                s4 -= steep * dx
                s5 -= steep * dy
                s6 -= steep * dx * dx
                s7 -= steep * dx * dy
                s8 -= steep * dy * dy
            sums[slot, 0], sums[slot, 1], sums[slot, 2] = s0, s1, s2
            sums[slot, 3], sums[slot, 4], sums[slot, 5] = s3, s4, s5
            sums[slot, 6], sums[slot, 7], sums[slot, 8] = s6, s7, s8


@kernel
def reduce_sums(
    start: Any,
    stop: Any,
    chunks: Any,
    visible: Any,
    order: Any,
    geometry: Any,
    slots: Any,
    bases: Any,
    used: Any,
    sums: Any,
    v_means2d: Any,
    v_conics: Any,
    v_opacities: Any,
    v_colors: Any,
) -> None:
    """Items are (frame, chunk of sorted splats): add up a splat's slots in their order and write its gradients."""
    for item in range(start, stop):
        f, chunk = item // chunks, item % chunks
        n = visible[f]
        for k in range(chunk * n // chunks, (chunk + 1) * n // chunks):
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = np.float32(0.0)
            begin = bases[f] + slots[f, k]
            for slot in range(begin, begin + used[f, k]):
                s0 += sums[slot, 0]
                s1 += sums[slot, 1]
                s2 += sums[slot, 2]
                s3 += sums[slot, 3]
                s4 += sums[slot, 4]
                s5 += sums[slot, 5]
                s6 += sums[slot, 6]
                s7 += sums[slot, 7]
                s8 += sums[slot, 8]
            g = order[f, k]
            a, b, c = np.float32(2.0) * geometry[f, k, 2], geometry[f, k, 3], np.float32(2.0) * geometry[f, k, 4]
            v_means2d[f, g, 0] = a * s4 + b * s5
            v_means2d[f, g, 1] = b * s4 + c * s5
            v_conics[f, g, 0] = np.float32(0.5) * s6
            v_conics[f, g, 1] = s7
            v_conics[f, g, 2] = np.float32(0.5) * s8
            v_opacities[f, g] = -s3 / geometry[f, k, 5]
            v_colors[f, g, 0] = s0
            v_colors[f, g, 1] = s1
            v_colors[f, g, 2] = s2
