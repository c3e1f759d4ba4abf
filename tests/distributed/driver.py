"""A driver of a tiny batch in a process of its own, so that a test can kill it or its cluster.

Arguments: FOLDER OUTPUT COUNT [KEY=VALUE ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from fleet import fleet

from zero1toa.batch.records import Row
from zero1toa.distributed import batch
from zero1toa.distributed.portraits import Portraits
from zero1toa.distributed.records import Load
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent

SETTINGS = ("diffusion.steps=60", "distributed.refiners=1", "batch.at_once=2", "batch.refresh=0.5")


def hear(key: str, event: ProgressEvent | Row) -> None:
    """Tell the test what happens, one line each."""
    if isinstance(event, Row):
        print(event.state, key, flush=True)
    elif event.kind != "iteration":
        print(event.kind, key, event.message, flush=True)


class Watched(Portraits):
    """Portraits that tell how many clips were handed to refiners."""

    handed = 0

    def tick(self, load: Load | None) -> None:
        """See the base class."""
        if load is not None and load.handed != self.handed:
            self.handed = load.handed
            print("handed", self.handed, flush=True)
        super().tick(load)


if __name__ == "__main__":
    batch.Portraits = Watched  # type: ignore[misc]
    output = Storage(sys.argv[2])
    entries = fleet(Path(sys.argv[1]), output, int(sys.argv[3]), *SETTINGS, *sys.argv[4:])
    result = batch.run_batch(entries, output, entries[0][1], hear=hear)
    sys.exit(0 if set(result.counts) == {"done"} else 3)
