"""Which errors mean that a process or a machine died, and which that the work itself is at fault."""

from __future__ import annotations

MAX_DEATHS = 3
"""Times in a row that a trainer, or the refiners, may die without any progress in between."""


def deaths() -> tuple[type[BaseException], ...]:
    """Ray's errors for a process, machine or object that is gone; they have no useful parent in common."""
    from ray import exceptions

    return (
        exceptions.RayActorError,
        exceptions.NodeDiedError,
        exceptions.WorkerCrashedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )


def cause(error: Exception) -> Exception:
    """The error that was raised in an actor, without Ray's wrapping."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, Exception) else error


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
