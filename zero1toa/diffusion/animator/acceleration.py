"""Compiling the denoiser's layers, and replaying its launches as one CUDA graph."""

from __future__ import annotations

import types

import torch
from torch import nn

from zero1toa.diffusion.animator.attention import SpatialTransformer
from zero1toa.diffusion.animator.blocks import Downsample, ResnetBlock, Upsample
from zero1toa.diffusion.animator.motion import MotionModule

_LAYERS = (ResnetBlock, SpatialTransformer, MotionModule, Downsample, Upsample)
_SHAPES = 128  # of one kind of layer: about 15 in a network, and again for each number of clips and frames


def compile_layers(network: nn.Module) -> None:
    """Compile the layers of a UNet in place, each shape of a kind once.

    The network holds dozens of equal layers: compiling it as a whole takes four times as long and fuses next to nothing
    more, since layers begin with a normalisation, whose statistics need all that came before.
    """
    # Beyond its limit of 8 shapes for a function dynamo would silently fall back to running it eagerly.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 8 * _SHAPES
    )
    compiled = {kind: torch.compile(kind.forward, dynamic=False, fullgraph=True) for kind in _LAYERS}
    for module in network.modules():
        if type(module) in compiled:
            module.forward = types.MethodType(compiled[type(module)], module)  # type: ignore[method-assign,index]
