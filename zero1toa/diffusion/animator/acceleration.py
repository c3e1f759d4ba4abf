"""Bringing denoiser and autoencoder to the kernels of this package on CUDA, and choosing those of attention."""

from __future__ import annotations

import contextlib
import os
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from zero1toa.diffusion.animator.attention import SpatialTransformer
from zero1toa.diffusion.animator.blocks import ResnetBlock, Upsample
from zero1toa.diffusion.animator.motion import MotionModule
from zero1toa.diffusion.animator.networks import AnimatorNetworks

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def accelerate(networks: AnimatorNetworks, device: torch.device, dtype: torch.dtype) -> None:
    """Have the layers of denoiser and autoencoder computed by :mod:`zero1toa.diffusion.animator.fused`.

    What torch's compiler makes of the layers is slower, and takes it two to three minutes.

    Args:
        networks: already where and in which type they compute; changed in place.
        device: a CUDA device. Older ones than Ampere, which lack the matrix instructions, keep the plain layers.
        dtype: type in which they compute. The kernels are for half precision; for others the plain layers stay, as for
            networks of other widths than the released ones'.
    """
    from zero1toa.diffusion.animator.kernels.layers import TOKEN_WIDTHS

    half = dtype in (torch.bfloat16, torch.float16)
    widths = set(networks.denoiser.config.channels)
    if half and widths <= set(TOKEN_WIDTHS) and torch.cuda.get_device_capability(device)[0] >= 8:
        replace_layers(networks)


def replace_layers(networks: AnimatorNetworks) -> None:
    """Put the functions of :mod:`zero1toa.diffusion.animator.fused` in the place of the layers' own."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    from zero1toa.diffusion.animator import fused

    kinds: dict[type[nn.Module], tuple[Callable[..., Any], Callable[[Any], None]]] = {
        ResnetBlock: (fused.residual_block, fused.merge_patches),
        SpatialTransformer: (fused.spatial_transformer, fused.merge_ending),
        MotionModule: (fused.motion_module, fused.merge_ending),
        Upsample: (fused.upsample, fused.merge_repeated),
        ResnetBlock2D: (fused.autoencoder_block, fused.merge_biases),
        Upsample2D: (fused.upsample, fused.merge_repeated),
        Attention: (fused.autoencoder_attention, fused.merge_projections),
    }
    for layer in (*networks.denoiser.modules(), *networks.autoencoder.modules()):
        if type(layer) in kinds:
            forward, prepare = kinds[type(layer)]
            prepare(layer)
            layer.forward = types.MethodType(forward, layer)  # type: ignore[method-assign]
    for part in (networks.autoencoder.encoder, networks.autoencoder.decoder):
        part.conv_norm_out.forward = types.MethodType(fused.activated_norm, part.conv_norm_out)
        part.conv_act = nn.Identity()
    fused.merge_shifts(networks.denoiser)
    embedding = networks.denoiser.time_embedding
    embedding.forward = types.MethodType(fused.time_shifts, embedding)  # type: ignore[method-assign]
    networks.denoiser.finish = types.MethodType(fused.finish, networks.denoiser)  # type: ignore[method-assign]


@contextlib.contextmanager
def recorded_kernels(device: torch.device) -> Iterator[None]:
    """Which kernels an evaluation is recorded with: those of :func:`attention_kernels`, and products as they come.

    cuBLAS chooses products that clear a workspace first, two launches before nearly half of them, wherever it is given
    one. torch gives it one for each stream, so that this holds for streams that have multiplied nothing yet.
    """
    given = _WORKSPACE in os.environ
    os.environ.setdefault(_WORKSPACE, ":0:0")
    try:
        with warnings.catch_warnings(), attention_kernels(device):
            warnings.filterwarnings("ignore", "Requested unified CUBLASLT workspace")  # that it gets none, either
            yield
    finally:
        if not given:
            del os.environ[_WORKSPACE]


@contextlib.contextmanager
def attention_kernels(device: torch.device) -> Iterator[None]:
    """On Hopper and later, prefer cuDNN's attention, which uses their matrix units in full; before, torch's choice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if torch.cuda.get_device_capability(device)[0] < 9:
        yield
        return
    # torch settles its own order at the process's first call. Were that in here, what follows would be restored to the
    # order of before, which is another one and slower.
    first = torch.zeros(1, 1, 8, 64, device=device, dtype=torch.float16)
    torch.nn.functional.scaled_dot_product_attention(first, first, first)
    order = (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    )
    with sdpa_kernel(list(order), set_priority=True):
        yield
