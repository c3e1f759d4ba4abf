"""Losses on their way from a device to the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class LossReadout:
    """Loss terms of the newest iterations, until the host reads them.

    A GPU that is asked for a value at once works off all that it was given, and then has nothing to do until the host
    has launched more. Asked an iteration later it has the value ready.

    Args:
        device: where the losses are computed; a CPU's are read at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._delay = 1 if device.type == "cuda" else 0
        self._waiting: deque[tuple[int, list[str], Tensor, torch.cuda.Event | None]] = deque()

    def put(self, iteration: int, losses: Mapping[str, Tensor]) -> None:
        """Send the terms of an iteration, scalars by name, on their way."""
        values = torch.stack(list(losses.values())).to("cpu", non_blocking=True)
        arrived = None
        if self._delay:
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append((iteration, list(losses), values, arrived))

    def read(self, everything: bool = False) -> Iterator[tuple[int, dict[str, float]]]:
        """Iterations and their terms, the oldest first: on a GPU all but the newest, or ``everything``."""
        while len(self._waiting) > (0 if everything else self._delay):
            iteration, names, values, arrived = self._waiting.popleft()
            if arrived is not None:
                arrived.synchronize()
            yield iteration, dict(zip(names, values.tolist(), strict=True))
