"""What the animators' CUDA kernels compute, as plain formulas on any device and in any type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero1toa.diffusion.animator.attention import KeyValue


def group_norm(
    x: Tensor, norm: nn.GroupNorm, more: Tensor | None = None, shift: Tensor | None = None, activate: bool = False
) -> Tensor:
    joined = x if more is None else torch.cat([x, more], 1)
    if shift is not None:
        joined = joined + shift[:, None, None]
    normed = F.group_norm(joined, norm.num_groups, norm.weight.to(x), norm.bias.to(x), norm.eps)
    return F.silu(normed) if activate else normed


def add_norm(
    tokens: Tensor,
    norm: nn.LayerNorm,
    change: Tensor | None = None,
    constant: Tensor | None = None,
    factor: float = 1.0,
    places: Tensor | None = None,
    out: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    if sums is not None:
        tokens = tokens.clone()
    if change is not None:
        tokens += factor * change
    if constant is not None:
        tokens += constant.repeat_interleave(len(tokens) // len(constant), 0)
    if sums is not None:
        sums[..., : tokens.shape[-1] + 8] = F.pad(F.pad(tokens, (0, 1), value=1.0), (0, 7))
    normed = F.layer_norm(tokens, tokens.shape[-1:], norm.weight.to(tokens), norm.bias.to(tokens), norm.eps)
    if places is not None:
        normed = normed + places.repeat(len(tokens) // len(places), 1)[:, None]
    return normed if out is None else out.copy_(normed)


def gate(x: Tensor, out: Tensor) -> None:
    values, gates = x.chunk(2, -1)
    out[:] = values * F.gelu(gates)


def takes_gated_product(x: Tensor, layer: nn.Linear) -> bool:
    return x.shape[1] % 64 == 0


def gated_product(x: Tensor, layer: nn.Linear, out: Tensor) -> None:
    gate(F.linear(x, layer.weight.to(x), layer.bias.to(x)), out)


def takes_product_norm(x: Tensor, layer: nn.Linear) -> bool:
    return x.shape[1] % 64 == 0


def product_norm(
    x: Tensor,
    layer: nn.Linear,
    norm: nn.LayerNorm,
    tokens: Tensor | None = None,
    constant: Tensor | None = None,
    places: Tensor | None = None,
    out: Tensor | None = None,
    sums: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    change = F.linear(x, layer.weight.to(x), layer.bias.to(x))
    if tokens is None:
        tokens = torch.zeros_like(change)
    normed = add_norm(tokens, norm, change, constant, places=places, out=out, sums=sums)
    return tokens if sums is None else sums, normed


def add(*maps: Tensor, shift: Tensor | None = None) -> Tensor:
    total = maps[0]
    for other in maps[1:]:
        # Tokens are a map's pixels in its own order.
        same = total.ndim == other.ndim
        total = total + (other if same else other.unflatten(1, total.shape[-2:]).permute(0, 3, 1, 2))
    return total if shift is None else total + shift[:, None, None]


def interleave(x: Tensor, shift: Tensor) -> Tensor:
    squares = x.unflatten(1, (2, 2, -1))
    height, width = x.shape[-2] - 1, x.shape[-1] - 1
    out = x.new_empty(len(x), squares.shape[3], 2 * height, 2 * width)
    for below in range(2):
        for right in range(2):
            part = squares[:, below, right, :, below : below + height, right : right + width]
            out[..., below::2, right::2] = part + shift[:, None, None]
    return out


def join(qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    frames = len(qkv) // len(keys)
    own = qkv.chunk(3, -1)[1:]
    pairs = zip(own, (keys, values), strict=True)
    joined_keys, joined_values = (torch.cat([one, more.repeat_interleave(frames, 0)], 1) for one, more in pairs)
    return joined_keys, joined_values


def temporal_attention(qkv: Tensor, frames: int, heads: int) -> Tensor:
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).unflatten(0, (-1, frames)).permute(3, 0, 2, 4, 1, 5)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores.softmax(-1) @ v).permute(0, 3, 1, 2, 4).flatten(-2).flatten(0, 1)


def takes_attention(qkv: Tensor, others: Tensor | None, heads: int) -> bool:
    return qkv.shape[1] % 64 == 0


def spatial_attention(
    qkv: Tensor, keys: Tensor | None, values: Tensor | None, split: int, heads: int, twice: bool = False
) -> Tensor:
    if twice:
        qkv = torch.cat([qkv, qkv])
    pictures = []
    for index, picture in enumerate(qkv):
        own = KeyValue(*picture.chunk(3, -1)[1:])
        if keys is not None and values is not None and index < split:
            clip = index // (split // len(keys))
            own = KeyValue(torch.cat([own.keys, keys[clip]]), torch.cat([own.values, values[clip]]))
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (picture.chunk(3, -1)[0], *own))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        pictures.append((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    return torch.stack(pictures)


def wide_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return (queries @ keys.transpose(1, 2)).softmax(-1) @ values


_PATCH = torch.tensor([[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0, 1.0, 0.0, -1.0]])
_TILE = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, -1.0]])


def takes_patches(x: Tensor, convolution: nn.Conv2d) -> bool:
    return all(side % 2 == 0 and side <= 8 for side in x.shape[-2:])


def normalised_patches(
    x: Tensor, norm: nn.GroupNorm, more: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    padded = F.pad(group_norm(x, norm, more, shift, activate=True), (1, 1, 1, 1))
    patches = padded.unfold(2, 4, 2).unfold(3, 4, 2)  # [N, C, h / 2, w / 2, 4, 4]
    return torch.einsum("au,bv,nchwuv->abnhwc", _PATCH.to(x), _PATCH.to(x), patches).flatten(2, 4).flatten(0, 1)


def from_products(products: Tensor, sides: tuple[int, ...], *maps: Tensor, shift: Tensor | None = None) -> Tensor:
    of_tiles = products.unflatten(1, (-1, sides[0] // 2, sides[1] // 2)).unflatten(0, (4, 4))
    tiles = torch.einsum("ua,vb,abnhwc->nchuwv", _TILE.to(products), _TILE.to(products), of_tiles)
    return add(tiles.flatten(4, 5).flatten(2, 3), *maps, shift=shift)


NAMES = (
    "add",
    "add_norm",
    "from_products",
    "gate",
    "gated_product",
    "group_norm",
    "interleave",
    "join",
    "normalised_patches",
    "product_norm",
    "spatial_attention",
    "takes_attention",
    "takes_gated_product",
    "takes_patches",
    "takes_product_norm",
    "temporal_attention",
    "wide_attention",
)
"""The functions that :mod:`zero1toa.diffusion.animator.fused` takes from the kernels."""
