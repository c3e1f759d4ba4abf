"""How many threads and how much GPU memory a process may use, so that actors on one machine leave each other room."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from zero1toa.render.threads import available_cores, set_threads

if TYPE_CHECKING:
    import torch

CONTEXT = 0.6
"""GiB of GPU memory that a process takes before its first tensor, which torch does not count."""

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


def limit_memory(share: float) -> None:
    """Limit torch's memory on the current GPU to a share of it, with what the process itself takes there.

    Ray counts shares of a GPU, but lets every process use all of it. Beyond the limit torch raises its out-of-memory
    error in the process that asks for too much, not in its neighbour.

    Args:
        share: the actor's ``num_gpus``; a whole GPU or none at all sets no limit.
    """
    import torch

    if not 0 < share < 1 or not torch.cuda.is_available():
        return
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(max(share - CONTEXT * 2**30 / total, share / 2))


def peak_memory(device: torch.device) -> int:
    """Most memory in bytes that this process has held so far: that of torch on a GPU, else all that it had in RAM."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others kibibytes
