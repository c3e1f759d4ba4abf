"""The settings that a benchmark compares: names, and what each changes of the common configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from zero1toa.batch.ids import is_safe
from zero1toa.config import OverrideChecker
from zero1toa.errors import ConfigError

RESERVED = ("wandb", "backbones.")
"""What the benchmark itself writes beside the settings' folders: no name may be the first or begin with the second."""

_OVERRIDES = "overrides"


@dataclasses.dataclass(frozen=True)
class NamedSetting:
    """One column of a comparison.

    Attributes:
        name: safe as a folder's name.
        overrides: ``key=value``, applied after the configuration that all settings share.
    """

    name: str
    overrides: tuple[str, ...]


def read_settings(path: Path) -> list[NamedSetting]:
    """Read a file of settings.

    It is YAML: names with sections as in a configuration file, or with ``overrides``, a list of ``key=value``. A name
    with nothing behind it is the common configuration itself.

    Raises:
        ConfigError: if there is no such file, it is no YAML or holds no settings, a name is given twice or is no folder
            name, or for an unknown key or a wrong value; the message names the setting.
    """
    try:
        loaded = OmegaConf.load(path)  # refuses a key that is given twice
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file {path}") from error
    except Exception as error:  # of YAML, of the file system, or of OmegaConf
        line = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as settings: {line}") from error
    if not isinstance(loaded, DictConfig) or not len(loaded):
        raise ConfigError(f"{path} must hold names of settings, each with the configuration values that it changes")
    checker = OverrideChecker()
    tree: Any = OmegaConf.to_container(loaded)
    return [_setting(path, str(name), values, checker) for name, values in tree.items()]


def _setting(path: Path, name: str, values: Any, checker: OverrideChecker) -> NamedSetting:
    where = f"{path}, setting '{name}'"
    if not is_safe(name) or name == RESERVED[0] or name.startswith(RESERVED[1]):
        raise ConfigError(
            f"{where}: the name becomes a folder; use letters, digits, '.', '_' and '-', beginning with a letter, "
            f"digit or '_', and neither '{RESERVED[0]}' nor '{RESERVED[1]}...'"
        )
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: give configuration sections, or overrides: [key=value, ...]; not {values!r}")
    if _OVERRIDES in values:
        listed = values[_OVERRIDES]
        if len(values) > 1 or not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise ConfigError(f"{where}: overrides must be a list of key=value, and stand alone")
        overrides = tuple(listed)
    else:
        overrides = tuple(_flatten(values))
    for override in overrides:
        key = override.partition("=")[0]
        try:
            if key == "preset":
                raise ConfigError("all settings share one preset; give preset=NAME to the job")
            checker.check(override)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return NamedSetting(name, overrides)


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found.extend(_flatten(value, f"{prefix}{name}."))
        else:
            found.append(f"{prefix}{name}={json.dumps(value, ensure_ascii=False)}")  # JSON is YAML on one line
    return found
