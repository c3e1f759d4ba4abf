"""From splats to depth-ordered lists per tile.

The Gaussians of a frame are sorted by depth once (radix sort), then dealt to tiles in that order (counting sort), which
is several times cheaper than sorting every (tile, depth) pair. Each pair also has a slot, contiguous per Gaussian, in
which the backward pass leaves its sums, so that no two threads ever add to the same place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zero1toa.render.kernels.jit import kernel

TILE = 16
GEOMETRY = 8
"""Floats per sorted splat: mean x, y; half conic xx; conic xy; half conic yy; opacity; extent in x; extent in y."""


@kernel
def sort_frames(
    start: Any,
    stop: Any,
    radii: Any,
    means2d: Any,
    depths: Any,
    conics: Any,
    opacities: Any,
    extents: Any,
    tiles: Any,
    order: Any,
    visible: Any,
    geometry: Any,
    slots: Any,
) -> None:
    """Items are frames: visible Gaussians by depth (equal depths by index), their geometry and first slots.

    Fills order ``[F, N]``, visible ``[F]``, geometry ``[F, N, 8]`` and slots ``[F, N + 1]``, whose last used element is
    an upper bound of the frame's number of (splat, tile) pairs.
    """
    count = radii.shape[1]
    keys = np.empty((2, count), np.uint32)
    ids = np.empty((2, count), np.int32)
    histogram = np.empty(2048, np.int64)
    bits = depths.view(np.uint32)
    for f in range(start, stop):
        n = 0
        lowest, highest = np.uint32(0xFFFFFFFF), np.uint32(0)
        for g in range(count):
            if radii[f, g, 0] > 0:
                # Positive floats compare like their bits.
                key = bits[f, g]
                keys[0, n] = key
                ids[0, n] = g
                lowest, highest = min(lowest, key), max(highest, key)
                n += 1
        side, shift = 0, 0
        span = np.int64(highest) - np.int64(lowest)
        while n > 1 and (span >> shift) > 0:
            histogram[:] = 0
            for k in range(n):
                histogram[(np.int64(keys[side, k]) - np.int64(lowest)) >> shift & 2047] += 1
            total = 0
            for d in range(2048):
                amount = histogram[d]
                histogram[d] = total
                total += amount
            for k in range(n):
                digit = (np.int64(keys[side, k]) - np.int64(lowest)) >> shift & 2047
                place = histogram[digit]
                histogram[digit] = place + 1
                keys[1 - side, place] = keys[side, k]
                ids[1 - side, place] = ids[side, k]
            side = 1 - side
            shift += 11
        slot = 0
        for k in range(n):
            g = ids[side, k]
            order[f, k] = g
            a, b, c = np.float64(conics[f, g, 0]), np.float64(conics[f, g, 1]), np.float64(conics[f, g, 2])
            # Float64, since the determinant of a needle cancels. A hair more than the exact ellipse: pixels at its
            # very rim are decided by their alpha alone.
            determinant = max(a * c - b * b, np.float64(1e-30))
            reach = 1.0001 * extents[f, g] / math.sqrt(determinant)
            reach_x = np.float32(min(reach * math.sqrt(c), np.float64(radii[f, g, 0])))
            reach_y = np.float32(min(reach * math.sqrt(a), np.float64(radii[f, g, 1])))
            geometry[f, k, 0] = means2d[f, g, 0]
            geometry[f, k, 1] = means2d[f, g, 1]
            geometry[f, k, 2] = 0.5 * a
            geometry[f, k, 3] = b
            geometry[f, k, 4] = 0.5 * c
            geometry[f, k, 5] = opacities[f, g]
            geometry[f, k, 6] = reach_x
            geometry[f, k, 7] = reach_y
            first_x, last_x = tile_range(means2d[f, g, 0], reach_x, tiles[0])
            first_y, last_y = tile_range(means2d[f, g, 1], reach_y, tiles[1])
            slots[f, k] = slot
            slot += max(0, last_x - first_x) * max(0, last_y - first_y)
        slots[f, n] = slot
        visible[f] = n


@kernel
def tile_range(centre: Any, reach: Any, tiles: Any) -> Any:
    """First tile and the one after the last that hold a pixel centre within ``reach`` of ``centre``."""
    first = np.int64(math.ceil(np.float64(centre) - np.float64(reach) - 0.5))
    last = np.int64(math.floor(np.float64(centre) + np.float64(reach) - 0.5))
    return max(np.int64(0), first >> 4), min(np.int64(tiles), (last >> 4) + 1)


@kernel
def emit_tiles(
    start: Any,
    stop: Any,
    chunks: Any,
    visible: Any,
    geometry: Any,
    slots: Any,
    tiles: Any,
    bases: Any,
    used: Any,
    slot_tiles: Any,
    histograms: Any,
) -> None:
    """Items are (frame, chunk of sorted splats): the tiles that each ellipse touches, row of tiles by row of tiles.

    Fills used ``[F, N]`` (pairs per splat), slot_tiles (tile of each slot, frames at ``bases``) and histograms
    ``[F, chunks, tiles]``.
    """
    for item in range(start, stop):
        f, chunk = item // chunks, item % chunks
        n = visible[f]
        histograms[f, chunk, :] = 0
        for k in range(chunk * n // chunks, (chunk + 1) * n // chunks):
            x, y = np.float64(geometry[f, k, 0]), np.float64(geometry[f, k, 1])
            reach_x, reach_y = np.float64(geometry[f, k, 6]), np.float64(geometry[f, k, 7])
            first_x, last_x = tile_range(x, reach_x, tiles[0])
            first_y, last_y = tile_range(y, reach_y, tiles[1])
            begin = bases[f] + slots[f, k]
            slot = begin
            if last_x - first_x <= 1 or last_y <= first_y:
                for row in range(first_y, last_y):
                    for column in range(first_x, last_x):
                        tile = row * tiles[0] + column
                        slot_tiles[slot] = tile
                        histograms[f, chunk, tile] += 1
                        slot += 1
            else:
                # The sides of the ellipse at dy are (-b dy -+ sqrt(det (reach_y^2 - dy^2))) / a. The right one reaches
                # furthest at dy = -b / c reach_x, the left one at the opposite; in a band of rows that misses this dy
                # the furthest point is at the band's nearer end.
                a, b, c = 2.0 * geometry[f, k, 2], np.float64(geometry[f, k, 3]), 2.0 * geometry[f, k, 4]
                determinant = max(a * c - b * b, 0.0)
                peak = -b / c * reach_x
                margin = 1e-3 + 1e-5 * reach_x
                for row in range(first_y, last_y):
                    low, high = max(row * TILE + 0.5 - y, -reach_y), min(row * TILE + TILE - 0.5 - y, reach_y)
                    if low > high:
                        continue
                    right_at, left_at = min(max(peak, low), high), min(max(-peak, low), high)
                    right_root = math.sqrt(max(0.0, determinant * (reach_y * reach_y - right_at * right_at)))
                    left_root = math.sqrt(max(0.0, determinant * (reach_y * reach_y - left_at * left_at)))
                    right, left = (right_root - b * right_at) / a + margin, (-left_root - b * left_at) / a - margin
                    begin_x = max(first_x, np.int64(math.ceil(x + left - 0.5)) >> 4)
                    end_x = min(last_x, (np.int64(math.floor(x + right - 0.5)) >> 4) + 1)
                    for column in range(begin_x, end_x):
                        tile = row * tiles[0] + column
                        slot_tiles[slot] = tile
                        histograms[f, chunk, tile] += 1
                        slot += 1
            used[f, k] = slot - begin


@kernel
def place_tiles(start: Any, stop: Any, bases: Any, histograms: Any, offsets: Any) -> None:
    """Items are frames: where each tile's list begins (``offsets [F, tiles + 1]``), where each chunk writes in it."""
    chunks, tiles = histograms.shape[1], histograms.shape[2]
    for f in range(start, stop):
        total = bases[f]
        for tile in range(tiles):
            offsets[f, tile] = total
            for chunk in range(chunks):
                amount = histograms[f, chunk, tile]
                histograms[f, chunk, tile] = total
                total += amount
        offsets[f, tiles] = total


@kernel
def deal_tiles(
    start: Any,
    stop: Any,
    chunks: Any,
    visible: Any,
    slots: Any,
    bases: Any,
    used: Any,
    slot_tiles: Any,
    cursors: Any,
    pair_splats: Any,
    pair_slots: Any,
) -> None:
    """Items are (frame, chunk of sorted splats): write sorted index and slot of every pair into its tile's list."""
    for item in range(start, stop):
        f, chunk = item // chunks, item % chunks
        n = visible[f]
        for k in range(chunk * n // chunks, (chunk + 1) * n // chunks):
            begin = bases[f] + slots[f, k]
            for slot in range(begin, begin + used[f, k]):
                tile = slot_tiles[slot]
                place = cursors[f, chunk, tile]
                cursors[f, chunk, tile] = place + 1
                pair_splats[place] = k
                pair_slots[place] = slot
