"""EchoMimic (AAAI 2025), its landmark models: no image prompt, audio where there is some, windows that move."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from zero1toa.diffusion.animator.backbone import AnimatorBackbone, AnimatorControl
from zero1toa.diffusion.animator.config import AnimatorConfig, UNetConfig
from zero1toa.diffusion.animator.drawing import (
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LEFT_BROW_LINE,
    LEFT_EYE_LINE,
    LEFT_IRIS,
    NOSE_TIP,
    OUTER_LOWER_LIP,
    OUTER_UPPER_LIP,
    RIGHT_BROW_LINE,
    RIGHT_EYE_LINE,
    RIGHT_IRIS,
    DrawingStyle,
)
from zero1toa.diffusion.animator.networks import Files, load_networks
from zero1toa.diffusion.animator.options import switch, with_betas
from zero1toa.diffusion.protocol import BackboneSpec
from zero1toa.diffusion.schedule import LINEAR_ZERO_SNR
from zero1toa.errors import ConfigError

SPEC = BackboneSpec(
    name="echomimic",
    size=512,
    max_frames=12,
    latent_channels=4,
    latent_stride=8,
    scheduler=LINEAR_ZERO_SNR,
    steps=30,
    guidance=2.5,
    window_overlap=3,
    window_shift=3,
)

# For clips that audio drives as well, which then says what the mouth does.
STYLE_WITHOUT_MOUTH = DrawingStyle(
    lines=(LEFT_EYE_LINE, RIGHT_EYE_LINE, LEFT_BROW_LINE, RIGHT_BROW_LINE),
    squares=((LEFT_IRIS, (250, 200, 10)), (RIGHT_IRIS, (10, 200, 250)), (NOSE_TIP, (200, 200, 200))),
    thickness=2,
    canvas=512,
)
STYLE = dataclasses.replace(
    STYLE_WITHOUT_MOUTH,
    lines=(
        *STYLE_WITHOUT_MOUTH.lines,
        *OUTER_LOWER_LIP,
        *INNER_LOWER_LIP,
        *OUTER_UPPER_LIP,
        *INNER_UPPER_LIP,
    ),
)

CONFIG = AnimatorConfig(
    # Tokens of audio features; the factor is the released pipeline's own.
    denoiser=UNetConfig(motion=True, prompt_channels=384, prompt_scale=3.0),
    reference=UNetConfig(prompt_channels=None),
)

FILES: Files = {
    "denoiser": ("echomimic-motion-module", "echomimic-denoising-unet"),
    "reference": ("echomimic-reference-unet",),
    "guider": ("echomimic-face-locator",),
    "autoencoder": ("sd-vae",),
}


class EchoMimic(AnimatorBackbone):
    """Landmark-driven unless audio features are given: silence is zero audio, not the absence of its layers."""

    null_control = True

    def portrait_prompt(self, image: Tensor) -> None:
        """None: there is no image prompt."""
        return None

    def null_prompt(self) -> Tensor:
        """Zero audio."""
        return torch.zeros(1, 1, self.networks.denoiser.config.prompt_channels or 0)

    def prepare_control(
        self, maps: Tensor, source: Tensor | None = None, audio: Tensor | None = None
    ) -> AnimatorControl:
        """Landmark features of maps ``[B, T, H, W, 3]`` in [0, 1], with audio features ``[B, T, n, 384]`` if given."""
        control = super().prepare_control(maps)
        return dataclasses.replace(control, prompt=None if audio is None else audio.to(self.device, self.dtype))


def load(
    device: torch.device,
    dtype: torch.dtype,
    *,
    betas: str = "linear",
    window_shift: int = 3,
    half_reference: bool = True,
    mouth: bool = True,
    compiled: bool = True,
) -> EchoMimic:
    """Registry loader; the defaults are what the released scripts do.

    Args:
        device: where to compute.
        dtype: type in which the networks compute.
        betas: noise schedule, ``linear`` (as released) or ``scaled_linear``, said to take noise out of the background.
        window_shift: frames by which the windows move with every step; 0 leaves them where they are.
        half_reference: round reference features to half precision, as released.
        mouth: draw the lips; off where audio says what the mouth does.
        compiled: use this package's kernels and record CUDA graphs; nothing on other devices.

    Raises:
        AssetError: if a checkpoint is not installed, or does not fit.
        ConfigError: for an impossible option.
    """
    if isinstance(window_shift, bool) or not isinstance(window_shift, int) or window_shift < 0:
        raise ConfigError(f"diffusion.options.window_shift={window_shift} must be a number of frames, 0 or more")
    spec = dataclasses.replace(SPEC, scheduler=with_betas(SPEC.scheduler, betas), window_shift=window_shift)
    style = STYLE if switch("mouth", mouth) else STYLE_WITHOUT_MOUTH
    half = switch("half_reference", half_reference)
    compiled = switch("compiled", compiled)
    return EchoMimic(spec, style, load_networks(SPEC.name, CONFIG, FILES), device, dtype, half, compiled)
