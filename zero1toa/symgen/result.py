"""What a generation returns, and how its losses are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zero1toa.storage import Storage


@dataclasses.dataclass(frozen=True)
class GenerationResult:
    """A finished generation; earlier sessions of a continued run are included in all figures.

    Attributes:
        avatar: avatar id.
        bundle: folder of the avatar.
        dataset: folder of the dataset store.
        checkpoint: folder of the checkpoint.
        iterations: training iterations.
        continued_from: iteration at which this session began; 0 for a fresh run.
        gaussians: number of Gaussians.
        seconds: total time.
        timings: seconds by phase: ``train``, ``render``, ``landmarks``, ``wait`` (for answers), ``checkpoint``,
            ``preview``, and the refiners' ``encode``, ``denoise``, ``decode``.
        losses: curve as points ``{"iteration": k, "total": ..., "l1": ...}``, means over equal stretches.
        requested: refinement requests made.
        refined: clips refined and committed.
        superseded: refined clips that came second.
        expired: refined clips that came too late.
        refinements: committed refinements by clip.
        landmarks: shares of ``detected``, ``projected`` and ``missing`` landmarks among all requested frames.
        metrics: figures of the final avatar by name.
        notes: fallbacks and incidents, one line each.
    """

    avatar: str
    bundle: Storage
    dataset: Storage
    checkpoint: Storage
    iterations: int
    continued_from: int
    gaussians: int
    seconds: float
    timings: dict[str, float]
    losses: list[dict[str, float]]
    requested: int
    refined: int
    superseded: int
    expired: int
    refinements: dict[str, int]
    landmarks: dict[str, float]
    metrics: dict[str, float]
    notes: tuple[str, ...]


class LossCurve:
    """Means of the loss terms over equal stretches of iterations: a curve of bounded length.

    Args:
        iterations: length of the whole run.
        points: number of points it is reduced to.
    """

    def __init__(self, iterations: int, points: int = 500) -> None:
        self.stretch = max(1, -(-iterations // points))
        self.points: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, iteration: int, losses: Mapping[str, float]) -> None:
        """Take in the terms of one iteration (from 1); terms may be absent, as alpha is for clips without a matte."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if iteration % self.stretch == 0:
            means = {name: total / self._counts[name] for name, total in self._sums.items()}
            self.points.append({"iteration": float(iteration), **means})
            self._sums, self._counts = {}, {}

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"points": list(self.points), "sums": dict(self._sums), "counts": dict(self._counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.points = [dict(point) for point in state["points"]]
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
