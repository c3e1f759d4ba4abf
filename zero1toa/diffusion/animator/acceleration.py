"""Compiling the layers of denoiser and autoencoder for CUDA, and the kernels that attention takes there."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator

import torch
from torch import nn

from zero1toa.acceleration import keep_compiled
from zero1toa.diffusion.animator.attention import SpatialTransformer
from zero1toa.diffusion.animator.blocks import Downsample, ResnetBlock, Upsample
from zero1toa.diffusion.animator.denoiser import Denoiser
from zero1toa.diffusion.animator.motion import MotionModule, TemporalAttention
from zero1toa.diffusion.animator.networks import AnimatorNetworks
from zero1toa.diffusion.animator.normalisation import GroupNorm


def compile_networks(networks: AnimatorNetworks, dtype: torch.dtype) -> None:
    """Have the layers of denoiser and autoencoder compiled when they first run, each shape of a kind once.

    A denoiser holds dozens of equal layers: compiling it as a whole takes several times as long and fuses little more,
    since layers begin with a normalisation, whose statistics need all that came before.

    Args:
        networks: already where and in which type they compute; changed in place.
        dtype: that type.
    """
    from diffusers.models.resnet import ResnetBlock2D

    keep_compiled()
    half = dtype in (torch.bfloat16, torch.float16)
    if half:
        from zero1toa.diffusion.animator import temporal_kernel  # noqa: F401  registers the operator
    for module in networks.denoiser.modules():
        if isinstance(module, TemporalAttention):
            module.fused = half  # type: ignore[assignment]
    _compile(networks.denoiser, (ResnetBlock, SpatialTransformer, MotionModule, Downsample, Upsample))
    networks.denoiser.conv_norm_out.by_rows = True
    finish = torch.compile(Denoiser.finish, dynamic=False, fullgraph=True)
    networks.denoiser.finish = types.MethodType(finish, networks.denoiser)  # type: ignore[method-assign]
    _compile(networks.autoencoder, (ResnetBlock2D,))


def _compile(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    compiled = {kind: torch.compile(kind.forward, dynamic=False, fullgraph=True) for kind in kinds}
    for layer in network.modules():
        if type(layer) not in compiled:
            continue
        for norm in layer.modules():
            if isinstance(norm, nn.GroupNorm):
                norm.__class__ = GroupNorm  # of diffusers' layers; it adds no state
                norm.by_rows = True  # type: ignore[assignment]
        layer.forward = types.MethodType(compiled[type(layer)], layer)  # type: ignore[method-assign]


@contextlib.contextmanager
def attention_kernels(device: torch.device) -> Iterator[None]:
    """On Hopper and later, prefer cuDNN's attention, which uses their matrix units in full; before, torch's choice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if torch.cuda.get_device_capability(device)[0] < 9:
        yield
        return
    order = (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    )
    with sdpa_kernel(list(order), set_priority=True):
        yield
