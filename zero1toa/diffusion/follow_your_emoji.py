"""Follow-Your-Emoji (SIGGRAPH Asia 2024), the paper's default backbone."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.diffusion.animator.backbone import AnimatorBackbone
from zero1toa.diffusion.animator.config import AnimatorConfig, ImageEncoderConfig, UNetConfig
from zero1toa.diffusion.animator.drawing import (
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LEFT_BROW_LINE,
    LEFT_EYE_LINE,
    LEFT_IRIS,
    RIGHT_BROW_LINE,
    RIGHT_EYE_LINE,
    RIGHT_IRIS,
    DrawingStyle,
)
from zero1toa.diffusion.animator.image_encoder import preprocess
from zero1toa.diffusion.animator.networks import Files, load_networks
from zero1toa.diffusion.animator.options import switch, with_betas
from zero1toa.diffusion.protocol import BackboneSpec
from zero1toa.diffusion.schedule import LINEAR_ZERO_SNR

SPEC = BackboneSpec(
    name="follow_your_emoji",
    size=512,
    max_frames=24,
    latent_channels=4,
    latent_stride=8,
    scheduler={**LINEAR_ZERO_SNR, "beta_schedule": "scaled_linear"},
    steps=30,
    guidance=3.5,
    window_overlap=0,  # the released pipeline takes an overlap and ignores it
)

# "Expression-aware landmarks": no outline of the face and no outer lips, but pupils.
STYLE = DrawingStyle(
    lines=(
        LEFT_EYE_LINE,
        LEFT_BROW_LINE,
        RIGHT_EYE_LINE,
        RIGHT_BROW_LINE,
        *INNER_LOWER_LIP,
        *INNER_UPPER_LIP,
    ),
    squares=((LEFT_IRIS, (255, 0, 0)), (RIGHT_IRIS, (255, 0, 0))),
)

CONFIG = AnimatorConfig(
    denoiser=UNetConfig(motion=True, image_channels=1024),
    reference=UNetConfig(image_channels=1024),
    image_encoder=ImageEncoderConfig(),
)

FILES: Files = {
    "denoiser": ("follow-your-emoji-unet",),
    "reference": ("follow-your-emoji-referencenet",),
    "guider": ("follow-your-emoji-lmk-guider",),
    "autoencoder": ("sd-vae",),
    "image_encoder": ("clip-image-encoder",),
}


class FollowYourEmoji(AnimatorBackbone):
    """All tokens of CLIP's last layer prompt both networks, each through its own ``clip_fc``."""

    def portrait_prompt(self, image: Tensor) -> Tensor:
        """``[B, 257, 1024]``."""
        encoder = self.networks.image_encoder
        assert encoder is not None
        return encoder.tokens(preprocess(image).to(self.device, self.dtype))

    def null_prompt(self) -> Tensor:
        """Zeros before ``clip_fc``: equal tokens, and attention over equal tokens is the same as over one of them."""
        fc = self.networks.denoiser.clip_fc
        assert fc is not None
        return fc.bias[None, None]


def load(
    device: torch.device, dtype: torch.dtype, *, betas: str = "scaled_linear", compiled: bool = True
) -> FollowYourEmoji:
    """Registry loader.

    Args:
        device: where to compute.
        dtype: type in which the networks compute.
        betas: noise schedule, ``scaled_linear`` (as released) or ``linear``.
        compiled: use this package's kernels and record CUDA graphs; nothing on other devices.

    Raises:
        AssetError: if a checkpoint is not installed, or does not fit.
        ConfigError: for an impossible option.
    """
    spec = dataclasses.replace(SPEC, scheduler=with_betas(SPEC.scheduler, betas))
    compiled = switch("compiled", compiled)
    return FollowYourEmoji(spec, STYLE, load_networks(SPEC.name, CONFIG, FILES), device, dtype, compiled=compiled)
