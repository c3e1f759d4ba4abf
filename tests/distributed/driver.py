"""A driver of a tiny batch in a process of its own, so that a test can kill it or its cluster: FOLDER OUTPUT COUNT."""

from __future__ import annotations

import sys
from pathlib import Path

from fleet import fleet

from zero1toa.batch.records import Row
from zero1toa.distributed.batch import run_batch
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent


def hear(key: str, event: ProgressEvent | Row) -> None:
    """Tell the test what happens, one line each."""
    if isinstance(event, Row):
        print(event.state, key, flush=True)
    elif event.kind != "iteration":
        print(event.kind, key, event.message, flush=True)


if __name__ == "__main__":
    output = Storage(sys.argv[2])
    entries = fleet(Path(sys.argv[1]), output, int(sys.argv[3]), "diffusion.steps=60", "distributed.refiners=1")
    config = entries[0][1]
    config.batch.at_once, config.batch.refresh = 2, 0.5
    result = run_batch(entries, output, config, hear=hear)
    sys.exit(0 if set(result.counts) == {"done"} else 3)
