"""Durations that vary."""

from __future__ import annotations

from random import Random


def vary(mean: float, variation: float, random: Random) -> float:
    """Draw a duration from a gamma distribution.

    Args:
        mean: its mean.
        variation: its standard deviation over its mean; 0 gives the mean itself, 1 an exponential distribution.
        random: where it is drawn from.
    """
    if variation == 0:
        return mean
    shape = variation**-2
    # Never nothing at all, to which strong variation would round now and then.
    return mean * max(random.gammavariate(shape, 1 / shape), 1e-9)
