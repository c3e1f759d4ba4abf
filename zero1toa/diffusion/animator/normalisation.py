"""Group normalisation that a compiler turns into passes over memory in the order in which it lies."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation, in two ways that compute the same.

    Attributes:
        by_rows: compute for a compiler and maps laid out channels last. torch's own kernel reorders them to channels
            first, and its decomposition reads runs of only as many values as a group has channels. Here the first pass
            sums each channel along a row, whose pixels are whole runs of channels, and everything after works on these
            few sums. Eagerly this takes more passes than torch's kernel, so it is off unless the layer is compiled.
    """

    by_rows: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, h, w]`` to the same shape."""
        if not self.by_rows:
            return super().forward(x)
        values = x.permute(0, 2, 3, 1).float()
        rows = torch.stack([values.mean(2), values.square().mean(2)])  # [2, N, h, C]
        mean, square = rows.unflatten(-1, (self.num_groups, -1)).mean((2, 4))  # [N, G] each
        scale = (square - mean.square()).clamp(min=0).add(self.eps).rsqrt()
        mean, scale = (
            part.repeat_interleave(x.shape[1] // self.num_groups, 1)[:, None, None] for part in (mean, scale)
        )
        normed = (values - mean) * scale * self.weight.float() + self.bias.float()
        return normed.to(x.dtype).permute(0, 3, 1, 2)
