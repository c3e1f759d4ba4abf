"""Which errors mean that a process or a machine died, and which that the work itself is at fault."""

from __future__ import annotations

MAX_DEATHS = 3
"""Times in a row that a trainer, or the refiners, may die without any progress in between."""


MAX_CURSES = 3
"""Clips in a row, with none refined in between, that may kill whoever serves them: more are no accident of a few."""


def no_refiner_lives(deaths: int, refiners: int, given_up: int = 0) -> bool:
    """Whether so many deaths of refiners, with no clip refined in between, are too many for the job to go on.

    One clip may kill whoever serves it: its avatar is given up after as many deaths as a clip has attempts, and the
    job goes on. So that many are allowed for the clip beside those of each refiner, and as many again for each clip
    that was given up, up to :data:`MAX_CURSES`.

    Args:
        deaths: of refiners that had work, since the last clip was refined.
        refiners: their number.
        given_up: clips that were given up by these deaths.
    """
    return deaths >= MAX_DEATHS * (refiners + 1 + min(given_up, MAX_CURSES - 1))


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
