"""The compact backbone's autoencoder: a small convolutional one, four pixels to a latent cell."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4


def zeroed(module: nn.Module) -> nn.Module:
    """The module with its parameters set to zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the network.

    Attributes:
        latent_channels: channels of the latents; more than four gained nothing at this stride.
        encoder_widths: channels at half and quarter resolution.
        decoder_widths: channels at quarter and half resolution.
        bound: latents are confined to this magnitude before they are normalised.
    """

    latent_channels: int = 4
    encoder_widths: tuple[int, ...] = (64, 128)
    decoder_widths: tuple[int, ...] = (192, 96)
    bound: float = 3.0


class ResidualBlock(nn.Module):
    """Two convolutions with a residual, and no normalisation.

    Group normalisation would take the absolute colour out of every picture, and make a cell's latents depend on the
    whole frame; without it the reconstruction is over 4 dB better after the same few steps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        zeroed(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` to the same shape."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Autoencoder(nn.Module):
    """Frames to latents of zero mean and unit variance per channel, and back.

    The full resolution is only ever seen as a 2 x 2 pixel shuffle, which keeps it fast on a CPU.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        fine, coarse = config.encoder_widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, fine, 3, padding=1),
            ResidualBlock(fine),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            ResidualBlock(coarse),
            ResidualBlock(coarse),
            nn.SiLU(),
            nn.Conv2d(coarse, channels, 3, padding=1),
        )
        coarse, fine = config.decoder_widths
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, coarse, 3, padding=1),
            ResidualBlock(coarse),
            ResidualBlock(coarse),
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            nn.Conv2d(coarse, fine, 3, padding=1),
            ResidualBlock(fine),
            ResidualBlock(fine),
            nn.SiLU(),
            nn.Conv2d(fine, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def encode_raw(self, images: Tensor) -> Tensor:
        """Bounded latents ``[N, C, H/4, W/4]`` of images ``[N, 3, H, W]`` in [0, 1], not yet normalised."""
        bound = self.config.bound
        return bound * torch.tanh(self.encoder(images * 2 - 1) / bound)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Images ``[N, 3, H, W]`` of bounded latents, not clamped."""
        return self.decoder(latents) * 0.5 + 0.5

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents of images ``[N, 3, H, W]`` in [0, 1]."""
        return (self.encode_raw(images) - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1] of normalised latents."""
        bound = self.config.bound
        raw = latents * self.std[:, None, None] + self.mean[:, None, None]
        return self.decode_raw(raw.clamp(-bound, bound).to(latents.dtype)).clamp(0, 1)

    @torch.no_grad()
    def normalize(self, images: Tensor) -> None:
        """Set mean and standard deviation of the latents from sample images ``[N, 3, H, W]``."""
        latents = self.encode_raw(images).float()
        self.mean.copy_(latents.mean((0, 2, 3)))
        self.std.copy_(latents.std((0, 2, 3)))


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + 2 MSE + L1 of the image gradients, for images ``[N, 3, H, W]``."""
    error = (output - target).float()
    horizontal, vertical = error.diff(dim=-1), error.diff(dim=-2)
    return error.abs().mean() + 2 * error.square().mean() + horizontal.abs().mean() + vertical.abs().mean()
