"""Where W&B writes runs that end up in a bucket: on this machine first, and whole before they are copied."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from zero1toa.errors import StorageError
from zero1toa.storage import Storage

_NAME = "wandb"  # the folder that W&B makes where it is told to write
_PATIENCE = 5.0  # seconds for W&B's service to write a finished run to its end; it takes some milliseconds
_TICK = 0.01


@contextmanager
def wandb_folder(output: Storage, report: Callable[[str], None]) -> Iterator[Path]:
    """Give a folder of this machine for runs that are closed inside the context; they lie in the output afterwards.

    Where the output is not in a file system, the runs are copied into its ``wandb`` when the context ends, however it
    ends. That they cannot be copied is said and not raised.

    Args:
        output: the job's output.
        report: takes one line if the runs cannot be copied.
    """
    if output.local is not None:
        yield output.local
        return
    with TemporaryDirectory(prefix="zero1toa-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        try:
            yield folder
        finally:
            try:
                wait_until_written(folder)
                output.upload(folder / _NAME, _NAME, last="")  # in any order: no file completes the others
            except (StorageError, OSError) as error:
                report(f"the W&B run could not be copied to {output}: {error}")


def wait_until_written(folder: Path, patience: float = _PATIENCE) -> bool:
    """Wait until W&B has closed the files of finished runs.

    Finishing a run tells W&B's service to close its file, and returns before that has been done: a file that is copied
    at once may hold nothing but its header.

    Args:
        folder: folder that W&B was told to write to.
        patience: seconds after which runs that W&B has not closed, because it broke down, are left as they are.

    Returns:
        Whether all are closed.
    """
    end = time.monotonic() + patience
    for path in folder.glob(f"{_NAME}/*run-*/run-*.wandb"):
        while _is_open(path):
            if time.monotonic() >= end:
                return False
            time.sleep(_TICK)
    return True


def _is_open(path: Path) -> bool:
    """Whether some process can still write to a file, as far as its file system tells."""
    if not hasattr(fcntl, "F_SETLEASE"):  # only Linux has leases
        return False
    try:
        with path.open("rb") as file:
            # The kernel leases a file to readers only while nobody has it open for writing. It ends with the file.
            fcntl.fcntl(file.fileno(), fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False
