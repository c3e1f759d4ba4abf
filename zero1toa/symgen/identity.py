"""Which configuration values shape an avatar: what a continued run is recognised by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zero1toa.config import Config
from zero1toa.errors import ConfigError

# Sections that say where a run goes and how fast, not what comes out: a continued run may change them.
_FREE = ("device", "tracking", "distributed", "batch", "loop.checkpoint_every", "loop.preview_every")
_SHOWN = 3


def shaping_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every configuration value that shapes an avatar, by its dotted key, as JSON keeps it.

    Args:
        config: :func:`zero1toa.config.to_dict`.
    """
    return {key: value for key, value in _flatten(config, "").items() if not _is_free(key)}


def config_of(values: Mapping[str, Any]) -> Config:
    """The configuration that has these :func:`shaping_values`; what does not shape an avatar is left at its default.

    Raises:
        ConfigError: for a value that this version does not know, or of another type.
    """
    config = OmegaConf.structured(Config)
    try:
        for key, value in values.items():
            OmegaConf.update(config, key, value)
        made = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{str(error).splitlines()[0]}; was it made by another version of zero1toa?") from error
    assert isinstance(made, Config)
    return made


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two results of :func:`shaping_values`, for an error message.

    Returns:
        ``seed was 0 and is 3``, up to three of them and how many more; the empty string if nothing differs.
    """
    changed = [key for key in sorted({**before, **now}) if before.get(key) != now.get(key)]
    shown = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in changed[:_SHOWN])
    return f"{shown} and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else shown


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat
