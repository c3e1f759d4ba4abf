"""The denoising of an animator in the structure of the public pipelines, on this package's own weights.

What they do on every call, and :mod:`zero1toa.diffusion.animator` does once or not at all: keys and values of the
reference are projected for every frame and step; the half of a guided call without reference attends twice, with it and
without, and the first answer is thrown away; every prompt token is attended to, also a single one; queries, keys and
values are three products; frames are transposed in memory around every temporal attention; the landmark guider runs at
every step; the autoencoder takes one frame at a time. Maps are laid out channels first, nothing is compiled. It is kind
to them in one respect: their own rearranging of frames around every convolution is left out.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.animator import autoencoder
from zero1toa.diffusion.animator.attention import (
    KeyValue,
    LayerContext,
    PromptAttention,
    SelfAttention,
    SpatialTransformer,
    attend,
    to_map,
    to_tokens,
)
from zero1toa.diffusion.animator.backbone import AnimatorBackbone
from zero1toa.diffusion.animator.config import MOTION_HEADS
from zero1toa.diffusion.animator.motion import TemporalAttention
from zero1toa.diffusion.inversion import invert
from zero1toa.diffusion.sampling import denoise
from zero1toa.diffusion.schedule import NoiseSchedule

Method = Callable[..., object]


def _self_attention(layer: SelfAttention, x: Tensor, source: Tensor) -> Tensor:
    query, key, value = layer.to_qkv.weight.chunk(3)
    return layer.to_out(attend(F.linear(x, query), F.linear(source, key), F.linear(source, value), layer.heads))


def _prompt_attention(layer: PromptAttention, x: Tensor, tokens: Tensor) -> Tensor:
    key, value = layer.to_kv.weight.chunk(2)
    tokens = tokens.repeat_interleave(len(x) // len(tokens), 0)
    return layer.to_out(attend(layer.to_q(x), F.linear(tokens, key), F.linear(tokens, value), layer.heads))


def _spatial(layer: SpatialTransformer, x: Tensor, context: LayerContext, split: int) -> tuple[Tensor, Tensor]:
    """As :class:`SpatialTransformer`, with the reference's features and the prompt's tokens in place of keys."""
    assert context.reference is not None
    assert context.prompt is not None
    assert context.null_prompt is not None
    tokens = layer.proj_in(to_tokens(layer.norm(x)))
    normed = layer.norm1(tokens)
    features = context.reference.keys
    everyone = features.repeat_interleave(split // len(features), 0).repeat(len(x) // split, 1, 1)
    attended = _self_attention(layer.attn1, normed, torch.cat([normed, everyone], 1))
    if split < len(x):
        attended = attended.clone()
        attended[split:] = _self_attention(layer.attn1, normed[split:], normed[split:])
    tokens = tokens + attended
    if layer.attn2 is not None and layer.norm2 is not None:
        prompt = context.prompt.keys
        if split < len(x):
            prompt = torch.cat([prompt, context.null_prompt.keys])
        tokens = tokens + layer.prompt_scale * _prompt_attention(layer.attn2, layer.norm2(tokens), prompt)
    tokens = tokens + layer.ff(layer.norm3(tokens))
    return x + to_map(layer.proj_out(tokens), *x.shape[-2:]).contiguous(), normed


def _temporal(layer: TemporalAttention, x: Tensor, frames: int) -> Tensor:
    pixels = x.shape[1]
    clips = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1).contiguous() + layer.pe[:, :frames]
    query, key, value = (F.linear(clips, weight) for weight in layer.to_qkv.weight.chunk(3))
    attended = layer.to_out(attend(query, key, value, MOTION_HEADS))
    return attended.unflatten(0, (-1, pixels)).transpose(1, 2).flatten(0, 1).contiguous()


class PublicStructure:
    """Refines clips as the public pipelines would.

    Args:
        backbone: with its own networks, which are changed.
    """

    def __init__(self, backbone: AnimatorBackbone) -> None:
        self._backbone = backbone
        methods: dict[type[nn.Module], Method] = {SpatialTransformer: _spatial, TemporalAttention: _temporal}
        for network in backbone.networks.items().values():
            nn.Module.to(network, backbone.dtype).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for module in backbone.networks.denoiser.modules():
            if type(module) in methods:
                module.forward = types.MethodType(methods[type(module)], module)  # type: ignore[method-assign]

    def contexts(self, portrait: Tensor, prompt: Tensor) -> tuple[LayerContext, ...]:
        """Reference features and prompt tokens of portraits ``[B, 4, h, w]`` and encoder tokens ``[B, n, D]``."""
        networks = self._backbone.networks
        features = networks.reference(portrait, networks.reference.prompt_tokens(prompt))
        tokens = networks.denoiser.prompt_tokens(prompt)
        null = self._backbone.null_prompt().to(tokens).expand_as(tokens)
        return tuple(LayerContext(*(KeyValue(x, x) for x in (layer, tokens, null))) for layer in features)

    def predict(
        self, latents: Tensor, timestep: int, contexts: tuple[LayerContext, ...], maps: Tensor, guidance: float
    ) -> Tensor:
        """One evaluation, guided unless ``guidance`` is 1; the guider runs in it."""
        backbone, clips = self._backbone, len(latents)
        features = backbone.networks.guider(maps.flatten(0, 1).permute(0, 3, 1, 2).to(backbone.dtype))
        batch = latents.to(backbone.dtype)
        if guidance != 1.0:
            batch = torch.cat([batch] * 2)
            features = tuple(torch.cat([feature] * 2) for feature in features)
        features = tuple(feature.contiguous() for feature in features)
        level = torch.full((1,), timestep, device=latents.device)
        output = backbone.networks.denoiser(batch, level, features, contexts, clips).float()
        return output if guidance == 1.0 else output[clips:] + guidance * (output[:clips] - output[clips:])

    @torch.no_grad()
    def refine(
        self, clip: Tensor, portrait: Tensor, prompt: Tensor, maps: Tensor, steps: int, guidance: float
    ) -> Tensor:
        """Encode, invert, denoise under guidance, decode; frames ``[B, T, H, W, 3]``."""
        backbone = self._backbone
        vae = backbone.networks.autoencoder
        frames = clip.flatten(0, 1).to(backbone.dtype).permute(0, 3, 1, 2).contiguous()
        latents = torch.cat([autoencoder.encode(vae, frame) for frame in frames.split(1)])
        schedule = NoiseSchedule.from_config(backbone.spec.scheduler)
        timesteps: Sequence[int] = schedule.timesteps(steps)
        contexts = self.contexts(portrait, prompt)

        def up(x: Tensor, timestep: int) -> Tensor:
            return self.predict(x, timestep, contexts, maps, 1.0)

        def down(x: Tensor, timestep: int) -> Tensor:
            return self.predict(x, timestep, contexts, maps, guidance)

        start = invert(up, schedule, latents.float().unflatten(0, clip.shape[:2]), timesteps)
        refined = denoise(down, schedule, start, timesteps).flatten(0, 1).to(backbone.dtype)
        return torch.cat([autoencoder.decode(vae, frame) for frame in refined.split(1)])
