"""Sizes of the networks; the defaults are those of the released checkpoints."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """A UNet of Stable Diffusion's family; by default that of Stable Diffusion 1.5, with or without motion modules.

    Attributes:
        channels: channels of the resolutions, finest first.
        heads: heads of the spatial attention, so that its head width grows with the channels.
        groups: groups of every group normalisation.
        prompt_channels: width of the tokens of the cross-attention; None leaves it out.
        prompt_scale: factor on the output of the cross-attention.
        motion: whether a motion module follows each layer.
        image_channels: width of the image encoder's tokens that ``clip_fc`` brings to ``prompt_channels``; None for a
            network without ``clip_fc``.
        lean: the layers of a small network, see :mod:`zero1toa.diffusion.animator.lean`: one for each resolution, down
            and up, all of them with attention, and without a prompt.
        head_width: channels of a head of a lean network's attentions, in place of ``heads``; divides every width.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: int = 8
    groups: int = 32
    prompt_channels: int | None = 768
    prompt_scale: float = 1.0
    motion: bool = False
    image_channels: int | None = None
    lean: bool = False
    head_width: int = 32


LATENT_CHANNELS = 4
LAYERS = 2  # per resolution on the way down; one more on the way up
MOTION_HEADS = 8
MOTION_LENGTH = 32  # frames for which the motion modules have positions


@dataclasses.dataclass(frozen=True)
class PoseGuiderConfig:
    """AniPortrait's pose guider.

    Attributes:
        channels: channels at the finest scale; the others have 1, 2, 4 and 4 times as many.
        heads: heads of its transformers.
        head_channels: width of each head.
        groups: groups of their group normalisation.
    """

    channels: int = 320
    heads: int = 16
    head_channels: int = 88
    groups: int = 32


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Stable Diffusion's image autoencoder.

    Attributes:
        channels: channels of the four resolutions.
        layers: layers per resolution.
        groups: groups of every group normalisation.
    """

    channels: tuple[int, int, int, int] = (128, 256, 512, 512)
    layers: int = 2
    groups: int = 32


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig:
    """CLIP's vision transformer; the default is ViT-L/14.

    Attributes:
        channels: width of the tokens.
        hidden: width inside the feed-forward layers.
        layers: number of layers.
        heads: attention heads.
        patch: side of a patch in pixels.
        projection: width of the image embedding.
    """

    channels: int = 1024
    hidden: int = 4096
    layers: int = 24
    heads: int = 16
    patch: int = 14
    projection: int = 768


@dataclasses.dataclass(frozen=True)
class AnimatorConfig:
    """All networks of an animator.

    Attributes:
        denoiser: the denoising network.
        reference: the reference network.
        pose_guider: sizes of a pose guider; None for a landmark guider, which has no sizes of its own.
        image_encoder: the image encoder; None for an animator without an image prompt.
        autoencoder: the image autoencoder.
    """

    denoiser: UNetConfig
    reference: UNetConfig
    pose_guider: PoseGuiderConfig | None = None
    image_encoder: ImageEncoderConfig | None = None
    autoencoder: AutoencoderConfig = AutoencoderConfig()
