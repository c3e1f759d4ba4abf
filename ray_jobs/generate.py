"""Make the avatars of a batch of portraits as a Ray job.

``python -m ray_jobs.generate [--config FILE] input=PORTRAITS output=FOLDER [key=value ...]``

Submitted as ``ray job submit --working-dir . -- python -m ray_jobs.generate --config configs/batch.yaml
input=s3://bucket/photos output=s3://bucket/avatars``. Paths are those of the cluster: portraits and output must lie
where every machine of it reaches them. Within a job Ray sets its address, and the actors are placed on the cluster
instead of on one machine. Exit codes: 0 all portraits done, 1 the work failed, 2 a mistake that concerns the whole
batch, 3 some portraits failed, 130 stopped; the same job again continues.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from ray_jobs.arguments import run_job, split

_OWN = ("input", "output", "name", "restart")
_REQUIRED = ("input", "output")
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
    asked = split(arguments, _OWN, _REQUIRED, _USAGE)
    name = asked.own.get("name", "")
    return Arguments(asked.own["input"], asked.own["output"], asked.overrides, asked.file, name, asked.restart)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    from zero1toa.commands.batch import make_batch

    def job() -> int:
        asked = parse(sys.argv[1:] if arguments is None else arguments)
        return make_batch(
            asked.input, asked.output, asked.overrides, file=asked.file, name=asked.name, restart=asked.restart
        )

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main())
