"""The layers of denoiser and autoencoder over the kernels of this package: CUDA, half precision.

Each function computes what the layer's own ``forward`` computes, in fewer passes over memory, and takes its place (see
:mod:`zero1toa.diffusion.animator.acceleration`). Products and convolutions stay torch's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import (
    KeyValue,
    LayerContext,
    SelfAttention,
    SpatialTransformer,
    attend,
    to_tokens,
)
from zero1toa.diffusion.animator.blocks import ResnetBlock, TimeEmbedding
from zero1toa.diffusion.animator.config import MOTION_HEADS
from zero1toa.diffusion.animator.denoiser import Denoiser
from zero1toa.diffusion.animator.kernels.layers import (
    add,
    add_norm,
    gate,
    gated_product,
    group_norm,
    interleave,
    join,
    product_norm,
    spatial_attention,
    takes_attention,
    takes_gated_product,
    takes_product_norm,
    temporal_attention,
    wide_attention,
)
from zero1toa.diffusion.animator.kernels.winograd import from_products, normalised_patches, takes_patches
from zero1toa.diffusion.animator.motion import MotionModule, TemporalAttention

# Up to this side, maps are padded before a convolution of 2 x 2: if cuDNN is to do it, it takes an older kernel for 32
# maps of 16 x 16, of half the speed, and the padding itself costs next to nothing there.
_PADDED = 16


def residual_block(layer: ResnetBlock, x: Tensor, time: Tensor, skip: Tensor | None = None) -> Tensor:
    """See :meth:`ResnetBlock.forward`; ``time`` is of :func:`time_shifts`, and ``skip`` is read where it lies."""
    return _residual(layer, x, skip, time[0, layer.shifts])  # type: ignore[index]


def time_shifts(embedding: TimeEmbedding, timestep: Tensor) -> Tensor:
    """In place of the time embedding, what all residual blocks make of it, by one product instead of one for each."""
    time = type(embedding).forward(embedding, timestep)
    return F.linear(time, embedding.shift_weight, embedding.shift_bias)  # type: ignore[arg-type]


@torch.no_grad()
def merge_shifts(denoiser: Denoiser) -> None:
    """Prepare the time embedding for :func:`time_shifts`, the biases of the blocks' first convolutions included."""
    blocks = [layer for layer in denoiser.modules() if isinstance(layer, ResnetBlock)]
    weight = torch.cat([block.time_emb_proj.weight for block in blocks])
    bias = torch.cat([block.time_emb_proj.bias + block.conv1.bias for block in blocks])  # type: ignore[operator]
    first = 0
    for block in blocks:
        width = block.time_emb_proj.out_features
        block.shifts = slice(first, first + width)  # type: ignore[assignment]
        block.time_emb_proj.weight.data = weight[first : first + width]  # not held twice
        first += width
    denoiser.time_embedding.shift_weight, denoiser.time_embedding.shift_bias = weight, bias  # type: ignore[assignment]


def autoencoder_block(layer: Any, x: Tensor, temb: Tensor | None = None) -> Tensor:
    """A ``diffusers.models.resnet.ResnetBlock2D`` of the autoencoder, which has no time embedding.

    Score distillation goes back through the encoder: the kernels have no gradients, so that this runs the block's own.
    """
    if _needs_gradients(x):
        return type(layer).forward(layer, x, temb)  # type: ignore[no-any-return]
    return _residual(layer, x, None, layer.conv1.bias)


def autoencoder_attention(layer: Any, x: Tensor, temb: Tensor | None = None) -> Tensor:
    """The autoencoder's ``diffusers.models.attention_processor.Attention``, a single head over all pixels."""
    if _needs_gradients(x):
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    x = _rows(x)
    qkv = F.linear(to_tokens(group_norm(x, layer.group_norm)), layer.qkv_weight, layer.qkv_bias)
    return add(x, layer.to_out[0](wide_attention(*qkv.chunk(3, -1))))


@torch.no_grad()
def merge_projections(layer: Any) -> None:
    """Prepare an attention for :func:`autoencoder_attention`: one product, with the scores' factor in its queries."""
    layers, factors = (layer.to_q, layer.to_k, layer.to_v), (layer.scale, 1.0, 1.0)
    for name in ("weight", "bias"):
        parts = [factor * getattr(part, name).double() for part, factor in zip(layers, factors, strict=True)]
        setattr(layer, f"qkv_{name}", torch.cat(parts).to(layer.to_q.weight))


def activated_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """The autoencoder's last normalisations, with the SiLU that follows them."""
    if _needs_gradients(x):
        return F.silu(type(layer).forward(layer, x))
    return group_norm(_rows(x), layer, activate=True)


def _needs_gradients(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _residual(layer: Any, x: Tensor, skip: Tensor | None, shift: Tensor) -> Tensor:
    x, skip = _rows(x), None if skip is None else _rows(skip)
    hidden = normalise_and_convolve(layer.norm1, layer.conv1, x, skip)
    added = [x] if skip is None else [x, skip]
    if layer.conv_shortcut is not None:
        weights = layer.conv_shortcut.weight.flatten(1).split([part.shape[1] for part in added], 1)
        added = [F.linear(to_tokens(part), weight) for part, weight in zip(added, weights, strict=True)]
    return normalise_and_convolve(layer.norm2, layer.conv2, hidden, None, shift, *added, bias=layer.conv2.bias)


def normalise_and_convolve(
    norm: nn.GroupNorm,
    convolution: nn.Conv2d,
    x: Tensor,
    more: Tensor | None,
    shift: Tensor | None = None,
    *added: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """What a residual block does twice.

    Args:
        norm: whose output is activated, and convolved.
        convolution: of 3 x 3, by the weights of :func:`merge_patches` where it has them; without its bias.
        x: a map.
        more: a map whose channels follow those of ``x``.
        shift: added to each channel before the normalisation ``[C]``.
        added: maps or tokens added to the output.
        bias: added to each channel of the output, along with these.
    """
    weights = getattr(convolution, "patches", None)
    if weights is not None and takes_patches(x, convolution):
        products = torch.bmm(normalised_patches(x, norm, more, shift), weights)
        return from_products(products, x.shape[-2:], *added, shift=bias)
    hidden = _convolve(convolution, group_norm(x, norm, more, shift, activate=True))
    return add(hidden, *added, shift=bias) if added else hidden


@torch.no_grad()
def merge_patches(layer: ResnetBlock) -> None:
    """Prepare a residual block for :func:`residual_block`: weights ``[16, C, D]`` of its convolutions' patches, too.

    Those as they were stay, for maps that are not computed so: their size is not known before they come.
    """
    merge_biases(layer)
    for convolution in (layer.conv1, layer.conv2):
        weight = convolution.weight
        halves = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]]
        seen = torch.tensor(halves, device=weight.device).double()
        patches = torch.einsum("au,bv,oiuv->abio", seen, seen, weight.double()).flatten(0, 1)
        convolution.patches = patches.to(weight).contiguous()  # type: ignore[assignment]


@torch.no_grad()
def merge_biases(layer: Any) -> None:
    """Bring the bias of a residual block's shortcut into that of its second convolution: both are added at the end."""
    if layer.conv_shortcut is not None:
        layer.conv2.bias += layer.conv_shortcut.bias
        layer.conv_shortcut.bias = None


def upsample(layer: Any, x: Tensor, output_size: None = None) -> Tensor:
    """See :meth:`Upsample.forward`; ``diffusers.models.upsampling.Upsample2D`` computes the same.

    A convolution of repeated pixels meets each of them up to twice in a row. Over the pixels as they were it is four
    convolutions of 2 x 2, one for each pixel of the square that comes of one: 4/9 of the arithmetic.
    """
    rows = _rows(x)
    if rows.shape[-1] > _PADDED:
        return interleave(F.conv2d(rows, layer.squares, padding=1), layer.conv.bias)
    padded = F.pad(rows.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).permute(0, 3, 1, 2)
    return interleave(F.conv2d(padded, layer.squares), layer.conv.bias)


@torch.no_grad()
def merge_repeated(layer: Any) -> None:
    """Prepare an upsampling layer for :func:`upsample`: weights ``[4 C, C, 2, 2]`` of the four convolutions."""
    weight = layer.conv.weight
    # By pixel of the square and place in the window: upper and left pixels see the first of three alone, then the two
    # others in one pixel; lower and right ones the first two in one, then the last alone.
    seen = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], device=weight.device).double()
    squares = torch.einsum("uac,vbd,oicd->uvoiab", seen, seen, weight.double()).flatten(0, 2)
    layer.squares = squares.to(weight).contiguous(memory_format=torch.channels_last)


def _rows(x: Tensor) -> Tensor:
    """A map laid out channels last, as nearly all are."""
    return x.contiguous(memory_format=torch.channels_last)


def _convolve(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Without the bias, which the next kernel adds."""
    return F.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding)


def spatial_transformer(
    layer: SpatialTransformer, x: Tensor, context: LayerContext, split: int, twice: bool = False
) -> tuple[Tensor, Tensor]:
    """See :meth:`SpatialTransformer.forward`; ``x`` is overwritten unless it is taken for two."""
    tokens, normed = _product_norm(to_tokens(group_norm(x, layer.norm)), layer.proj_in, layer.norm1)
    attended = _attend_space(layer.attn1, normed, context.reference, split, twice)
    if twice:
        x, tokens = torch.cat([x, x]), torch.cat([tokens, tokens])
    ending, last = _room_for_ending(tokens), torch.empty_like(tokens)
    ends = (slice(split), context.prompt), (slice(split, None), context.null_prompt)
    for read, (part, prompt) in zip(attended, ends, strict=True):
        own = tokens[part]
        place: dict[str, Any] = {"out": last[part], "sums": ending[part]}
        if not len(own):
            continue
        if layer.attn2 is None:
            _product_norm(read, layer.attn1.to_out, layer.norm3, own, **place)
            continue
        assert prompt is not None
        if prompt.keys.shape[1] == 1:
            # Attention over a single token is that token, whatever the query.
            constant = layer.attn2.to_out(prompt.values)
            if layer.prompt_scale != 1:
                constant = layer.prompt_scale * constant
            _product_norm(read, layer.attn1.to_out, layer.norm3, own, constant=constant, **place)
        else:
            assert layer.norm2 is not None
            _, asking = _product_norm(read, layer.attn1.to_out, layer.norm2, own)
            read = layer.attn2.attend(asking, prompt)
            _product_norm(read, layer.attn2.to_out, layer.norm3, own, factor=layer.prompt_scale, **place)
    return _finish(layer, x, ending, last), normed


def _product_norm(
    x: Tensor,
    product: nn.Linear,
    norm: nn.LayerNorm,
    tokens: Tensor | None = None,
    factor: float = 1.0,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """See :func:`product_norm`, which takes the widest maps; narrower ones, or a factor, leave a product to cuBLAS."""
    if factor == 1 and takes_product_norm(x, product):
        return product_norm(x, product, norm, tokens, **settings)
    change = product(x)
    if tokens is None:
        return change, add_norm(change, norm, **settings)
    return tokens, add_norm(tokens, norm, change, factor=factor, **settings)


def _attend_space(
    layer: SelfAttention, normed: Tensor, reference: KeyValue | None, split: int, twice: bool
) -> tuple[Tensor, Tensor]:
    """What tokens read of those that see the reference, and of the others, before the last projection."""
    qkv = layer.to_qkv(normed)
    keys, values = (None, None) if reference is None or split == 0 else reference
    if takes_attention(qkv, keys, layer.heads):
        read = spatial_attention(qkv, keys, values, split, layer.heads, twice)
        return read[:split], read[split:]
    own, others = qkv[:split], qkv if twice else qkv[split:]
    return _attend_with(own, keys, values, layer.heads), _attend_with(others, None, None, layer.heads)


def _attend_with(qkv: Tensor, keys: Tensor | None, values: Tensor | None, heads: int) -> Tensor:
    """Self-attention of pictures, perhaps of none, joined by keys and values of their reference."""
    queries, own_keys, own_values = qkv.chunk(3, -1)
    if not len(qkv):
        return queries
    if keys is not None and values is not None:
        own_keys, own_values = join(qkv, keys, values)
    return attend(queries, own_keys, own_values, heads)


def motion_module(layer: MotionModule, x: Tensor, frames: int) -> Tensor:
    """See :meth:`MotionModule.forward`; ``x`` is overwritten."""
    places = layer.attn1.pe[0, :frames], layer.attn2.pe[0, :frames]
    tokens, normed = _product_norm(to_tokens(group_norm(x, layer.norm)), layer.proj_in, layer.norm1, places=places[0])
    read = _attend_time(layer.attn1, normed, frames)
    _, normed = _product_norm(read, layer.attn1.to_out, layer.norm2, tokens, places=places[1])
    read, ending = _attend_time(layer.attn2, normed, frames), _room_for_ending(tokens)
    _, normed = _product_norm(read, layer.attn2.to_out, layer.norm3, tokens, sums=ending)
    return _finish(layer, x, ending, normed)


def _attend_time(layer: TemporalAttention, placed: Tensor, frames: int) -> Tensor:
    return temporal_attention(layer.to_qkv(placed), frames, MOTION_HEADS)


_CONSTANT = 8  # columns of a one and zeros, so that rows stay divisible into vectors


def _room_for_ending(tokens: Tensor) -> Tensor:
    """Rows for what a layer's last product takes: the tokens, a one for its bias, and the gated values."""
    return tokens.new_empty(*tokens.shape[:2], 5 * tokens.shape[-1] + _CONSTANT)


def _finish(layer: SpatialTransformer | MotionModule, x: Tensor, ending: Tensor, normed: Tensor) -> Tensor:
    """Feed forward, project back, add to the layer's input, which is overwritten.

    Args:
        layer: whose weights :func:`merge_ending` has prepared.
        x: the layer's input, a map.
        ending: rows of :func:`_room_for_ending`, with the tokens and the one in them.
        normed: what the feed-forward layer takes.
    """
    gated = ending[..., -4 * normed.shape[-1] :]
    if takes_gated_product(normed, layer.ff.proj):
        gated_product(normed, layer.ff.proj, gated)
    else:
        gate(layer.ff.proj(normed), gated)
    rows = _rows(x).permute(0, 2, 3, 1)
    rows.flatten(0, 2).addmm_(ending.flatten(0, 1), layer.ending.t())  # type: ignore[operator]
    return rows.permute(0, 3, 1, 2)


@torch.no_grad()
def merge_ending(layer: SpatialTransformer | MotionModule) -> None:
    """Bring the layer's last projection into its feed-forward's second product: only sums lie between them.

    That is as much arithmetic as before, but what lies between is neither written, read nor rounded.
    """
    inner, outer = layer.ff.out, layer.proj_out
    exact, width = outer.weight.double(), outer.in_features
    ending = outer.weight.new_zeros(outer.out_features, width + _CONSTANT + inner.in_features)
    ending[:, :width] = outer.weight
    ending[:, width] = outer.bias.double() + exact @ inner.bias.double()
    ending[:, width + _CONSTANT :] = exact @ inner.weight.double()
    layer.ending = ending  # type: ignore[assignment]
    layer.ff.out, layer.proj_out = None, None  # type: ignore[assignment]


def finish(denoiser: Denoiser, x: Tensor) -> Tensor:
    """See :meth:`Denoiser.finish`."""
    return denoiser.conv_out(group_norm(x, denoiser.conv_norm_out, activate=True))
