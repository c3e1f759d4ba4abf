"""The compact backbone's denoising network: the animators' UNet in its lean form, and its own reference network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import KeyValue, LayerContext
from zero1toa.diffusion.animator.blocks import ResnetBlock
from zero1toa.diffusion.animator.config import LATENT_CHANNELS, UNetConfig
from zero1toa.diffusion.animator.lean import LeanMotionModule, LeanTransformer
from zero1toa.diffusion.animator.unet import UNet
from zero1toa.diffusion.autoencoder import zeroed

COMPACT_UNET = UNetConfig(channels=(64, 160, 192), groups=16, prompt_channels=None, motion=True, lean=True)


class LandmarkGuider(nn.Module):
    """Landmark maps to features at the latents' resolution (a quarter), zero before training."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels // 2, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            [nn.Conv2d(channels // 2, channels, 4, stride=2, padding=1), nn.Conv2d(channels, channels, 3, padding=1)]
        )
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)
        zeroed(self.conv_out)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``[N, 3, H, W]`` in [0, 1] to features ``[N, C, H/4, W/4]``."""
        hidden = F.silu(self.conv_in(maps))
        for block in self.blocks:
            hidden = F.silu(block(hidden))
        return self.conv_out(hidden)


def source_velocity(noisy: Tensor, source: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """The v that says "the clip being refined is already right", ``(alpha * noisy - source) / sigma``.

    Where a source is given, the network predicts what to add to this, so that ``x0 = source - sigma * output``. A
    network of this size cannot copy latents through its layers; without the shortcut it blurs good clips.

    Args:
        noisy: latents at a noise level, float32.
        source: clean latents of the clip being refined, same shape.
        alpha: signal amplitude; broadcasts.
        sigma: noise amplitude, positive; broadcasts.
    """
    return (alpha * noisy - source) / sigma


class CompactDenoiser(UNet):
    """Predicts v for the latents of clips, under a reference picture and landmark maps (paper sec. 4.1).

    The reference picture runs through the same weights, at timestep 0 with a learned embedding, together with its own
    landmark map, so that the network can tell which part of the face a reference token shows. The clip being refined
    may be shown as well: then another last layer says what to add to :func:`source_velocity`.

    Args:
        config: sizes of a lean network. Residual branches and outputs are zero before training.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        width = config.channels[0]
        self.guider = LandmarkGuider(3 * width // 4, width)
        self.reference_embedding = nn.Parameter(torch.zeros(4 * width))
        # The clip being refined, and a flag that says whether it is given.
        self.source_in = nn.Conv2d(LATENT_CHANNELS + 1, width, 3, padding=1, bias=False)
        self.conv_norm_out = nn.GroupNorm(config.groups, width)
        self.conv_out = nn.Conv2d(width, LATENT_CHANNELS, 3, padding=1)
        self.residual_out = nn.Conv2d(width, LATENT_CHANNELS, 3, padding=1)
        for last in (self.source_in, self.conv_out, self.residual_out):
            zeroed(last)
        for layer in self.modules():
            if isinstance(layer, ResnetBlock):
                zeroed(layer.conv2)
            elif isinstance(layer, LeanTransformer):
                zeroed(layer.attn1.to_out)
                zeroed(layer.ff_out)
            elif isinstance(layer, LeanMotionModule):
                zeroed(layer.attn.to_out)

    def guide(self, maps: Tensor, source: Tensor | None = None, shown: Tensor | float = 1.0) -> Tensor:
        """What is added behind the first convolution ``[B, T, C, h, w]``, which no noise level changes.

        Args:
            maps: landmark maps ``[B, T, 3, H, W]`` in [0, 1].
            source: latents of the clips being refined and a flag channel (1 = given) ``[B, T, 5, h, w]``.
            shown: factor on the landmarks' features, 0 for clips that go without; broadcasts.
        """
        features = self.guider(maps.flatten(0, 1)).unflatten(0, maps.shape[:2]) * shown
        return features if source is None else features + self.source_in(source.flatten(0, 1)).view_as(features)

    def reference(self, latents: Tensor, maps: Tensor) -> tuple[LayerContext, ...]:
        """Keys and values of reference pictures in every attention layer.

        Args:
            latents: ``[B, 4, h, w]``.
            maps: their landmark maps ``[B, 3, H, W]`` in [0, 1].
        """
        time = self.time_embedding(torch.zeros(1, device=latents.device), self.reference_embedding)
        nothing = (LayerContext(),) * len(self.transformers())
        _, features = self.traverse(latents, time, None, (self.guider(maps),), nothing, 0, collect=True)
        return tuple(LayerContext(layer) for layer in self.project_reference(features))

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        positions: Tensor,
        guided: Tensor,
        contexts: tuple[LayerContext, ...],
        with_reference: int,
        given: Tensor | None = None,
        twice: bool = False,
    ) -> Tensor:
        """Predict v.

        Args:
            latents: noisy latents ``[B, T, 4, h, w]``.
            timesteps: training timestep of all clips ``[1]``, or of each ``[B]``.
            positions: positions of the frames in time ``[T]``; only their differences should matter.
            guided: from :meth:`guide`.
            contexts: from :meth:`reference`, of at least ``with_reference`` clips.
            with_reference: number of leading clips that see their reference.
            given: 1 for clips whose source is in ``guided``, else 0 ``[B]``; None where there are none.
            twice: predict all clips a second time, behind the first and without reference.

        Returns:
            v ``[B, T, 4, h, w]`` or ``[2 B, T, 4, h, w]``; for clips with a source, what to add to
            :func:`source_velocity`.
        """
        frames, seen = latents.shape[1], tuple(_leading(layer, with_reference) for layer in contexts)
        x, _ = self.traverse(
            latents.flatten(0, 1), self.time_embedding(timesteps), positions, (guided.flatten(0, 1),), seen,
            with_reference * frames, collect=False, twice=twice,
        )  # fmt: skip
        hidden = F.silu(self.conv_norm_out(x))
        output = self.conv_out(hidden).unflatten(0, (-1, frames))
        if given is None:
            return output
        shown = given.repeat(1 + twice)[:, None, None, None, None] > 0
        return torch.where(shown, self.residual_out(hidden).view_as(output), output)


def _leading(context: LayerContext, clips: int) -> LayerContext:
    assert context.reference is not None
    return LayerContext(KeyValue(*(part[:clips] for part in context.reference)))
