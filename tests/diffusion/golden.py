"""Tensors recorded from the three public implementations, and the recipe of the weights they ran with."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[2].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no recorded tensors in {FOLDER}")

# Registry names, and what the recordings call the backbone and its modules.
RECORDED = {"follow_your_emoji": "followyouremoji", "aniportrait": "aniportrait", "echomimic": "echomimic"}
DENOISER = {"follow_your_emoji": "unet", "aniportrait": "denoising_unet", "echomimic": "denoising_unet"}
REFERENCE = {"follow_your_emoji": "referencenet", "aniportrait": "reference_unet", "echomimic": "reference_unet"}
GUIDER = {"follow_your_emoji": "lmk_guider", "aniportrait": "pose_guider", "echomimic": "face_locator"}


@functools.cache
def tensors(backbone: str, size: str = "") -> dict[str, Tensor]:
    return load_file(FOLDER / f"{RECORDED[backbone]}{size}.safetensors")


@functools.cache
def metadata(backbone: str, size: str = "") -> dict[str, Any]:
    with safe_open(FOLDER / f"{RECORDED[backbone]}{size}.safetensors", "pt") as file:
        return json.loads(file.metadata()["config"])


@functools.cache
def keys(backbone: str, size: str = ".tiny") -> dict[str, dict[str, tuple[list[int], str]]]:
    return json.loads((FOLDER / f"{RECORDED[backbone]}{size}.keys.json").read_text())


@functools.cache
def landmarks(backbone: str) -> Mapping[str, np.ndarray]:
    with np.load(FOLDER / f"{RECORDED[backbone]}.landmarks.npz") as file:
        return {key: file[key] for key in file.files}


def positions(shape: list[int]) -> Tensor:
    """Sinusoidal positions (1, length, C), sines at even channels and cosines at odd ones."""
    _, length, channels = shape
    angles = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(0, channels, 2) / channels)
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(1, length, channels)
    return torch.from_numpy(table.astype(np.float32))


def recipe(module: str, key: str, shape: list[int]) -> Tensor:
    """A weight as the recordings had it; see the recordings' own README, section 2."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith(".pe"):
        return positions(shape)
    seed = zlib.crc32(f"{module}/{key}".encode()) ^ 7
    x = np.random.RandomState(seed).standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)
    special = module != "image_encoder"
    if special and key.endswith("running_var"):
        x = 0.5 + np.abs(x)
    elif special and key.endswith("running_mean"):
        x = 0.2 * x
    elif special and key == "scale":
        x = np.full(shape, 1.7, np.float32)
    elif len(shape) >= 2:
        x = x / np.sqrt(x[0].size).astype(np.float32)
    elif key.endswith(".weight"):
        x = 1 + 0.2 * x
    else:
        x = 0.1 * x
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def weights(backbone: str, module: str, size: str = ".tiny") -> dict[str, Tensor]:
    """The state dict of one module, in the released naming."""
    return {key: recipe(module, key, shape) for key, (shape, _) in keys(backbone, size)[module].items()}
