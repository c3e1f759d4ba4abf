"""How compiled kernels share the cores: a pool of Python threads around functions that release the GIL.

Not OpenMP: its threads spin at every barrier, so that two actors on two cores slow each other down several times over,
and numba falls back to a layer that must not be entered from two threads where the system has no OpenMP library.
Threads that sleep on a lock have neither problem and need nothing installed.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_lock = threading.Lock()
_threads = 0
_pool: ThreadPoolExecutor | None = None
_MOST_THREADS = 256


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(n: int) -> None:
    """Set how many threads the compiled kernels of this process use; 0 takes every core it may use.

    Results do not depend on the number. Give each of several processes on one machine its share of the cores.

    Args:
        n: threads, the caller's own included.

    Raises:
        ValueError: for a negative number.
    """
    global _threads
    if n < 0:
        raise ValueError(f"the number of threads must be 0 (all cores) or more, got {n}")
    _threads = min(n or available_cores(), _MOST_THREADS)


def get_threads() -> int:
    """Threads that the compiled kernels use; before the first ``set_threads``, OMP_NUM_THREADS or all cores."""
    if _threads == 0:
        wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        set_threads(int(wanted) if wanted.isdecimal() else 0)
    return _threads


def run_parallel(kernel: Callable[..., Any], items: int, *arguments: Any, pieces: int = 4) -> None:
    """Call ``kernel(start, stop, *arguments)`` on pieces of ``range(items)`` that cover it, on all threads.

    The caller works too, and pieces go to whoever is free, so that a core taken by another process delays one piece
    and not half of the work.

    Args:
        kernel: compiled function that releases the GIL and whose items are independent of each other.
        items: number of items.
        arguments: passed on.
        pieces: pieces per thread.
    """
    threads = min(get_threads(), items)
    if threads <= 1:
        kernel(0, items, *arguments)
        return
    count = min(items, threads * pieces)
    turn = itertools.count()

    def work() -> None:
        while (piece := next(turn)) < count:
            kernel(piece * items // count, (piece + 1) * items // count, *arguments)

    futures = [_get_pool().submit(work) for _ in range(threads - 1)]
    work()
    for future in futures:
        if not future.cancel():
            future.result()


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            # Threads start when first needed, so the size of the pool costs nothing and never has to change.
            _pool = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="zero1toa-kernel")
        return _pool


def _forget_pool() -> None:
    # The threads of a pool do not survive a fork; the child makes its own.
    global _pool, _lock
    _pool = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
