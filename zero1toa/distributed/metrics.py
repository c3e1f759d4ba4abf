"""What the processes of a batch tell Prometheus, through Ray's metrics: names, tags and the records they come from.

Each figure has one writer, so that sums over processes count nothing twice: the stores report their commits, the driver
everything else, from the events that it hears and the samples that it takes. Tags have few values. Avatars are no tag:
a thousand of them would be a thousand time series each.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Literal

from zero1toa.batch.records import Sample
from zero1toa.batch.throughput import Throughput
from zero1toa.distributed.records import Load
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.types import Receipt

PREFIX = "ray_"
"""Ray puts this before every name that it exports."""

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One metric.

    Attributes:
        kind: a ``counter`` only grows, a ``gauge`` is the last value, a ``histogram`` counts values by size.
        description: what it is, with its unit.
        tags: names of its tags, besides ``backbone``, which all have.
        boundaries: upper bounds of a histogram's classes, increasing and positive.
    """

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


_SERVICE = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0, 600.0, 1800.0)
_AGE = (0.5, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0, 600.0, 1200.0, 3000.0)  # 0 has its own
_COMMIT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

FIGURES: dict[str, Figure] = {
    "z1a_portraits": Figure("gauge", "Portraits by state.", ("batch", "state")),
    "z1a_avatars_done_total": Figure("counter", "Avatars made by this job."),
    "z1a_avatars_failed_total": Figure("counter", "Portraits of this job that failed or were refused."),
    "z1a_refine_queue_depth": Figure("gauge", "Refinement requests that wait for a refiner.", ("batch",)),
    "z1a_busy_ratio": Figure(
        "gauge", "Share of their time that processes of a role spend at work, 0 to 1.", ("batch", "role")
    ),
    "z1a_effective_interval": Figure("gauge", "Training iterations per refined clip, last half hour.", ("batch",)),
    "z1a_train_iterations_total": Figure("counter", "Training iterations, repeated ones included.", ("stage",)),
    "z1a_refine_service_seconds": Figure(
        "histogram", "Seconds of a clip's refinement by phase; phase all is their sum.", ("stage", "phase"), _SERVICE
    ),
    "z1a_clip_age_steps": Figure(
        "histogram", "Training iterations between a clip's render and its answer.", ("stage",), _AGE
    ),
    "z1a_superseded_total": Figure("counter", "Refined clips refused because another commit came first.", ("stage",)),
    "z1a_expired_total": Figure("counter", "Refined clips refused because they came too late.", ("stage",)),
    "z1a_lease_expired_total": Figure("counter", "Leases that ran out without an answer."),
    "z1a_commits_total": Figure("counter", "Refined clips committed to a dataset.", ("stage",)),
    "z1a_commit_seconds": Figure("histogram", "Seconds of a commit.", (), _COMMIT),
}
"""All metrics by name, without Ray's prefix."""


class Metrics:
    """The metrics of one process. No call raises: where Ray or its metrics do not work, nothing is reported.

    Args:
        backbone: registry name of the diffusion backbone, a tag of everything.
        batch: name of the batch, a tag of the gauges: batches that one process runs side by side, as a comparison of
            backbones does, would overwrite each other's. Counters and histograms are sums anyway.
    """

    def __init__(self, backbone: str, batch: str = "") -> None:
        self._tags = {"backbone": backbone}
        self._batch = batch
        self._instruments: dict[str, Any] = {}
        self._broken = False
        self._seen: dict[str, ProgressEvent] = {}
        self._trained = self._waited = 0.0
        self._throughput = Throughput()
        self._sample: Sample | None = None
        self._leases = 0

    def stored(self, receipt: Receipt, seconds: float) -> None:
        """A store answered to a commit; counts if it was written.

        Args:
            receipt: its answer.
            seconds: time of the commit.
        """
        if receipt.status == "committed":
            self._count("z1a_commits_total", 1, stage=receipt.key.stage)
            self._observe("z1a_commit_seconds", seconds)

    def event(self, event: ProgressEvent) -> None:
        """Something happened to one of the avatars; to be called for every event that the driver hears, in order."""
        # An avatar that continues from a checkpoint has done before what it reports first, or goes back to it.
        before = self._seen.get(event.avatar, event) if event.kind != "started" else event
        self._seen[event.avatar] = event
        stage = event.stage
        self._count("z1a_train_iterations_total", event.iteration - before.iteration, stage=stage)
        for name in ("superseded", "expired"):
            self._count(f"z1a_{name}_total", getattr(event, name) - getattr(before, name), stage=stage)
        if event.kind == "answered" and not event.message.endswith("duplicate"):  # that one was answered before
            # Clips that are refused took their time, too.
            for phase, seconds in {**event.timings, "all": sum(event.timings.values())}.items():
                self._observe("z1a_refine_service_seconds", seconds, stage=stage, phase=phase)
            if event.age is not None:
                self._observe("z1a_clip_age_steps", event.age, stage=stage)
        elif event.kind == "finished":
            del self._seen[event.avatar]
            self._trained += event.seconds
            self._waited += event.timings.get("wait", 0.0)

    def load(self, load: Load) -> None:
        """How busy the dispatcher says the refiners are."""
        self._count("z1a_lease_expired_total", load.expired - self._leases)
        self._leases = load.expired  # a dispatcher that was restarted begins at nought again

    def sample(self, sample: Sample) -> None:
        """How the batch is doing; to be called with every sample of the job, in order.

        Ray forgets a gauge that is not set again within two of its reports (20 s unless configured otherwise), so
        samples must come more often than that, and each sets every gauge.
        """
        for state in ("waiting", "preparing", "training", "finishing", "done", "failed"):
            self._set("z1a_portraits", getattr(sample, state), state=state)
        self._set("z1a_refine_queue_depth", sample.queue)
        self._set("z1a_busy_ratio", sample.busy, role="refiner")
        if self._trained > 0:
            self._set("z1a_busy_ratio", 1 - self._waited / self._trained, role="trainer")
        interval = self._throughput.add(sample).effective_interval
        if interval is not None:
            self._set("z1a_effective_interval", interval)
        before = self._sample or sample  # what earlier jobs did is in the first one
        self._count("z1a_avatars_done_total", sample.done - before.done)
        self._count("z1a_avatars_failed_total", sample.failed - before.failed)
        self._sample = sample

    def _count(self, name: str, amount: int, **tags: str) -> None:
        if amount > 0:  # Ray refuses 0
            self._record(name, "inc", amount, tags)

    def _set(self, name: str, value: float, **tags: str) -> None:
        self._record(name, "set", value, {"batch": self._batch, **tags})

    def _observe(self, name: str, value: float, **tags: str) -> None:
        self._record(name, "observe", value, tags)

    def _record(self, name: str, action: str, value: float, tags: dict[str, str]) -> None:
        if self._broken:
            return
        try:
            if name not in self._instruments:
                self._instruments[name] = _instrument(name)
            getattr(self._instruments[name], action)(float(value), {**self._tags, **tags})
        except Exception as error:  # metrics are no reason to lose an avatar
            self._broken = True
            _LOG.warning("metrics are left out from here: %s", error)


def _instrument(name: str) -> Any:
    from ray.util import metrics

    figure = FIGURES[name]
    tags = ("backbone", *figure.tags)
    if figure.kind == "histogram":
        return metrics.Histogram(name, figure.description, list(figure.boundaries), tags)
    kind = metrics.Counter if figure.kind == "counter" else metrics.Gauge
    return kind(name, figure.description, tags)
