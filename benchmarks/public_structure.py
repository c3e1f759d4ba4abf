"""The work of an animator in the structure of the public pipelines, on this package's own weights.

What they do, and :mod:`zero1toa.diffusion.animator` does once or not at all, as read in the code of AniPortrait and
Follow-Your-Emoji:

* Each call of a pipeline, here one for the inversion and one for the guided way down, encodes the portrait and runs the
  image encoder and the reference network anew, with guidance for both halves.
* At every step keys and values of the reference are projected for each frame. With guidance everybody attends to it;
  the half that must not is then picked out by a mask, attends once more, and is put back between two copies.
* Every prompt token is attended to, also a single one, and repeated for each frame; queries, keys and values are three
  products; what leaves an attention or a residual block is divided by a factor, which is 1.
* Feature maps are ``[B, C, T, h, w]``: frames are brought together before each norm and convolution, which copies
  what was joined or enlarged in that layout, and pixels before each temporal attention, which always copies.
* The landmark guider runs at every step (Follow-Your-Emoji's own pipeline runs it once for a clip), AniPortrait's for
  both halves, in training mode.
* Predictions are summed over windows of frames, here one; the autoencoder takes one frame at a time.

Nothing is compiled, and torch chooses its kernels. The benchmark that times it prints how far it is from the package.
"""

from __future__ import annotations

import types
from collections.abc import Callable

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
)
from zero1toa.diffusion.animator.backbone import AnimatorBackbone
from zero1toa.diffusion.animator.blocks import ResnetBlock, Upsample
from zero1toa.diffusion.animator.config import MOTION_HEADS
from zero1toa.diffusion.animator.guiders import BatchNorm, PoseGuider
from zero1toa.diffusion.animator.motion import TemporalAttention
from zero1toa.diffusion.inversion import invert
from zero1toa.diffusion.sampling import denoise
from zero1toa.diffusion.schedule import NoiseSchedule

Method = Callable[..., object]

OUTPUT_FACTOR = 1.0
"""What diffusers divides by behind attentions and residual blocks."""


def _self_attention(layer: SelfAttention, x: Tensor, source: Tensor) -> Tensor:
    query, key, value = layer.to_qkv.weight.chunk(3)
    attended = attend(F.linear(x, query), F.linear(source, key), F.linear(source, value), layer.heads)
    return layer.to_out(attended) / OUTPUT_FACTOR


def _prompt_attention(layer: PromptAttention, x: Tensor, tokens: Tensor) -> Tensor:
    key, value = layer.to_kv.weight.chunk(2)
    tokens = _each_frame(tokens, len(x) // len(tokens))
    attended = attend(layer.to_q(x), F.linear(tokens, key), F.linear(tokens, value), layer.heads)
    return layer.to_out(attended) / OUTPUT_FACTOR


def _each_frame(tokens: Tensor, frames: int) -> Tensor:
    """Tokens of clips ``[B, n, C]`` for each of their frames ``[B * T, n, C]``."""
    return tokens[:, None].repeat(1, frames, 1, 1).flatten(0, 1)


def _point_convolution(x: Tensor, layer: nn.Linear) -> Tensor:
    """A product of channels as the convolution of 1 x 1 that it is stored as."""
    return F.conv2d(x, layer.weight[..., None, None], layer.bias)


def _spatial(
    layer: SpatialTransformer, x: Tensor, context: LayerContext, split: int, twice: bool
) -> tuple[Tensor, Tensor]:
    """As :class:`SpatialTransformer`, with the reference's features and the prompt's tokens in place of keys."""
    assert not twice  # both halves go through all layers
    assert context.reference is not None
    assert context.prompt is not None
    tokens = _point_convolution(layer.norm(x), layer.proj_in).permute(0, 2, 3, 1).flatten(1, 2)
    normed = layer.norm1(tokens)
    features = context.reference.keys
    joined = torch.cat([normed, _each_frame(features, len(x) // len(features))], 1)
    attended = _self_attention(layer.attn1, normed, joined) + tokens
    if split < len(x):
        unseeing = torch.tensor([0.0] * split + [1.0] * (len(x) - split)).to(x.device).bool()
        copied = attended.clone()
        alone = _self_attention(layer.attn1, normed[unseeing], normed[unseeing])
        copied[unseeing] = alone + tokens[unseeing]
        attended = copied.clone()
    tokens = attended
    if layer.attn2 is not None and layer.norm2 is not None:
        tokens = layer.prompt_scale * _prompt_attention(layer.attn2, layer.norm2(tokens), context.prompt.keys) + tokens
    tokens = layer.ff(layer.norm3(tokens)) + tokens
    back = tokens.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2).contiguous()
    return _point_convolution(back, layer.proj_out) + x, normed


def _temporal(layer: TemporalAttention, x: Tensor, frames: int) -> Tensor:
    pixels = x.shape[1]
    clips = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1).contiguous() + layer.pe[:, :frames]
    query, key, value = (F.linear(clips, weight) for weight in layer.to_qkv.weight.chunk(3))
    attended = layer.to_out(attend(query, key, value, MOTION_HEADS)) / OUTPUT_FACTOR
    return attended.unflatten(0, (-1, pixels)).transpose(1, 2).flatten(0, 1).contiguous()


def _video(x: Tensor, frames: int) -> Tensor:
    """Pictures ``[B * T, C, h, w]`` as ``[B, C, T, h, w]``, not copied."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def _pictures(video: Tensor) -> Tensor:
    """Back again, copied where the video's own layout asks for it."""
    return video.transpose(1, 2).flatten(0, 1)


def _batch_norm(layer: BatchNorm, x: Tensor) -> Tensor:
    """torch's own in training mode, whose averages nobody reads."""
    mean, variance = (None if kept is None else kept.clone() for kept in (layer.running_mean, layer.running_var))
    return F.batch_norm(x, mean, variance, layer.weight, layer.bias, training=True, eps=layer.eps)


class PublicStructure:
    """Refines clips as the public pipelines would.

    Args:
        backbone: with its own networks, which are changed.
        frames: of a clip.
    """

    def __init__(self, backbone: AnimatorBackbone, frames: int) -> None:
        def resnet(block: ResnetBlock, x: Tensor, time: Tensor, skip: Tensor | None = None) -> Tensor:
            video = _video(x, frames)
            if skip is not None:
                video = torch.cat([video, _video(skip, frames)], 1)
            hidden = block.conv1(F.silu(block.norm1(_pictures(video)))) + block.time_emb_proj(time)[..., None, None]
            hidden = block.conv2(F.silu(block.norm2(hidden)))
            if block.conv_shortcut is not None:
                video = _video(block.conv_shortcut(_pictures(video)), frames)
            return _pictures((video + _video(hidden, frames)) / OUTPUT_FACTOR)

        def upsample(block: Upsample, x: Tensor) -> Tensor:
            enlarged = F.interpolate(_video(x, frames), scale_factor=(1.0, 2.0, 2.0), mode="nearest")
            return block.conv(_pictures(enlarged))

        self._backbone = backbone
        self._frames = list(range(frames))
        for network in backbone.networks.items().values():
            nn.Module.to(network, backbone.dtype).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self._replace(backbone.networks.guider, {BatchNorm: _batch_norm})
        of_denoiser: dict[type[nn.Module], Method] = {
            SpatialTransformer: _spatial, TemporalAttention: _temporal, ResnetBlock: resnet, Upsample: upsample
        }  # fmt: skip
        self._replace(backbone.networks.denoiser, of_denoiser)

    @staticmethod
    def _replace(network: nn.Module, methods: dict[type[nn.Module], Method]) -> None:
        for module in network.modules():
            if type(module) in methods:
                module.forward = types.MethodType(methods[type(module)], module)  # type: ignore[method-assign]

    def contexts(self, portrait: Tensor, guided: bool) -> tuple[LayerContext, ...]:
        """Reference features and prompt tokens of portraits ``[B, H, W, 3]``, with guidance of both halves."""
        backbone, networks = self._backbone, self._backbone.networks
        picture = portrait.to(backbone.dtype).permute(0, 3, 1, 2).contiguous()
        latents = autoencoder.encode(networks.autoencoder, picture)
        prompt = backbone.portrait_prompt(portrait)
        assert prompt is not None
        if guided:
            latents, prompt = torch.cat([latents] * 2), torch.cat([prompt, torch.zeros_like(prompt)])
        features = networks.reference(latents, networks.reference.prompt_tokens(prompt))
        tokens = networks.denoiser.prompt_tokens(prompt)
        return tuple(LayerContext(KeyValue(layer, layer), KeyValue(tokens, tokens)) for layer in features)

    def predict(
        self, latents: Tensor, timestep: int, contexts: tuple[LayerContext, ...], maps: Tensor, guidance: float
    ) -> Tensor:
        """One evaluation, guided unless ``guidance`` is 1; the guider runs in it."""
        backbone, clips = self._backbone, len(latents)
        guider = backbone.networks.guider
        pictures = maps.flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        batch, halves = latents.to(backbone.dtype), 1 if guidance == 1.0 else 2
        batch = torch.cat([batch] * halves)
        if isinstance(guider, PoseGuider):
            pictures = (pictures * 255).round() * 2 - 1
            features = guider(torch.cat([pictures.to(backbone.dtype)] * halves))
        else:
            pictures = pictures.to(backbone.dtype)
            features = tuple(torch.cat([feature] * halves) for feature in guider(pictures))
        features = tuple(feature.contiguous() for feature in features)
        level = torch.full((1,), timestep, device=latents.device)
        total, windows = torch.zeros_like(batch), torch.zeros_like(batch[:1, :, :1, :1, :1])
        total[:, self._frames] += backbone.networks.denoiser(batch, level, features, contexts, clips)
        windows[:, self._frames] += 1
        output = (total / windows).float()
        return output if guidance == 1.0 else output[clips:] + guidance * (output[:clips] - output[clips:])

    @torch.no_grad()
    def refine(self, clip: Tensor, portrait: Tensor, maps: Tensor, steps: int, guidance: float) -> Tensor:
        """Encode, invert, denoise under guidance, decode; frames ``[B, T, H, W, 3]``."""
        backbone = self._backbone
        vae = backbone.networks.autoencoder
        frames = clip.flatten(0, 1).to(backbone.dtype).permute(0, 3, 1, 2).contiguous()
        latents = torch.cat([autoencoder.encode(vae, frame) for frame in frames.split(1)])
        schedule = NoiseSchedule.from_config(backbone.spec.scheduler)
        timesteps = schedule.timesteps(steps)

        def pass_of(scale: float) -> Callable[[Tensor, int], Tensor]:
            contexts = self.contexts(portrait, scale != 1.0)
            return lambda x, timestep: self.predict(x, timestep, contexts, maps, scale)

        start = invert(pass_of(1.0), schedule, latents.float().unflatten(0, clip.shape[:2]), timesteps)
        refined = denoise(pass_of(guidance), schedule, start, timesteps).flatten(0, 1).to(backbone.dtype)
        return torch.cat([autoencoder.decode(vae, frame) for frame in refined.split(1)])
