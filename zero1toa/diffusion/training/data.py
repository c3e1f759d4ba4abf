"""Training clips: where they come from, and the pool that lets each be seen more than once."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from zero1toa.errors import ConfigError

KINDS = ("front", "side", "mouth", "turning")

HELD_OUT_SEED = 1_000_000
"""Seeds from here on are for validation: the synthetic source promises that seeds share no identities."""

# Named by text: this package lies below those that make heads and clips.
_SYNTHETIC = "zero1toa.evaluation.synthetic:SyntheticClips"
_HEAD = "zero1toa.head.registry:load_head"


class ClipSource(Protocol):
    """Makes clips of heads as pairs of ground truth and a degraded, half-trained-looking render."""

    def sample(self, generator: torch.Generator, batch: int, frames: int, size: int) -> Mapping[str, Any]:
        """Draw clips, on the device that the source was made for.

        Returns:
            ``truth``, ``degraded`` ``[B, T, H, W, 3]``, ``mask`` ``[B, T, H, W, 1]`` (the head),
            ``reference`` ``[B, H, W, 3]``, ``reference_landmarks`` ``[B, 478, 2]`` and ``landmarks``
            ``[B, T, 478, 2]`` (of the truth, as fractions of the frame), all float32; ``kind``: B names or indices
            of :data:`KINDS`.
        """
        ...


def open_source(name: str, seed: int, device: torch.device) -> ClipSource:
    """Find a clip source by name.

    Args:
        name: ``synthetic``, or ``package.module:function``, called with ``seed`` and ``device``.
        seed: seed of what the source fixes once, such as its identities.
        device: where the clips are made.

    Raises:
        ConfigError: if there is no such module or function.
    """
    if name == "synthetic":
        return _named(_SYNTHETIC)(_named(_HEAD)("canonical"), seed=seed, device=device)
    if ":" not in name:
        raise ConfigError(f"unknown clip source '{name}'; use synthetic, or package.module:function")
    return _named(name)(seed=seed, device=device)


def _named(target: str) -> Callable[..., Any]:
    module, attribute = target.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot open the clip source '{target}': {error}") from error


def kind_names(kinds: Sequence[Any] | Tensor) -> list[str]:
    """Kinds as names, whichever way the source gives them."""
    values = kinds.tolist() if isinstance(kinds, Tensor) else list(kinds)
    return [value if isinstance(value, str) else KINDS[int(value)] for value in values]


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def to_unit(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images ``[..., H, W, 3]`` as channel-first ``[..., 3, H, W]`` in [0, 1]."""
    return images.movedim(-1, -3).to(dtype) / 255


class Pool:
    """The newest clips as a ring of device tensors, so that drawing a batch is one gather and no copy to the device."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tensors: dict[str, Tensor] = {}
        self.filled = 0
        self._next = 0

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Put clips in, over the oldest once the ring is full. The first batch fixes names, shapes and types."""
        count = len(next(iter(batch.values())))
        if not self.tensors:
            self.tensors = {k: v.new_zeros(self.capacity, *v.shape[1:]) for k, v in batch.items()}
        slots = [(self._next + i) % self.capacity for i in range(count)]
        index = torch.tensor(slots, device=next(iter(batch.values())).device)
        for name, values in batch.items():
            self.tensors[name][index] = values
        self._next = (self._next + count) % self.capacity
        self.filled = min(self.filled + count, self.capacity)

    def draw(self, generator: torch.Generator, count: int) -> dict[str, Tensor]:
        """Clips drawn with replacement."""
        device = generator.device
        index = torch.randint(self.filled, (count,), generator=generator, device=device)
        return {name: values[index] for name, values in self.tensors.items()}

    def chunks(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All clips in the pool, ``size`` at a time."""
        for start in range(0, self.filled, size):
            yield {k: v[start : min(start + size, self.filled)] for k, v in self.tensors.items()}


class Budget:
    """Decides when new data is due: not more often than every ``reuse`` steps, nor beyond a share of the time."""

    def __init__(self, reuse: int, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.reuse, self.share, self.clock = reuse, share, clock
        self.started = clock()
        self.spent = 0.0
        self._since = 0

    def due(self) -> bool:
        """Whether to make new data before this step; call once per step."""
        self._since += 1
        return self._since >= self.reuse and self.spent <= self.share * (self.clock() - self.started)

    def charge(self, seconds: float) -> None:
        """Record the making of a batch."""
        self.spent += seconds
        self._since = 0
