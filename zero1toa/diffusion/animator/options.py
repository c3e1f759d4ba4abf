"""Checks of the animators' options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zero1toa.errors import ConfigError, nearest


def choose(option: str, value: Any, choices: Sequence[str]) -> str:
    """``value`` if it is one of the choices.

    Raises:
        ConfigError: if not.
    """
    if value not in choices:
        raise ConfigError(
            f"diffusion.options.{option}={value} is unknown{nearest(str(value), choices)}; "
            f"choose {' or '.join(choices)}"
        )
    return str(value)


def switch(option: str, value: Any) -> bool:
    """``value`` if it is true or false.

    Raises:
        ConfigError: if not.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"diffusion.options.{option}={value} must be true or false")
    return value


def with_betas(scheduler: Mapping[str, Any], betas: str) -> dict[str, Any]:
    """Scheduler settings with another noise schedule.

    Raises:
        ConfigError: for an unknown schedule.
    """
    return {**scheduler, "beta_schedule": choose("betas", betas, ("scaled_linear", "linear"))}
