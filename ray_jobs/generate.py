"""Make the avatars of a batch of portraits as a Ray job.

``python -m ray_jobs.generate [--config FILE] input=PORTRAITS output=FOLDER [key=value ...]``

Submitted as ``ray job submit --working-dir . -- python -m ray_jobs.generate --config configs/batch.yaml
input=s3://bucket/photos output=s3://bucket/avatars``. Paths are those of the cluster: portraits and output must lie
where every machine of it reaches them. Within a job Ray sets its address, and the actors are placed on the cluster
instead of on one machine. Exit codes: 0 all portraits done, 2 a mistake that concerns the whole batch, 3 some portraits
failed, 130 stopped; the same job again continues.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from zero1toa.errors import ConfigError, UserError, nearest

_OWN = ("input", "output", "name", "restart")
_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in a submitted job
_USAGE = "write [--config FILE] input=PORTRAITS output=FOLDER [key=value ...]"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The job's arguments.

    Attributes:
        input: where the portraits are.
        output: where the avatars go.
        overrides: configuration as ``key=value``.
        file: configuration file.
        name: of the batch.
        restart: forget what earlier jobs made.
    """

    input: str
    output: str
    overrides: tuple[str, ...] = ()
    file: Path | None = None
    name: str = ""
    restart: bool = False


def parse(arguments: Sequence[str]) -> Arguments:
    """Split the job's own arguments from configuration overrides.

    Args:
        arguments: ``--config FILE``; ``input`` (folder, glob, manifest, shards or image), ``output`` (folder),
            optionally ``name`` and ``restart`` (``true`` forgets earlier jobs); everything else is configuration.

    Raises:
        ConfigError: for a missing or repeated argument, one without ``=``, or a relative output in a submitted job.
    """
    own: dict[str, str] = {}
    overrides: list[str] = []
    file: Path | None = None
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--config":
            if not rest:
                raise ConfigError(f"--config needs a file; {_USAGE}")
            file = Path(rest.pop(0))
            continue
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"'{argument}' is not key=value; {_USAGE}")
        if key not in _OWN:
            overrides.append(argument)
        elif key in own:
            raise ConfigError(f"{key} is given twice; {_USAGE}")
        else:
            own[key] = value
    for key in ("input", "output"):
        if not own.get(key):
            written = [argument.partition("=")[0] for argument in overrides]
            hint = nearest(key, written).replace("did you mean", "is it meant by")
            raise ConfigError(f"{key} is missing{hint}; {_USAGE}")
    if _IN_JOB in os.environ and not Path(own["output"]).is_absolute() and "://" not in own["output"]:
        raise ConfigError(
            f"output={own['output']} is relative to the job's copy of the working directory and would vanish with it; "
            "give an absolute path or a URL"
        )
    if own.get("restart", "false") not in ("true", "false"):
        raise ConfigError(f"restart={own['restart']} must be true or false")
    return Arguments(
        own["input"], own["output"], tuple(overrides), file, own.get("name", ""), own.get("restart") == "true"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    # ``ray job stop`` sends SIGTERM and waits: time for every avatar in work to write a checkpoint.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from zero1toa.commands.batch import make_batch

    try:
        asked = parse(sys.argv[1:] if arguments is None else arguments)
        return make_batch(
            asked.input, asked.output, asked.overrides, file=asked.file, name=asked.name, restart=asked.restart
        )
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same job continues", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
