"""The loss curve: one JSON object per line, on disk and on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class CurveLog:
    """Appends lines to a file, keeps them, and prints them."""

    def __init__(self, path: Path, lines: list[dict[str, Any]] | None = None) -> None:
        self.path = path
        self.lines = list(lines or [])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in self.lines), encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """Add a line; floats are rounded to five significant digits."""
        line = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in fields.items()}
        self.lines.append(line)
        text = json.dumps(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
        print(text, flush=True)


class RunningMean:
    """Mean of a device scalar since it was last read; adding costs no synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._sum = torch.zeros((), device=device)
        self._count = 0

    def add(self, value: Tensor) -> None:
        """Add a scalar."""
        self._sum += value.detach()
        self._count += 1

    def read(self) -> float:
        """The mean; starts anew."""
        mean = float(self._sum) / max(self._count, 1)
        self._sum.zero_()
        self._count = 0
        return mean
