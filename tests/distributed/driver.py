"""A driver of a tiny batch in a process of its own, so that a test can kill it or its cluster.

Arguments: FOLDER OUTPUT COUNT [KEY=VALUE ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import watched
from fleet import fleet

from zero1toa.batch.records import Row
from zero1toa.distributed import refiner_pool, store_actor
from zero1toa.distributed.batch import run_batch
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent

SETTINGS = ("diffusion.steps=60", "distributed.refiners=1", "batch.at_once=2", "batch.refresh=0.5")


def hear(key: str, event: ProgressEvent | Row) -> None:
    """Tell the test what happens, one line each."""
    if isinstance(event, Row):
        print(event.state, key, flush=True)
    elif event.kind != "iteration":
        print(event.kind, key, event.message, flush=True)


if __name__ == "__main__":
    refiner_pool.RefinementActor = watched.RefinementActor  # type: ignore[misc]
    store_actor.StoreActor = watched.StoreActor  # type: ignore[misc]
    output = Storage(sys.argv[2])
    entries = fleet(Path(sys.argv[1]), output, int(sys.argv[3]), *SETTINGS, *sys.argv[4:])
    result = run_batch(entries, output, entries[0][1], hear=hear)
    sys.exit(0 if set(result.counts) == {"done"} else 3)
