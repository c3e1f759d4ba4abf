"""The denoising network: the UNet with motion modules, reference tokens, prompt and landmark features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import KeyValue, LayerContext
from zero1toa.diffusion.animator.config import LATENT_CHANNELS, UNetConfig
from zero1toa.diffusion.animator.unet import UNet


class Denoiser(UNet):
    """Predicts v of noisy clips.

    The forward pass has static shapes, no hooks and no state: everything it reads is an argument, so that it compiles
    to one graph.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.conv_norm_out = nn.GroupNorm(config.groups, config.channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(config.channels[0], LATENT_CHANNELS, 3, padding=1)

    def project_prompt(self, tokens: Tensor) -> tuple[KeyValue, ...]:
        """Keys and values of prompt tokens ``[B, n, D]`` in each spatial transformer."""
        projected = []
        for layer in self.transformers():
            assert layer.attn2 is not None
            projected.append(layer.attn2.project(tokens))
        return tuple(projected)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        control: tuple[Tensor, ...],
        contexts: tuple[LayerContext, ...],
        with_reference: int,
        twice: bool = False,
    ) -> Tensor:
        """Predict v.

        Args:
            latents: noisy latents ``[B, T, 4, h, w]``.
            timestep: the noise level of all of them ``[1]``.
            control: landmark features, each ``[B * T, C, h', w']``, see :meth:`UNet.traverse`; empty for none.
            contexts: what each spatial transformer reads; those of ``reference`` and ``prompt`` belong to the leading
                ``with_reference`` clips, ``null_prompt`` to the others.
            with_reference: number of leading clips that see reference and prompt.
            twice: predict all clips a second time, behind the first. With ``with_reference`` B these are the two
                predictions of guidance, which share what comes before the first attention.

        Returns:
            ``[B, T, 4, h, w]``, or ``[2 B, T, 4, h, w]``.
        """
        frames = latents.shape[1]
        split = with_reference * frames
        flat = latents.flatten(0, 1)
        time = self.time_embedding(timestep)
        x, _ = self.traverse(flat, time, frames, control, contexts, split, collect=False, twice=twice)
        return self.finish(x).unflatten(0, (-1, frames))

    def finish(self, x: Tensor) -> Tensor:
        """The last feature map ``[N, C, h, w]`` to v ``[N, 4, h, w]``."""
        return self.conv_out(F.silu(self.conv_norm_out(x)))
