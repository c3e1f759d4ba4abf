"""Stable Diffusion's image autoencoder, frame by frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zero1toa.diffusion.animator.config import LATENT_CHANNELS, AutoencoderConfig

SCALE = 0.18215  # brings the latents to about unit variance
STRIDE = 8  # pixels to a latent cell
_CHUNK = 8  # frames at once, which bounds the memory of the full resolution


def build_autoencoder(config: AutoencoderConfig) -> Any:
    """``diffusers.AutoencoderKL`` without weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        norm_num_groups=config.groups,
        latent_channels=LATENT_CHANNELS,
        scaling_factor=SCALE,
    )


def encode(autoencoder: Any, images: Tensor) -> Tensor:
    """Images to latents: the mean of their distribution, so that no noise is drawn.

    Args:
        autoencoder: from :func:`build_autoencoder`.
        images: ``[N, 3, H, W]`` in [0, 1].

    Returns:
        Scaled latents ``[N, 4, H / 8, W / 8]``.
    """
    parts = [autoencoder.encode(chunk * 2 - 1).latent_dist.mode() for chunk in images.split(_CHUNK)]
    return torch.cat(parts) * SCALE


def decode(autoencoder: Any, latents: Tensor) -> Tensor:
    """Scaled latents ``[N, 4, h, w]`` to images in [0, 1]."""
    parts = [autoencoder.decode(chunk).sample for chunk in (latents / SCALE).split(_CHUNK)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
