"""Files in the layout of SHOW and TalkSHOW, with numbers of our own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch


def show_entries(frames: int, seed: int = 0) -> dict[str, Any]:
    """A clip of SHOW: its keys, shapes and sizes of numbers."""
    rng = np.random.default_rng(seed)

    def smooth(width: int, size: float) -> np.ndarray:
        time = np.arange(frames)[:, None] / 30
        phase, speed = rng.uniform(0, 6, (2, width))
        return (size * np.sin(speed * time + phase)).astype(np.float32)

    return {
        "expression": smooth(100, 1.2),
        "jaw_pose": 0.07 + smooth(3, 0.07),
        "leye_pose": smooth(3, 0.15),
        "reye_pose": smooth(3, 0.15),
        "body_pose_axis": smooth(63, 0.2),
        "betas": rng.normal(size=(1, 300)).astype(np.float32),
        "global_orient": np.zeros((frames, 1, 3), np.float32),
        "focal_length": 5000,
        "batch_size": frames,
        "losses_to_log": {"photometric": torch.tensor(0.5), "landmarks": torch.arange(3.0)},
    }


def write_show(path: Path, frames: int, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Write a clip; entries changed to None are left out."""
    entries = {k: v for k, v in (show_entries(frames, seed) | changes).items() if v is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(entries, protocol=4))
    return entries
