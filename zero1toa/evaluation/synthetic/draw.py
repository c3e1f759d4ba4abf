"""Random draws of a batch from one seed, on one device, without global random state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SALT_STEP = 0x9E3779B97F4A7C15  # the golden ratio in 64 bits: neighbouring salts give unrelated seeds


class Draw:
    """A stream of random tensors. The same seed on the same kind of device gives the same stream.

    Args:
        seed: start of the stream.
        device: where the tensors are made.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed % (1 << 63))

    @classmethod
    def fork(cls, generator: torch.Generator, salt: int, device: torch.device | str) -> Draw:
        """A stream on ``device`` that depends on the state of ``generator`` (advanced once) and on ``salt``."""
        word = int(torch.randint(1 << 62, (1,), generator=generator, device=generator.device).item())
        return cls(word ^ ((salt + 1) * _SALT_STEP % (1 << 62)), device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), float32 of ``shape``."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32 of ``shape``."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), int64 of ``shape``."""
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """1.0 with ``probability``, else 0.0: float32 of ``shape``, ready to multiply with."""
        return (torch.rand(shape, generator=self.generator, device=self.device) < probability).float()

    def choose(self, weights: Sequence[float], count: int) -> Tensor:
        """``count`` indices with probabilities proportional to ``weights``, int64 ``[count]``."""
        table = torch.tensor(list(weights), dtype=torch.float32, device=self.device)
        return torch.multinomial(table, count, replacement=True, generator=self.generator)

    def direction(self, *shape: int) -> Tensor:
        """Unit vectors ``[*shape, 3]``, uniform on the sphere."""
        return torch.nn.functional.normalize(self.normal(*shape, 3), dim=-1)
