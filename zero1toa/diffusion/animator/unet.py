"""The Stable Diffusion 1.5 UNet that denoiser and reference network are built on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import LayerContext, SpatialTransformer
from zero1toa.diffusion.animator.blocks import Downsample, Stage, TimeEmbedding, Upsample
from zero1toa.diffusion.animator.config import LATENT_CHANNELS, LAYERS, UNetConfig


class UNet(nn.Module):
    """Layers up to the last resolution on the way up; what follows is the subclasses' own."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, motion = config.channels, config.motion
        self.clip_fc: nn.Linear | None = None
        if config.image_channels is not None and config.prompt_channels is not None:
            self.clip_fc = nn.Linear(config.image_channels, config.prompt_channels)
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0])

        self.down_blocks = nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for following in widths:
            # All resolutions but the last have attention, and are followed by a coarser one.
            more = len(self.down_blocks) < len(widths) - 1
            inputs, width = (width, *[following] * (LAYERS - 1)), following
            down = Downsample(width) if more else None
            self.down_blocks.append(Stage(config, inputs, width, LAYERS * more, LAYERS * motion, down))
            skips += [width] * (LAYERS + more)

        self.mid_block = Stage(config, (width, width), width, 1, int(motion))

        self.up_blocks = nn.ModuleList()
        layers = LAYERS + 1
        for following in reversed(widths):
            first, more = not self.up_blocks, len(self.up_blocks) < len(widths) - 1
            inputs = tuple(w + skips.pop() for w in (width, *[following] * (layers - 1)))
            width = following
            up = Upsample(width) if more else None
            self.up_blocks.append(Stage(config, inputs, width, layers * (not first), layers * motion, up))

    def stages(self) -> list[Stage]:
        """All resolutions in the order of a pass."""
        return [*self.down_blocks, self.mid_block, *self.up_blocks]  # type: ignore[list-item]

    def transformers(self) -> list[SpatialTransformer]:
        """The spatial transformers in the order of a pass: down, middle, up."""
        return [layer for stage in self.stages() for layer in stage.attentions]  # type: ignore[misc]

    def prompt_tokens(self, tokens: Tensor) -> Tensor:
        """Image encoder tokens ``[B, n, D]`` to prompt tokens, by the network's own ``clip_fc`` where it has one."""
        return tokens if self.clip_fc is None else self.clip_fc(tokens)

    def traverse(
        self,
        latents: Tensor,
        timestep: Tensor,
        frames: int,
        control: tuple[Tensor, ...],
        contexts: tuple[LayerContext, ...],
        split: int,
        collect: bool,
        twice: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Everything up to the last resolution on the way up.

        Args:
            latents: ``[N, 4, h, w]``, N = clips x frames.
            timestep: noise level of all of them ``[1]``.
            frames: frames per clip.
            control: landmark features ``[N, C, h', w']``: the first is added behind the first convolution, a further
                one behind each resolution on the way down, where it does not reach the skip connections.
            contexts: what each spatial transformer reads.
            split: leading entries that see the reference.
            collect: whether to gather the normed tokens of every self-attention.
            twice: let all latents go through a second time, behind themselves. Up to the first attention, where those
                that see the reference begin to differ, one pass stands for both.

        Returns:
            The last feature map ``[N, C, h, w]`` (``twice``: 2 N), and the gathered tokens ``[N, h' * w', C]``.
        """
        features: list[Tensor] = []
        time = self.time_embedding(timestep)
        x = self.conv_in(latents)
        if control:
            x = x + control[0]
        skips = [torch.cat([x, x]) if twice else x]
        for level, stage in enumerate(self.stages()):
            down, up = level < len(self.down_blocks), level > len(self.down_blocks)
            for index in range(len(stage.resnets)):
                skip = skips.pop() if up else None
                first = level == index == 0
                x, normed = stage.layer(index, x, skip, time, frames, contexts, split, twice and first)
                if down:
                    skips.append(x)
                if collect and normed is not None:
                    features.append(normed)
            contexts = contexts[len(stage.attentions) :]
            if stage.resample is not None:
                x = stage.resample(x)
                if down:
                    skips.append(x)
            if down and len(control) > level + 1:
                feature = control[level + 1]
                x = (x.unflatten(0, (-1, len(feature))) + feature).flatten(0, 1)
        return x, features
