"""The compiled CPU rasteriser as two differentiable steps, projection and blending, like gsplat's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.render.kernels import binning, blending, projection
from zero1toa.render.threads import get_threads, run_parallel


def _chunks(groups: int) -> int:
    """Pieces each of ``groups`` is cut into, so that every thread has work."""
    return 1 if groups >= get_threads() else -(-get_threads() // groups)


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().numpy())


class _Project(torch.autograd.Function):
    """Sets ``[B, N, ...]`` and cameras ``[F, ...]``, F = B C, to splats ``[F, N, ...]``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: NDArray[np.float32],
        Ks: NDArray[np.float32],
        options: NDArray[np.float64],
        antialiased: bool,
    ) -> tuple[Tensor, ...]:
        frames, count = viewmats.shape[0], means.shape[1]
        inputs = [_array(v) for v in (means, quats, scales, opacities)]
        radii = np.empty((frames, count, 2), np.int32)
        means2d = np.zeros((frames, count, 2), np.float32)
        depths = np.zeros((frames, count), np.float32)
        conics = np.zeros((frames, count, 3), np.float32)
        compensations = np.zeros((frames, count) if antialiased else (1, 1), np.float32)
        splat_opacities = np.zeros((frames, count), np.float32)
        extents = np.zeros((frames, count), np.float32)
        chunks = 4 * _chunks(frames)
        outputs = (radii, means2d, depths, conics, compensations, splat_opacities, extents)
        run_parallel(
            projection.project_forward, frames * chunks, chunks, *inputs, viewmats, Ks, options, antialiased, *outputs
        )
        # Saved as tensors, so that autograd notices when an optimiser changes them before the backward pass.
        ctx.save_for_backward(means, quats, scales, opacities)
        ctx.fixed = (viewmats, Ks, options, antialiased, radii, conics, compensations)
        radii_, means2d_, depths_, conics_, _, opacities_, extents_ = (torch.from_numpy(v) for v in outputs)
        ctx.mark_non_differentiable(radii_, depths_, extents_)
        return radii_, means2d_, depths_, conics_, opacities_, extents_

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        splats = (_array(gradients[i]) for i in (1, 3, 4))
        inputs = [_array(v) for v in ctx.saved_tensors]
        outputs = [np.empty_like(v) for v in inputs]
        sets = outputs[0].shape[0]
        chunks = 4 * _chunks(sets)
        run_parallel(projection.project_backward, sets * chunks, chunks, *inputs, *ctx.fixed, *splats, *outputs)
        return (*(torch.from_numpy(v) for v in outputs), None, None, None, None)


@dataclass(frozen=True)
class _Tiles:
    """Which splats each tile draws, in order; made once per picture and used by every pass over its channels."""

    shape: tuple[int, int]
    order: NDArray[np.int32]
    visible: NDArray[np.int64]
    geometry: NDArray[np.float32]
    slots: NDArray[np.int64]
    bases: NDArray[np.int64]
    used: NDArray[np.int32]
    offsets: NDArray[np.int64]
    pair_splats: NDArray[np.int32]
    pair_slots: NDArray[np.int64]


def _bin(
    radii: Tensor,
    means2d: Tensor,
    depths: Tensor,
    conics: Tensor,
    opacities: Tensor,
    extents: Tensor,
    size: tuple[int, int],
) -> _Tiles:
    frames, count = depths.shape
    tiles = (-(-size[0] // binning.TILE), -(-size[1] // binning.TILE))
    order = np.empty((frames, count), np.int32)
    visible = np.empty(frames, np.int64)
    geometry = np.empty((frames, count, binning.GEOMETRY), np.float32)
    slots = np.empty((frames, count + 1), np.int64)
    arrays = [_array(v) for v in (radii, means2d, depths, conics, opacities, extents)]
    run_parallel(binning.sort_frames, frames, *arrays, tiles, order, visible, geometry, slots)
    totals = slots[np.arange(frames), visible]
    bases = np.cumsum(totals) - totals
    chunks = _chunks(frames)
    used = np.empty((frames, count), np.int32)
    slot_tiles = np.empty(int(totals.sum()), np.int32)
    cursors = np.empty((frames, chunks, tiles[0] * tiles[1]), np.int64)
    items = frames * chunks
    run_parallel(binning.emit_tiles, items, chunks, visible, geometry, slots, tiles, bases, used, slot_tiles, cursors)
    offsets = np.empty((frames, tiles[0] * tiles[1] + 1), np.int64)
    binning.place_tiles(0, frames, bases, cursors, offsets)
    pair_splats = np.empty(len(slot_tiles), np.int32)
    pair_slots = np.empty(len(slot_tiles), np.int64)
    run_parallel(
        binning.deal_tiles, items, chunks, visible, slots, bases, used, slot_tiles, cursors, pair_splats, pair_slots
    )
    return _Tiles(tiles, order, visible, geometry, slots, bases, used, offsets, pair_splats, pair_slots)


class _Blend(torch.autograd.Function):
    """Splats ``[F, N, ...]`` to pictures ``[F, H, W, 3]`` and alpha ``[F, H, W]``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        backgrounds: Tensor,
        tiles: _Tiles,
        width: int,
        height: int,
    ) -> tuple[Tensor, Tensor]:
        frames = opacities.shape[0]
        cameras = frames // colors.shape[0]
        set_colors = _array(colors)
        image = np.empty((frames, height, width, 3), np.float32)
        rest = np.empty((frames, height, width), np.float32)
        behind = _array(backgrounds)
        items = frames * tiles.shape[0] * tiles.shape[1]
        run_parallel(
            blending.blend_forward,
            items,
            tiles.shape,
            tiles.order,
            tiles.geometry,
            set_colors,
            tiles.offsets,
            tiles.pair_splats,
            behind,
            image,
            rest,
        )
        ctx.save_for_backward(colors, backgrounds)
        ctx.state = (tiles, image, rest, cameras)
        return torch.from_numpy(image), torch.from_numpy(1.0 - rest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        tiles, image, rest, cameras = ctx.state
        set_colors, behind = (_array(v) for v in ctx.saved_tensors)
        v_image, v_alpha = (_array(v) for v in gradients)
        frames, count = tiles.order.shape
        sums = np.empty((len(tiles.pair_slots), blending.SUMS), np.float32)
        items = frames * tiles.shape[0] * tiles.shape[1]
        run_parallel(
            blending.blend_backward,
            items,
            tiles.shape,
            tiles.order,
            tiles.geometry,
            set_colors,
            tiles.offsets,
            tiles.pair_splats,
            tiles.pair_slots,
            behind,
            image,
            rest,
            v_image,
            v_alpha,
            sums,
        )
        v_means2d, v_conics, v_colors = (np.zeros((frames, count, d), np.float32) for d in (2, 3, 3))
        v_opacities = np.zeros((frames, count), np.float32)
        chunks = 4 * _chunks(frames)
        run_parallel(
            blending.reduce_sums,
            frames * chunks,
            chunks,
            tiles.visible,
            tiles.order,
            tiles.geometry,
            tiles.slots,
            tiles.bases,
            tiles.used,
            sums,
            v_means2d,
            v_conics,
            v_opacities,
            v_colors,
        )
        # numpy, not torch, which would wake its own threads for this.
        of_sets = torch.from_numpy(v_colors.reshape(frames // cameras, cameras, count, 3).sum(1))
        v_backgrounds = None
        if ctx.needs_input_grad[4]:
            v_backgrounds = torch.einsum("fhwd,fhw->fd", torch.from_numpy(v_image), torch.from_numpy(rest))
        splats = (torch.from_numpy(v) for v in (v_means2d, v_conics, v_opacities))
        return (*splats, of_sets, v_backgrounds, None, None, None)


def rasterize_cpu(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    backgrounds: Tensor,
    batch: tuple[int, ...],
    width: int,
    height: int,
    options: tuple[float, float, float, float],
    antialiased: bool,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Render B sets of N Gaussians into C cameras each on the CPU.

    Args:
        means: ``[B, N, 3]`` float32, like the other tensors.
        quats: ``[B, N, 4]``.
        scales: ``[B, N, 3]``.
        opacities: ``[B, N]``.
        colors: ``[B, N, D]``; three channels take one pass.
        viewmats: ``[B, C, 4, 4]``.
        Ks: ``[B, C, 3, 3]``.
        backgrounds: ``[B, C, D]``.
        batch: leading dimensions of the results, whose product is B.
        width: picture width in pixels.
        height: picture height in pixels.
        options: near plane, far plane, radius clip, eps2d.
        antialiased: compensate opacities for eps2d.

    Returns:
        pictures ``[*batch, C, H, W, D]``, alphas ``[*batch, C, H, W, 1]``, and means2d, radii and depths
        ``[*batch, C, N, ...]``. The pictures are made from this very means2d, so that its gradient can be retained.
    """
    B, C, N, D = viewmats.shape[0], viewmats.shape[1], means.shape[1], colors.shape[-1]
    F = B * C
    radii, means2d, depths, conics, splat_opacities, extents = _Project.apply(
        means,
        quats,
        scales,
        opacities,
        _array(viewmats.reshape(F, 4, 4)),
        _array(Ks.reshape(F, 3, 3)),
        np.array([width, height, *options], np.float64),
        antialiased,
    )
    means2d = means2d.view(*batch, C, N, 2)
    flat_means2d = means2d.view(F, N, 2)
    tiles = _bin(radii, flat_means2d, depths, conics, splat_opacities, extents, (width, height))
    flat_backgrounds = backgrounds.reshape(F, D)
    pictures, alpha = [], None
    for first in range(0, D, blending.CHANNELS):
        part = colors[..., first : first + blending.CHANNELS]
        behind = flat_backgrounds[:, first : first + blending.CHANNELS]
        missing = blending.CHANNELS - part.shape[-1]
        if missing:
            part, behind = torch.nn.functional.pad(part, (0, missing)), torch.nn.functional.pad(behind, (0, missing))
        picture, opaque = _Blend.apply(flat_means2d, conics, splat_opacities, part, behind, tiles, width, height)
        pictures.append(picture[..., : blending.CHANNELS - missing])
        alpha = opaque if alpha is None else alpha
    assert alpha is not None
    renders = pictures[0] if len(pictures) == 1 else torch.cat(pictures, -1)
    meta = {"means2d": means2d, "radii": radii.view(*batch, C, N, 2), "depths": depths.view(*batch, C, N)}
    return renders.view(*batch, C, height, width, D), alpha.view(*batch, C, height, width, 1), meta
