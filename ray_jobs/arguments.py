"""The arguments of Ray jobs: ``key=value`` of the job's own, among those of the configuration."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from zero1toa.errors import ConfigError, ZeroOneError, ending, nearest
from zero1toa.stopping import stopped_as_by_ctrl_c

_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in a submitted job


@dataclasses.dataclass(frozen=True)
class Split:
    """Arguments told apart.

    Attributes:
        own: the job's own arguments by name, of those that were given.
        overrides: configuration as ``key=value``.
        file: configuration file.
    """

    own: dict[str, str]
    overrides: tuple[str, ...]
    file: Path | None

    @property
    def restart(self) -> bool:
        """Whether earlier jobs are to be forgotten."""
        return self.own.get("restart") == "true"


def split(arguments: Sequence[str], own: Sequence[str], required: Sequence[str], usage: str) -> Split:
    """Tell a job's own arguments from configuration overrides.

    Args:
        arguments: ``--config FILE`` and ``key=value``.
        own: names of the job's own arguments; ``restart`` among them must be ``true`` or ``false``.
        required: those of them that must be given, ``output`` among them.
        usage: what to write, for messages.

    Raises:
        ConfigError: for a missing or repeated argument, one without ``=``, or a relative output in a submitted job.
    """
    found: dict[str, str] = {}
    overrides: list[str] = []
    file: Path | None = None
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--config":
            if not rest:
                raise ConfigError(f"--config needs a file; {usage}")
            file = Path(rest.pop(0))
            continue
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"'{argument}' is not key=value; {usage}")
        if key not in own:
            overrides.append(argument)
        elif key in found:
            raise ConfigError(f"{key} is given twice; {usage}")
        else:
            found[key] = value
    for key in required:
        if not found.get(key):
            written = [argument.partition("=")[0] for argument in overrides]
            hint = nearest(key, written).replace("did you mean", "is it meant by")
            raise ConfigError(f"{key} is missing{hint}; {usage}")
    if _IN_JOB in os.environ and not Path(found["output"]).is_absolute() and "://" not in found["output"]:
        raise ConfigError(
            f"output={found['output']} is relative to the job's copy of the working directory and would vanish with "
            "it; give an absolute path or a URL"
        )
    if found.get("restart", "false") not in ("true", "false"):
        raise ConfigError(f"restart={found['restart']} must be true or false")
    return Split(found, tuple(overrides), file)


def run_job(job: Callable[[], int]) -> int:
    """Run a job and turn its errors, and being stopped, into one line and an exit code, as the command line does.

    Args:
        job: does the work and returns its exit code.
    """
    try:
        with stopped_as_by_ctrl_c():
            return job()
    except (ZeroOneError, OSError, KeyboardInterrupt) as error:
        known = ending(error, "job")
        if known is None:
            raise
        print(known.line, file=sys.stderr)
        return known.code
