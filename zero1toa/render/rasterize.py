"""One function to draw Gaussians: gsplat on CUDA, its compiled twin on the CPU, a plain torch reference anywhere."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Backend = Literal["auto", "gsplat", "cpu", "torch"]
BACKENDS: tuple[str, ...] = ("auto", "gsplat", "cpu", "torch")
DILATION = 0.3
"""Variance in square pixels by which splats are widened."""


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = DILATION,
    backgrounds: Tensor | None = None,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    backend: str = "auto",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draw sets of 3D Gaussians into cameras. Arguments, shapes and results are those of ``gsplat.rasterization``.

    Leading dimensions ``...`` number sets of Gaussians, each with its own C cameras: one avatar in B expressions is
    ``means [B, N, 3]`` with ``viewmats [B, C, 4, 4]``; one set seen by C cameras needs no leading dimension.

    Gradients flow to means, quats, scales, opacities, colors and backgrounds; there are none for viewmats and Ks. For
    the gradient in the picture plane, which density control needs, see :func:`screen_gradient`.

    Args:
        means: centres ``[..., N, 3]`` in metres.
        quats: rotations ``[..., N, 4]``, wxyz, of any length but 0.
        scales: standard deviations ``[..., N, 3]`` in metres.
        opacities: ``[..., N]`` in [0, 1].
        colors: ``[..., N, D]``. The CPU kernel draws three channels in one pass and takes a pass more for each further
            three.
        viewmats: world-to-camera ``[..., C, 4, 4]``, OpenCV axes (zero1toa.render.cameras).
        Ks: intrinsics ``[..., C, 3, 3]`` in pixels.
        width: picture width in pixels.
        height: picture height in pixels.
        near_plane: smallest depth of a drawn centre in metres.
        far_plane: largest depth of a drawn centre in metres.
        radius_clip: splats of at most this radius in pixels are left out.
        eps2d: variance in square pixels added to every splat.
        backgrounds: ``[..., C, D]``; black when left out.
        rasterize_mode: ``antialiased`` lowers opacities by what ``eps2d`` adds to a splat's area, so that a head drawn
            at another size keeps its look; usual viewers show ``classic``.
        backend: ``auto`` takes ``gsplat`` for CUDA tensors and ``cpu``, the compiled kernel, for CPU tensors; ``torch``
            is the slow reference, which also works in float64. gsplat and cpu need float32.

    Returns:
        pictures ``[..., C, H, W, D]``, alphas ``[..., C, H, W, 1]``, and a dictionary with ``means2d [..., C, N, 2]``
        (pixels), ``radii [..., C, N, 2]`` (int32, both positive where a Gaussian is drawn), ``depths [..., C, N]``,
        ``width`` and ``height``. Where a Gaussian is not drawn its means2d and depths mean nothing.

    Raises:
        ValueError: naming the argument, for wrong shapes, mixed dtypes or devices, NaN or infinite values, opacities
            outside of [0, 1], quaternions of length 0, or an unknown mode or backend.

    Example:
        >>> from zero1toa.render.cameras import intrinsics, orbit
        >>> generator = torch.Generator().manual_seed(0)
        >>> means = 0.1 * torch.randn(1000, 3, generator=generator)
        >>> quats = torch.randn(1000, 4, generator=generator)
        >>> scales, opacities = torch.full((1000, 3), 0.01), torch.full((1000,), 0.8)
        >>> colors = torch.rand(1000, 3, generator=generator)
        >>> cameras = orbit(torch.tensor([0.0, 30.0]), 0.0, 1.0), intrinsics(40.0, 64).expand(2, 3, 3)
        >>> pictures, alphas, meta = rasterize(means, quats, scales, opacities, colors, *cameras, 64, 64)
        >>> tuple(pictures.shape)
        (2, 64, 64, 3)
    """
    tensors = {
        "means": means,
        "quats": quats,
        "scales": scales,
        "opacities": opacities,
        "colors": colors,
        "viewmats": viewmats,
        "Ks": Ks,
    }
    if backgrounds is not None:
        tensors["backgrounds"] = backgrounds
    _check_shapes(tensors, width, height)
    chosen = _choose_backend(backend, means)
    if means.shape[-2] == 0 and chosen == "gsplat":
        chosen = "torch"  # gsplat is not made for pictures without any Gaussian.
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode must be 'classic' or 'antialiased', got '{rasterize_mode}'")
    antialiased = rasterize_mode == "antialiased"
    options = (float(near_plane), float(far_plane), float(radius_clip), float(eps2d))
    batch, C, D = tuple(means.shape[:-2]), viewmats.shape[-3], colors.shape[-1]
    with _checked(tensors):
        if chosen == "gsplat":
            renders, alphas, meta = _gsplat(tensors, width, height, options, rasterize_mode)
        else:
            B = math.prod(batch)
            flat = {name: tensor.reshape(B, *tensor.shape[len(batch) :]) for name, tensor in tensors.items()}
            flat.setdefault("backgrounds", colors.new_zeros(B, C, D))
            if chosen == "cpu":
                from zero1toa.render.cpu import rasterize_cpu as draw
            else:
                from zero1toa.render.reference import rasterize_reference as draw
            renders, alphas, meta = draw(
                **flat, batch=batch, width=width, height=height, options=options, antialiased=antialiased
            )
    if meta["means2d"].requires_grad:
        meta["means2d"].retain_grad()
    return renders, alphas, {**meta, "width": width, "height": height}


def screen_gradient(meta: dict[str, Any]) -> Tensor:
    """Length of the gradient of the loss with respect to each Gaussian's place in each picture, after ``backward()``.

    The unit is loss per half picture size, so that thresholds do not depend on the resolution; it means the same with
    every backend. A loss that is a mean over F pictures makes the numbers F times smaller than a loss on one picture:
    multiply by F to compare with published thresholds.

    Args:
        meta: the dictionary returned by :func:`rasterize`, of inputs that require gradients.

    Returns:
        ``[..., C, N]``, 0 where a Gaussian is not drawn (``meta["radii"]``).

    Raises:
        ValueError: when no gradient has been computed.
    """
    gradient = meta["means2d"].grad
    if gradient is None:
        raise ValueError("there is no screen-space gradient: call backward() on a loss of the pictures first")
    # Filled on the device: a copy from the host would make it wait.
    half = torch.stack([gradient.new_full((), meta[side] / 2) for side in ("width", "height")])
    return (gradient * half).norm(dim=-1)


def _choose_backend(backend: str, means: Tensor) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got '{backend}'")
    chosen = ("gsplat" if means.is_cuda else "cpu") if backend == "auto" else backend
    if chosen == "gsplat" and not means.is_cuda:
        raise ValueError("backend 'gsplat' needs CUDA tensors; use backend 'cpu' or 'auto'")
    if chosen == "cpu" and means.device.type != "cpu":
        raise ValueError(f"backend 'cpu' needs CPU tensors, got {means.device}; use backend 'auto'")
    if chosen != "torch" and means.dtype != torch.float32:
        raise ValueError(f"backend '{chosen}' needs float32 tensors, got {means.dtype}; use backend 'torch'")
    return chosen


def _check_shapes(tensors: dict[str, Tensor], width: int, height: int) -> None:
    means = tensors["means"]
    if means.dim() < 2 or means.shape[-1] != 3:
        raise ValueError(f"means must be [..., N, 3], got {list(means.shape)}")
    viewmats, colors = tensors["viewmats"], tensors["colors"]
    if viewmats.dim() < 3:
        raise ValueError(f"viewmats must be [..., C, 4, 4], got {list(viewmats.shape)}")
    if colors.dim() < 2 or colors.shape[-1] < 1:
        raise ValueError(f"colors must be [..., N, D] with D > 0, got {list(colors.shape)}")
    batch, N, C, D = means.shape[:-2], means.shape[-2], viewmats.shape[-3], colors.shape[-1]
    wanted = {
        "quats": (*batch, N, 4),
        "scales": (*batch, N, 3),
        "opacities": (*batch, N),
        "colors": (*batch, N, D),
        "viewmats": (*batch, C, 4, 4),
        "Ks": (*batch, C, 3, 3),
        "backgrounds": (*batch, C, D),
    }
    for name, tensor in tensors.items():
        if name in wanted and tuple(tensor.shape) != wanted[name]:
            raise ValueError(
                f"{name} must be {list(wanted[name])} beside means {list(means.shape)}, got {list(tensor.shape)}"
            )
        if tensor.dtype != means.dtype or tensor.device != means.device:
            raise ValueError(
                f"{name} must be {means.dtype} on {means.device} like means, got {tensor.dtype} on {tensor.device}"
            )
    if not means.is_floating_point():
        raise ValueError(f"means must be floating point, got {means.dtype}")
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be at least 1 pixel, got {width} x {height}")


@contextlib.contextmanager
def _checked(tensors: dict[str, Tensor]) -> Iterator[None]:
    """Refuse bad values: before the body draws them; on CUDA after, since gsplat waits for the GPU anyway."""
    # A NaN mean would vanish without a word and a NaN colour spread over the picture.
    device = tensors["means"].device.type
    values: dict[str, Any] = {name: tensor.detach() for name, tensor in tensors.items()}
    library: Any = torch
    if device == "cpu":
        # In numpy: torch would wake its own threads for this, which costs more than the check when cores are busy.
        library, values = np, {name: tensor.numpy() for name, tensor in values.items()}
    checks = _checks(library, values)
    if device != "cuda":
        _refuse(tensors, {message: bool(good) for message, good in checks.items()})
        yield
        return
    found = torch.stack(list(checks.values())).to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    try:
        yield
    finally:
        arrived.synchronize()
        _refuse(tensors, dict(zip(checks, found.tolist(), strict=True)))


def _refuse(tensors: dict[str, Tensor], checks: dict[str, bool]) -> None:
    """Raise for the first check that was not passed."""
    message = next((message for message, good in checks.items() if not good), None)
    if message is None:
        return
    bad = ~torch.isfinite(tensors[message.split()[0]])
    if bool(bad.any()):
        message += f": {int(bad.sum())} of {bad.numel()} values are not, first at {bad.nonzero()[0].tolist()}"
    raise ValueError(message)


def _checks(library: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    opacities, quats = arrays["opacities"], arrays["quats"]
    checks = {f"{name} must be finite": library.isfinite(array).all() for name, array in arrays.items()}
    checks["opacities must lie in [0, 1]"] = ((opacities >= 0) & (opacities <= 1)).all()
    # Each library's faster way: torch makes a batch of products of matrices of such a sum.
    squares = np.einsum("...i,...i->...", quats, quats) if library is np else quats.square().sum(-1)
    checks["quats must not be zero"] = squares.all()
    return checks


def _gsplat(
    tensors: dict[str, Tensor], width: int, height: int, options: tuple[float, float, float, float], mode: str
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    from gsplat import rasterization

    near_plane, far_plane, radius_clip, eps2d = options
    renders, alphas, meta = rasterization(
        **{name: tensor.contiguous() for name, tensor in tensors.items()},
        width=width,
        height=height,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        eps2d=eps2d,
        packed=False,
        rasterize_mode=mode,
    )
    return renders, alphas, {name: meta[name] for name in ("means2d", "radii", "depths")}
