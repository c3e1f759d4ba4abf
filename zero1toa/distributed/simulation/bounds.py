"""What no schedule can exceed: the asymptotic bounds of a closed queue with N avatars and R refiners."""

from __future__ import annotations

import math

from zero1toa.distributed.simulation.settings import Settings


def updates(settings: Settings) -> int:
    """Requests of an avatar."""
    return math.ceil(settings.iterations / settings.update_interval)


def training_seconds(settings: Settings) -> float:
    """Seconds of training and rendering between two requests (Z)."""
    return settings.update_interval * settings.iteration_seconds + settings.render_seconds


def service_seconds(settings: Settings) -> float:
    """Seconds that a refiner has a request in hand (S), one at a time."""
    return settings.lease_seconds + settings.refine_seconds


def capacity(settings: Settings) -> float:
    """Clips a second of all refiners that never wait, micro-batches included where they help."""
    alone = settings.refine_seconds
    several = (
        count / (count * settings.lease_seconds + alone * (1 + settings.marginal * (count - 1)))
        for count in range(1, settings.micro_batch + 1)
    )
    return settings.refiners * max(several)


def demand(settings: Settings) -> float:
    """Clips a second that one avatar asks for when no refiner is ever taken.

    With W requests outstanding it cannot have more than W in a service, nor train faster than it trains; and since
    training waits ``slack`` intervals after a render, each answer has taken at most that long.
    """
    answer = service_seconds(settings) + settings.commit_seconds
    train = training_seconds(settings)
    return min(settings.window / answer, (1 + settings.slack) / (answer + train), 1 / train)


def throughput(settings: Settings) -> float:
    """Clips a second that cannot be exceeded."""
    return min(capacity(settings), settings.avatars * demand(settings))


def knee(settings: Settings) -> float:
    """Avatars (N*) at which the refiners' capacity meets the avatars' demand; more only wait."""
    return capacity(settings) / demand(settings)
