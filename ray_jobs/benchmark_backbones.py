"""Compare backbones and settings on the same portraits as a Ray job.

``python -m ray_jobs.benchmark_backbones [--config FILE] input=PORTRAITS output=FOLDER settings=FILE [key=value ...]``

Submitted as ``ray job submit --working-dir . -- python -m ray_jobs.benchmark_backbones input=s3://bucket/photos
output=s3://bucket/benchmark settings=configs/benchmark/backbones.yaml``. The settings file lies where the job is
started; portraits and output must lie where every machine of the cluster reaches them. Exit codes: 0 every setting has
made every avatar, 1 the work failed, 2 a mistake that concerns the whole benchmark, 3 some are missing, 130 stopped;
the same job again continues.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ray_jobs.arguments import run_job, split

_OWN = ("input", "output", "settings", "name", "restart")
_REQUIRED = ("input", "output", "settings")
_USAGE = "write [--config FILE] input=PORTRAITS output=FOLDER settings=FILE [key=value ...]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    from zero1toa.commands.benchmark_backbones import benchmark_backbones

    def job() -> int:
        asked = split(sys.argv[1:] if arguments is None else arguments, _OWN, _REQUIRED, _USAGE)
        return benchmark_backbones(
            asked.own["input"],
            asked.own["output"],
            Path(asked.own["settings"]),
            asked.overrides,
            file=asked.file,
            name=asked.own.get("name", ""),
            restart=asked.restart,
        )

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main())
