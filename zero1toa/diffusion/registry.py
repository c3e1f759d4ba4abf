"""Video diffusion backbones by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from zero1toa.diffusion.protocol import VideoBackbone
from zero1toa.errors import ConfigError, nearest

Loader: TypeAlias = Callable[..., VideoBackbone]  # of device and dtype, and of its options by keyword

# Loaders are named by text so that importing the registry imports no network code.
_LOADERS: dict[str, str | Loader] = {
    "aniportrait": "zero1toa.diffusion.aniportrait:load",
    "compact": "zero1toa.diffusion.compact:load",
    "echomimic": "zero1toa.diffusion.echomimic:load",
    "fake": "zero1toa.diffusion.fake:load",
    "follow_your_emoji": "zero1toa.diffusion.follow_your_emoji:load",
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def register(name: str, loader: str | Loader) -> None:
    """Add a backbone.

    Args:
        name: registry name, as in ``diffusion.backbone``.
        loader: function of device and dtype, or its ``package.module:function``, imported on first use. Parameters that
            it takes by keyword only are the backbone's options.

    Raises:
        ConfigError: if the name is taken by another loader.
    """
    if _LOADERS.get(name, loader) != loader:
        raise ConfigError(f"there is already a backbone named '{name}'; choose another name")
    _LOADERS[name] = loader


def backbones() -> list[str]:
    """Names of the registered backbones."""
    return sorted(_LOADERS)


def load_backbone(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = "auto",
    options: Mapping[str, Any] | None = None,
) -> VideoBackbone:
    """Load a backbone with its weights.

    Args:
        name: registry name.
        device: where to put it.
        dtype: ``auto`` (bfloat16 on CUDA, float32 on CPU), ``float32``, ``bfloat16``, or the torch type.
        options: the backbone's own options, see docs/backbones.md.

    Raises:
        ConfigError: for an unknown name, type or option.
        AssetError: if its weights are not installed.
    """
    if name not in _LOADERS:
        raise ConfigError(
            f"there is no backbone '{name}'{nearest(name, _LOADERS)}; backbones: {', '.join(backbones())}"
        )
    place = torch.device(device)
    if isinstance(dtype, str):
        if dtype == "auto":
            dtype = "bfloat16" if place.type == "cuda" else "float32"
        if dtype not in _DTYPES:
            raise ConfigError(f"unknown dtype '{dtype}'{nearest(dtype, _DTYPES)}; use auto, {', '.join(_DTYPES)}")
        dtype = _DTYPES[dtype]
    loader = _LOADERS[name]
    if isinstance(loader, str):
        module, attribute = loader.split(":")
        loader = getattr(importlib.import_module(module), attribute)
    assert callable(loader)
    valid = [p.name for p in inspect.signature(loader).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options or {}:
        if option not in valid:
            has = f"its options: {', '.join(valid)}" if valid else "it has no options"
            raise ConfigError(f"the backbone '{name}' has no option '{option}'{nearest(option, valid)}; {has}")
    return loader(place, dtype, **(options or {}))
