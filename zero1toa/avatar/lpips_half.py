"""LPIPS at a GPU's rate of half precision: forward in float16, backward in bfloat16.

LPIPS (Zhang et al., CVPR 2018) subtracts features that nearly agree, so that forward needs float16's eleven bits: with
bfloat16's eight the gradient turns by degrees. Its gradients, means over hundreds of thousands of pixels, are smaller
than what float16 can hold, and larger where features nearly vanish; backward subtracts nothing and needs bfloat16's
range. Autograd has one type for both, hence a function with a backward of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_FINE = 2  # slices whose features are not worth keeping: four fifths of the memory, a third of the arithmetic
_TINY = 1e-20  # keeps the root of a feature's squared length differentiable at 0; LPIPS adds its root after


class HalfPrecisionLpips(nn.Module):
    """LPIPS (VGG) whose gradient goes to the first pictures only.

    Args:
        network: ``lpips.LPIPS(net="vgg")``, which has no types, on its device.
        forward_dtype: of the convolutions forward.
        backward_dtype: of the convolutions backward.
        compiled: whether torch's compiler fuses what is between the convolutions.
    """

    def __init__(
        self,
        network: Any,
        forward_dtype: torch.dtype = torch.float16,
        backward_dtype: torch.dtype = torch.bfloat16,
        compiled: bool = True,
    ) -> None:
        super().__init__()
        self._dtype = forward_dtype
        self.shift: Tensor = network.scaling_layer.shift
        self.scale: Tensor = network.scaling_layer.scale
        self.weights: list[Tensor] = [layer.model[-1].weight[0] for layer in network.lins]  # [C, 1, 1] each
        # Layers of the slices that end in what LPIPS compares; every slice after the first starts with a pooling.
        slices = (getattr(network.net, f"slice{k}") for k in range(1, 6))
        convolutions: list[list[Any]] = [[layer for layer in part if isinstance(layer, nn.Conv2d)] for part in slices]
        self.layers = [[(_of(c.weight, forward_dtype), _of(c.bias, forward_dtype)) for c in p] for p in convolutions]
        self.transposed = [[_of(c.weight, backward_dtype) for c in part] for part in convolutions]
        self._forward, self._backward, self._coarse = self._distances, self._gradient, self._coarse_features
        if compiled:
            self._coarse = torch.compile(self._coarse, dynamic=False)
            self._forward = torch.compile(self._forward, dynamic=False)
            self._backward = torch.compile(self._backward, dynamic=False)

    def forward(self, renders: Tensor, targets: Tensor, known: Sequence[Tensor] | None = None) -> Tensor:
        """Distance ``[B]`` of pictures ``[B, 3, H, W]`` in [-1, 1], differentiable in ``renders``.

        Args:
            renders: the pictures.
            targets: what they are compared with.
            known: :meth:`coarse_features` of the targets, which are computed without them.
        """
        return _Distances.apply(renders, targets.detach(), known, self)  # type: ignore[no-untyped-call,no-any-return]

    @torch.no_grad()
    def coarse_features(self, pictures: Tensor) -> list[Tensor]:
        """Features ``[B, h, w, C]`` of pictures ``[B, 3, H, W]`` in [-1, 1], from a quarter of the resolution on."""
        return self._coarse(pictures)

    def _coarse_features(self, pictures: Tensor) -> list[Tensor]:
        return [part[-1].movedim(1, -1) for part in self._features(pictures)[_FINE:]]

    def _distances(
        self, renders: Tensor, targets: Tensor, known: Sequence[Tensor] | None
    ) -> tuple[Tensor, list[list[Tensor]], list[Tensor]]:
        """Distances ``[B]``, the renders' features after every convolution by slice, the targets' that are compared."""
        features = self._features(renders)
        other = [part[-1] for part in self._features(targets, None if known is None else _FINE)]
        other += [x.movedim(-1, 1) for x in known or ()]
        distances = renders.new_zeros(len(renders))
        for part, y, weight in zip(features, other, self.weights, strict=True):
            distances = distances + ((_unit(part[-1])[0] - _unit(y)[0]).square() * weight).sum(1).mean((1, 2))
        return distances, features, other

    def _features(self, pictures: Tensor, slices: int | None = None) -> list[list[Tensor]]:
        limit = torch.finfo(self._dtype).max
        x = ((pictures - self.shift) / self.scale).to(self._dtype, memory_format=torch.channels_last)
        result: list[list[Tensor]] = []
        for part in self.layers[:slices]:
            x = functional.max_pool2d(x, 2) if result else x
            result.append([])
            for weight, bias in part:
                x = functional.conv2d(x, weight, bias, padding=1).clamp(0, limit)
                result[-1].append(x)
        return result

    def _gradient(self, features: list[list[Tensor]], other: list[Tensor], share: Tensor) -> Tensor:
        """Gradient ``[B, 3, H, W]`` of ``sum(share * distances)``, ``share`` ``[B]``."""
        gradient: Tensor | None = None
        for k in reversed(range(len(features))):
            here = self._of_comparison(features[k][-1], other[k], self.weights[k], share).to(self.transposed[k][0])
            gradient = here if gradient is None else here + _through_pool(gradient, features[k][-1])
            for x, weight in zip(reversed(features[k]), reversed(self.transposed[k]), strict=True):
                gradient = functional.conv_transpose2d(torch.where(x > 0, gradient, 0), weight, padding=1)
        assert gradient is not None
        return gradient.to(share.dtype) / self.scale

    @staticmethod
    def _of_comparison(x: Tensor, y: Tensor, weight: Tensor, share: Tensor) -> Tensor:
        """Gradient of the weighted squared difference of unit features, in the features ``x``."""
        unit, length = _unit(x)
        towards = 2 * weight * (unit - _unit(y)[0]) * (share / (x.shape[2] * x.shape[3]))[:, None, None, None]
        return (towards - unit * (unit * towards).sum(1, keepdim=True)) / length


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, renders: Tensor, targets: Tensor, known: Sequence[Tensor] | None, term: HalfPrecisionLpips
    ) -> Tensor:
        distances, features, other = term._forward(renders, targets, known)
        ctx.term = term
        ctx.save_for_backward(*(x for part in features for x in part), *other)
        return distances

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, share: Tensor) -> tuple[Tensor, None, None, None]:
        saved = list(ctx.saved_tensors)
        features = [[saved.pop(0) for _ in part] for part in ctx.term.layers]
        return ctx.term._backward(features, saved, share), None, None, None


def _of(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """A parameter in another type, kernels with their channels last."""
    layout = torch.channels_last if parameter.ndim == 4 else torch.preserve_format
    return parameter.detach().to(dtype, memory_format=layout)


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``[B, C, H, W]`` over their length, and that length ``[B, 1, H, W]``, float32 or more."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    length = (x.square().sum(1, keepdim=True) + _TINY).sqrt()
    return x / length, length


def _through_pool(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient of a pooling by 2 in its input ``x``: a square's goes to the first of its largest values."""
    height, width = (2 * side for side in gradient.shape[2:])
    # Every pixel looks at its whole square, so that the compiler makes it one pass over the features.
    squares = x[:, :, :height, :width].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, C, h, 2, w, 2]
    corners = [squares[:, :, :, i : i + 1, :, j : j + 1] for i in (0, 1) for j in (0, 1)]
    largest = functools.reduce(torch.maximum, corners)
    first = torch.full_like(largest, 3, dtype=torch.int8)
    for place in (2, 1, 0):
        first = torch.where(corners[place] == largest, place, first)
    places = torch.arange(4, device=x.device).view(2, 1, 2)
    whole = torch.where(first == places, gradient[:, :, :, None, :, None], 0).flatten(4).flatten(2, 3)
    return functional.pad(whole, (0, x.shape[3] - width, 0, x.shape[2] - height))
