"""Being stopped by whoever started the program."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopped_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which ``kill``, ``ray job stop`` and service managers send, end the work as Ctrl-C does.

    The work then writes a checkpoint, says that it was stopped, and ends with exit code 130. In the main thread only.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
