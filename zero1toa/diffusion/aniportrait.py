"""AniPortrait (2024): five scales of pose features, normalised over each window of the clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from zero1toa.diffusion.animator.backbone import AnimatorBackbone, AnimatorControl
from zero1toa.diffusion.animator.config import AnimatorConfig, ImageEncoderConfig, PoseGuiderConfig, UNetConfig
from zero1toa.diffusion.animator.drawing import (
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LEFT_BROW_LINE,
    LEFT_EYE_LINE,
    OUTER_LOWER_LIP,
    OUTER_UPPER_LIP,
    OVAL_LINE,
    RIGHT_BROW_LINE,
    RIGHT_EYE_LINE,
    DrawingStyle,
)
from zero1toa.diffusion.animator.guiders import PoseGuider
from zero1toa.diffusion.animator.image_encoder import preprocess
from zero1toa.diffusion.animator.networks import AnimatorNetworks, Files, load_networks
from zero1toa.diffusion.animator.options import choose, switch, with_betas
from zero1toa.diffusion.protocol import BackboneSpec
from zero1toa.diffusion.schedule import LINEAR_ZERO_SNR

SPEC = BackboneSpec(
    name="aniportrait",
    size=512,
    max_frames=16,
    latent_channels=4,
    latent_stride=8,
    scheduler=LINEAR_ZERO_SNR,
    steps=25,
    guidance=3.5,
    window_overlap=4,
)

STYLE = DrawingStyle(
    lines=(
        OVAL_LINE,
        LEFT_EYE_LINE,
        LEFT_BROW_LINE,
        RIGHT_EYE_LINE,
        RIGHT_BROW_LINE,
        *OUTER_LOWER_LIP,
        *INNER_LOWER_LIP,
        *OUTER_UPPER_LIP,
        *INNER_UPPER_LIP,
    ),
    thickness=2,
    canvas=512,
)

CONFIG = AnimatorConfig(
    denoiser=UNetConfig(motion=True),
    reference=UNetConfig(),
    pose_guider=PoseGuiderConfig(),
    image_encoder=ImageEncoderConfig(),
)

FILES: Files = {
    "denoiser": ("aniportrait-motion-module", "aniportrait-denoising-unet"),
    "reference": ("aniportrait-reference-unet",),
    "guider": ("aniportrait-pose-guider",),
    "autoencoder": ("sd-vae",),
    "image_encoder": ("clip-image-encoder",),
}


class AniPortrait(AnimatorBackbone):
    """The projected CLIP embedding is the only prompt token of both networks.

    Args:
        spec: facts about the model.
        networks: filled with weights.
        device: where to compute.
        dtype: type in which the networks compute.
        half_reference: see :class:`AnimatorBackbone`.
        batch_statistics: normalise the pose guider by the window at hand, as the released scripts do, which never leave
            training mode; else by the averages stored in training.
        raw_maps: give the guider ``2 * u - 1`` of the maps' bytes, -1 to 509, as the released pipeline does; else of
            their fractions, -1 to 1, as in training. With ``batch_statistics`` only the borders tell the difference.
        compiled: see :class:`AnimatorBackbone`.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        networks: AnimatorNetworks,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        half_reference: bool = True,
        batch_statistics: bool = True,
        raw_maps: bool = True,
        compiled: bool = False,
    ) -> None:
        super().__init__(spec, STYLE, networks, device, dtype, half_reference, compiled)
        assert isinstance(networks.guider, PoseGuider)
        networks.guider.use_statistics_of("batch" if batch_statistics else "training")
        # Bytes up to 509, and channels that are almost constant: both are beyond half precision, and it runs only once.
        networks.guider.float()
        self._batch_statistics = batch_statistics
        self._raw_maps = raw_maps

    def portrait_prompt(self, image: Tensor) -> Tensor:
        """``[B, 1, 768]``."""
        encoder = self.networks.image_encoder
        assert encoder is not None
        return encoder.embedding(preprocess(image).to(self.device, self.dtype))

    def null_prompt(self) -> Tensor:
        """A zero embedding."""
        return torch.zeros(1, 1, self.networks.denoiser.config.prompt_channels or 0)

    @torch.no_grad()
    def prepare_control(self, maps: Tensor, source: Tensor | None = None) -> AnimatorControl:
        """Pose features of maps ``[B, T, H, W, 3]`` in [0, 1]; clips of several windows have them by window."""
        frames = maps.shape[1]
        one_window = frames <= self.spec.max_frames or not self._batch_statistics
        return AnimatorControl(frames, self._guide(maps) if one_window else (), maps)

    @torch.no_grad()
    def window(self, control: AnimatorControl, frames: Sequence[int]) -> AnimatorControl:
        """Pose features of some frames, normalised over just these."""
        if not self._batch_statistics:
            return super().window(control, frames)
        assert control.maps is not None
        maps = control.maps[:, torch.tensor(list(frames), device=control.maps.device)]
        return AnimatorControl(len(frames), self._guide(maps), maps)

    def _guide(self, maps: Tensor) -> tuple[Tensor, ...]:
        scaled = (maps.float() * 255).round() if self._raw_maps else maps.float()
        # Clip by clip, so that the statistics of one clip do not reach another.
        clips = [self.networks.guider(self.images(clip[None], torch.float32)) for clip in scaled * 2 - 1]
        return tuple(torch.cat(scale).to(self.dtype) for scale in zip(*clips, strict=True))


def load(
    device: torch.device,
    dtype: torch.dtype,
    *,
    betas: str = "linear",
    statistics: str = "batch",
    map_range: str = "released",
    half_reference: bool = True,
    compiled: bool = True,
) -> AniPortrait:
    """Registry loader. The defaults are what the released scripts do; where training did otherwise, an option does too.

    Args:
        device: where to compute.
        dtype: type in which the networks compute.
        betas: noise schedule, ``linear`` (as released) or ``scaled_linear`` (as in training).
        statistics: of the pose guider's batch normalisation: ``batch`` (as released) or ``training``.
        map_range: of the maps it is given: ``released`` (-1 to 509) or ``training`` (-1 to 1).
        half_reference: round reference features to half precision, as released.
        compiled: compile layers and record CUDA graphs; nothing on other devices.

    Raises:
        AssetError: if a checkpoint is not installed, or does not fit.
        ConfigError: for an impossible option.
    """
    spec = dataclasses.replace(SPEC, scheduler=with_betas(SPEC.scheduler, betas))
    half = switch("half_reference", half_reference)
    batch_statistics = choose("statistics", statistics, ("batch", "training")) == "batch"
    raw_maps = choose("map_range", map_range, ("released", "training")) == "released"
    compiled = switch("compiled", compiled)
    networks = load_networks(SPEC.name, CONFIG, FILES)
    return AniPortrait(spec, networks, device, dtype, half, batch_statistics, raw_maps, compiled)
