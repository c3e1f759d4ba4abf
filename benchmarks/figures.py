"""Figures of a benchmark on a device: printed as they come, and kept with where they are from."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path
from typing import Any

import torch

from zero1toa import media


class Figures:
    """Prints figures and keeps them in a file, which is written anew after each.

    Args:
        device: where the benchmark runs.
        target: JSON file.
        width: of the names in print.
        facts: what else the file says beside date, device and torch.
    """

    def __init__(self, device: torch.device, target: Path, width: int, **facts: Any) -> None:
        self.device = device
        self.cuda = device.type == "cuda"
        self._target = target
        self._width = width
        self.record: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": torch.cuda.get_device_name() if self.cuda else platform.machine(),
            "torch": torch.__version__,
            **facts,
            "results": {},
        }

    def note(self, name: str, value: float, unit: str, limit: str = "") -> None:
        """Print a figure and keep it."""
        print(f"{name:<{self._width}} {value:12.5g} {unit:<8} {limit}", flush=True)
        self.record["results"][name] = {"value": value, "unit": unit, "limit": limit}
        self._target.parent.mkdir(parents=True, exist_ok=True)
        with media.atomic_path(self._target) as partial:
            partial.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()
