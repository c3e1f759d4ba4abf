"""The UNet that denoisers and reference networks are built on: Stable Diffusion 1.5's, or a lean one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import KeyValue, LayerContext, SpatialTransformer
from zero1toa.diffusion.animator.blocks import Downsample, Stage, TimeEmbedding, Upsample
from zero1toa.diffusion.animator.config import LATENT_CHANNELS, LAYERS, UNetConfig


class UNet(nn.Module):
    """Layers up to the last resolution on the way up; what follows is the subclasses' own."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.clip_fc: nn.Linear | None = None
        if config.image_channels is not None and config.prompt_channels is not None:
            self.clip_fc = nn.Linear(config.image_channels, config.prompt_channels)
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, config.channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(config.channels[0])
        down, self.mid_block, up = _lean_stages(config) if config.lean else _stages(config)
        self.down_blocks, self.up_blocks = nn.ModuleList(down), nn.ModuleList(up)

    def stages(self) -> list[Stage]:
        """All resolutions in the order of a pass."""
        return [*self.down_blocks, self.mid_block, *self.up_blocks]  # type: ignore[list-item]

    def transformers(self) -> list[SpatialTransformer]:
        """The spatial transformers in the order of a pass: down, middle, up."""
        return [layer for stage in self.stages() for layer in stage.attentions]  # type: ignore[misc]

    def project_reference(self, features: Sequence[Tensor]) -> tuple[KeyValue, ...]:
        """Keys and values of a reference's features, one ``[B, m, C]`` per spatial transformer."""
        pairs = zip(self.transformers(), features, strict=True)
        return tuple(layer.attn1.project(tokens) for layer, tokens in pairs)

    def prompt_tokens(self, tokens: Tensor) -> Tensor:
        """Image encoder tokens ``[B, n, D]`` to prompt tokens, by the network's own ``clip_fc`` where it has one."""
        return tokens if self.clip_fc is None else self.clip_fc(tokens)

    def traverse(
        self,
        latents: Tensor,
        time: Tensor,
        frames: int | Tensor | None,
        control: tuple[Tensor, ...],
        contexts: tuple[LayerContext, ...],
        split: int,
        collect: bool,
        twice: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Everything up to the last resolution on the way up.

        Args:
            latents: ``[N, 4, h, w]``, N = clips x frames.
            time: their noise level, from the time embedding ``[1, E]``; of a lean network also one of each clip.
            frames: frames per clip; of a lean network their positions in time ``[T]``. None for pictures by themselves,
                which no motion module sees.
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
        x = self.conv_in(latents)
        if control:
            x = x + control[0]
        # Every feature map on the way down is joined to one on the way up; in a lean network what leaves a resolution.
        every = not self.config.lean
        skips = [torch.cat([x, x]) if twice else x] if every else []
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
                if down and every:
                    skips.append(x)
            if down and len(control) > level + 1:
                feature = control[level + 1]
                x = (x.unflatten(0, (-1, len(feature))) + feature).flatten(0, 1)
        return x, features


def _stages(config: UNetConfig) -> tuple[list[Stage], Stage, list[Stage]]:
    """Stable Diffusion's resolutions on the way down, the middle, and those on the way up."""
    widths, motion = config.channels, config.motion
    down: list[Stage] = []
    skips, width = [widths[0]], widths[0]
    for following in widths:
        # All resolutions but the last have attention, and are followed by a coarser one.
        more = len(down) < len(widths) - 1
        inputs, width = (width, *[following] * (LAYERS - 1)), following
        resample = Downsample(width) if more else None
        down.append(Stage(config, inputs, width, LAYERS * more, LAYERS * motion, resample))
        skips += [width] * (LAYERS + more)
    middle = Stage(config, (width, width), width, 1, int(motion))
    up: list[Stage] = []
    layers = LAYERS + 1
    for following in reversed(widths):
        inputs = tuple(w + skips.pop() for w in (width, *[following] * (layers - 1)))
        width = following
        enlarge = Upsample(width) if len(up) < len(widths) - 1 else None
        up.append(Stage(config, inputs, width, layers * bool(up), layers * motion, enlarge))
    return down, middle, up


def _lean_stages(config: UNetConfig) -> tuple[list[Stage], Stage, list[Stage]]:
    """One layer for each resolution, with attention; the middle is a residual block."""
    widths, motion = config.channels, int(config.motion)
    coarsest = len(widths) - 1
    down = [
        Stage(config, (widths[max(i - 1, 0)],), width, 1, motion, Downsample(width) if i < coarsest else None)
        for i, width in enumerate(widths)
    ]
    middle = Stage(config, widths[-1:], widths[-1], 0, 0)
    up = [
        Stage(config, (2 * width,), width, 1, motion, Upsample(width, widths[i - 1]) if i > 0 else None)
        for i, width in reversed(list(enumerate(widths)))
    ]
    return down, middle, up
