"""Make one avatar as a Ray job: ``python -m ray_jobs.generate input=PHOTO output=DIR [key=value ...]``.

Submitted as ``ray job submit --working-dir . -- python -m ray_jobs.generate input=me.jpg output=/shared/me``. Paths are
those of the cluster: photo and output folder must lie where every machine of it can see them. Within a job Ray
sets its address, and the generation's actors are placed on the cluster instead of on one machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from zero1toa.errors import ConfigError, UserError, nearest

_OWN = ("input", "output", "face", "restart")


def parse(arguments: Sequence[str]) -> tuple[str, Path, list[str], int | None, bool]:
    """Split ``key=value`` arguments into the job's own and configuration overrides.

    Args:
        arguments: ``input`` (photo, or ``sample:astronaut``), ``output`` (folder), optionally ``face`` (index by size)
            and ``restart`` (``true`` begins anew); everything else is configuration.

    Returns:
        Photo, output folder, overrides, face, restart.

    Raises:
        ConfigError: for a missing or repeated argument, one without ``=``, or more than one photo.
    """
    own: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"'{argument}' is not key=value; write input=PHOTO output=DIR [key=value ...]")
        if key not in _OWN:
            overrides.append(argument)
        elif key in own:
            raise ConfigError(f"{key} is given twice; this job makes one avatar of one photo")
        else:
            own[key] = value
    for key in ("input", "output"):
        if not own.get(key):
            written = [argument.partition("=")[0] for argument in overrides]
            hint = nearest(key, written).replace("did you mean", "is it meant by")
            raise ConfigError(f"{key} is missing{hint}; write input=PHOTO output=DIR [key=value ...]")
    if Path(own["input"]).is_dir() or any(sign in own["input"] for sign in "*?,"):
        raise ConfigError(f"input={own['input']}: this job makes one avatar of one photo; submit one job per photo")
    if not own.get("face", "0").isdigit():
        raise ConfigError(f"face={own['face']} is not an index; 0 is the largest face")
    if own.get("restart", "false") not in ("true", "false"):
        raise ConfigError(f"restart={own['restart']} must be true or false")
    face = int(own["face"]) if "face" in own else None
    return own["input"], Path(own["output"]), overrides, face, own.get("restart") == "true"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code: 0, 2 for a mistake of the user, 130 when stopped."""
    from zero1toa.commands.generate import generate_avatar

    try:
        photo, output, overrides, face, restart = parse(sys.argv[1:] if arguments is None else arguments)
        generate_avatar(photo, output, overrides, face=face, restart=restart)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same job continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
