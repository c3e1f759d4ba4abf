"""How many threads a process may use, so that actors on one machine do not slow each other down."""

from __future__ import annotations

from zero1toa.render.threads import available_cores, set_threads

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def share_threads(configured: int, actors: int) -> int:
    """Threads of each busy actor of one machine.

    Args:
        configured: ``distributed.threads``; 0 shares the cores evenly.
        actors: busy actors on the machine.
    """
    return configured or max(1, available_cores() // max(actors, 1))


def thread_variables(threads: int) -> dict[str, str]:
    """Environment of a process with that many threads; libraries read it when they are loaded."""
    return dict.fromkeys(_VARIABLES, str(threads))


def limit_threads(threads: int) -> None:
    """Limit torch and the compiled kernels of this process to that many threads."""
    import torch

    torch.set_num_threads(threads)
    set_threads(threads)
