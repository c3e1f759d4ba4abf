"""What Prometheus reads from a node of Ray, and the Grafana dashboard that draws it."""

import itertools
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from zero1toa.batch.records import Sample
from zero1toa.config import config_folder
from zero1toa.distributed.metrics import FIGURES, PREFIX, Metrics
from zero1toa.distributed.records import Load
from zero1toa.distributed.session import ray_session
from zero1toa.symgen.progress import ProgressEvent
from zero1toa.types import Receipt, SampleKey

DASHBOARD = config_folder() / "grafana" / "zero1toa.json"
Series = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture(scope="module")
def node():
    """Address of the metrics of a private cluster's node; its actors report every second."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        with ray_session(2):
            (info,) = ray.nodes()
            yield f"http://{info['NodeManagerAddress']}:{info['MetricsExportPort']}/metrics"


def _read(address: str) -> Series:
    """Sums over processes, by exported name and the values of our own tags in alphabetical order of the tags."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    found: Series = {}
    ours = {"backbone", "batch", "le", "phase", "role", "stage", "state"}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if "z1a" in one.name:
                key = one.name, tuple(value for tag, value in sorted(one.labels.items()) if tag in ours)
                found[key] = found.get(key, 0.0) + one.value
    return found


def _wait(address: str, expected: Series) -> Series:
    """Read until the expected series have arrived with their values; they come one report at a time."""
    end = time.monotonic() + 60
    while True:
        found = _read(address)
        if expected.items() <= found.items() or time.monotonic() > end:
            return found
        time.sleep(0.2)


def _receipt(status: Any) -> Receipt:
    return Receipt("id", SampleKey("spatial", "jawOpen"), 1, 1, status)


def _event(kind: Any, iteration: int, status: str = "", **more: Any) -> ProgressEvent:
    return ProgressEvent(kind, "a", "temporal_real", iteration, 100, message=f"temporal_real/talk {status}", **more)


_EVENTS = [
    _event("started", 40, superseded=2),
    _event("iteration", 41, superseded=2),
    _event("answered", 41, "committed", superseded=2, timings={"encode": 0.3, "denoise": 1.5}, age=0),
    _event("answered", 42, "duplicate", superseded=2, timings={"encode": 0.3}, age=0),
    _event("answered", 50, "superseded", superseded=3, timings={"encode": 40.0}, age=30),
    _event("notice", 50, superseded=3),
    _event("started", 45, superseded=3),  # its trainer died; five iterations are done again
    _event("answered", 60, "expired", superseded=3, expired=1, timings={"encode": 0.3}, age=400),
    _event("finished", 100, superseded=3, expired=1, seconds=50.0, timings={"wait": 10.0}),
]


def test_values_arrive_with_their_tags(node: str):
    import ray

    # Actors, as this process may have imported Ray with another interval, after which the node forgets its gauges.
    store: Any = ray.remote(Metrics).remote("compact")
    driver: Any = ray.remote(Metrics).remote("compact", "faces")
    calls = [
        *(store.stored.remote(_receipt(s), 0.004) for s in ("committed", "committed", "superseded", "duplicate")),
        *(driver.load.remote(Load(0, 0, 0, 0.0, 0.0, expired, 0)) for expired in (2, 3, 1)),  # restarted after 3
        *(driver.event.remote(event) for event in _EVENTS),
        driver.sample.remote(Sample(0.0, waiting=5, done=3, failed=1, clips=0, iterations=0)),
        driver.sample.remote(
            Sample(10.0, waiting=2, training=3, done=5, failed=2, queue=4, busy=0.75, clips=10, iterations=310)
        ),
    ]
    ray.get(calls)

    labels = ("compact",)
    expected: Series = {
        (f"{PREFIX}z1a_train_iterations_total", ("compact", "temporal_real")): 65.0,
        (f"{PREFIX}z1a_busy_ratio", ("compact", "faces", "trainer")): 0.8,
        (f"{PREFIX}z1a_busy_ratio", ("compact", "faces", "refiner")): 0.75,
        (f"{PREFIX}z1a_portraits", ("compact", "faces", "waiting")): 2.0,
        (f"{PREFIX}z1a_portraits", ("compact", "faces", "training")): 3.0,
        (f"{PREFIX}z1a_portraits", ("compact", "faces", "done")): 5.0,
        (f"{PREFIX}z1a_refine_queue_depth", ("compact", "faces")): 4.0,
        (f"{PREFIX}z1a_effective_interval", ("compact", "faces")): 31.0,
        (f"{PREFIX}z1a_avatars_done_total", labels): 2.0,
        (f"{PREFIX}z1a_avatars_failed_total", labels): 1.0,
        (f"{PREFIX}z1a_superseded_total", ("compact", "temporal_real")): 1.0,
        (f"{PREFIX}z1a_expired_total", ("compact", "temporal_real")): 1.0,
        (f"{PREFIX}z1a_lease_expired_total", labels): 3.0,
        (f"{PREFIX}z1a_commits_total", ("compact", "spatial")): 2.0,
        (f"{PREFIX}z1a_commit_seconds_count", labels): 2.0,
        (f"{PREFIX}z1a_commit_seconds_bucket", ("compact", "0.002")): 0.0,
        (f"{PREFIX}z1a_commit_seconds_bucket", ("compact", "0.005")): 2.0,
        (f"{PREFIX}z1a_refine_service_seconds_count", ("compact", "encode", "temporal_real")): 3.0,
        (f"{PREFIX}z1a_refine_service_seconds_count", ("compact", "denoise", "temporal_real")): 1.0,
        (f"{PREFIX}z1a_refine_service_seconds_bucket", ("compact", "2.0", "all", "temporal_real")): 2.0,
        (f"{PREFIX}z1a_refine_service_seconds_bucket", ("compact", "+Inf", "all", "temporal_real")): 3.0,
        (f"{PREFIX}z1a_clip_age_steps_bucket", ("compact", "0.5", "temporal_real")): 1.0,
        (f"{PREFIX}z1a_clip_age_steps_bucket", ("compact", "30.0", "temporal_real")): 2.0,
        (f"{PREFIX}z1a_clip_age_steps_count", ("compact", "temporal_real")): 3.0,
    }
    found = _wait(node, expected)
    assert {key: found.get(key) for key in expected} == expected
    exported = {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in found}
    assert exported == {PREFIX + name for name in FIGURES}


def test_every_sample_sets_every_gauge(monkeypatch: pytest.MonkeyPatch):
    from ray.util import metrics as api

    written: list[tuple[str, ...]] = []

    class Recorder:
        def __init__(self, name: str, description: str, tags: tuple[str, ...]):
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            written.append((self.name, *sorted(tags.values())))

        def inc(self, value: float, tags: dict[str, str]) -> None:
            pass

    monkeypatch.setattr(api, "Gauge", Recorder)
    monkeypatch.setattr(api, "Counter", Recorder)
    metrics = Metrics("compact", "faces")
    metrics.event(_event("finished", 100, seconds=50.0, timings={"wait": 10.0}))
    metrics.sample(Sample(0.0))
    metrics.sample(Sample(10.0, clips=1, iterations=30))
    written.clear()
    metrics.sample(Sample(20.0, clips=1, iterations=30))  # nothing has changed
    assert {name for name, *_ in written} == {name for name, figure in FIGURES.items() if figure.kind == "gauge"}
    assert ("z1a_busy_ratio", "compact", "faces", "trainer") in written


def test_a_broken_ray_is_said_once_and_stops_nothing(monkeypatch: pytest.MonkeyPatch, caplog: Any):
    from ray.util import metrics as api

    def broken(*args: Any) -> None:
        raise RuntimeError("the agent is gone")

    monkeypatch.setattr(api, "Gauge", broken)
    metrics = Metrics("compact")
    for seconds in range(3):
        metrics.sample(Sample(float(seconds), done=seconds))
    assert [record.getMessage() for record in caplog.records] == ["metrics are left out from here: the agent is gone"]


def test_names_are_what_prometheus_expects():
    for name, figure in FIGURES.items():
        assert re.fullmatch(r"z1a_[a-z_]+", name)
        assert name.endswith("_total") == (figure.kind == "counter"), name
        assert bool(figure.boundaries) == (figure.kind == "histogram"), name
        assert list(figure.boundaries) == sorted(set(figure.boundaries))
        assert not {"avatar", "worker", "le"} & set(figure.tags)


def _dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def _queries() -> list[str]:
    return [target["expr"] for panel in _dashboard()["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_draws_every_metric_and_no_other():
    drawn = set()
    for query in _queries():
        for name in re.findall(rf"{PREFIX}(z1a_\w+)", query):
            base = name.removesuffix("_bucket")
            assert (FIGURES[base].kind == "histogram") == name.endswith("_bucket"), query
            drawn.add(base)
    assert drawn == set(FIGURES)


def test_the_dashboard_uses_tags_that_exist():
    for query in _queries():
        for base, selector in re.findall(rf"{PREFIX}(z1a_\w+?)(?:_bucket)?{{([^}}]*)}}", query):
            used = set(re.findall(r"(\w+)=", selector)) | {
                tag for group in re.findall(r"by \(([^)]*)\)", query) for tag in group.split(", ")
            }
            assert used <= {"SessionName", "backbone", "le", *FIGURES[base].tags}, query


def test_counters_are_drawn_as_rates_or_sums_over_processes():
    for query in _queries():
        for name, figure in FIGURES.items():
            if figure.kind != "gauge" and PREFIX + name in query:
                assert re.search(rf"sum( by \([^)]*\))? \((rate\()?{PREFIX}{name}", query), query


def test_panels_fit_and_do_not_overlap():
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    boxes = [panel["gridPos"] for panel in panels]
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    for a, b in itertools.combinations(boxes, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def test_the_data_source_is_a_variable():
    dashboard = _dashboard()
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    text = DASHBOARD.read_text()
    assert set(re.findall(r'"uid": "([^"]+)"', text)) == {"${datasource}", dashboard["uid"]}
    assert set(re.findall(r"\$(\w+)", " ".join(_queries()))) <= set(variables)


def test_gpu_figures_are_named_as_in_rays_own_dashboard():
    from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

    own = Path(default_dashboard_panels.__file__).read_text()
    names = {name for query in _queries() for name in re.findall(r"ray_\w+", query) if "z1a" not in name}
    assert names == {"ray_node_gpus_utilization", "ray_node_gram_used"}
    assert all(name in own for name in names)
