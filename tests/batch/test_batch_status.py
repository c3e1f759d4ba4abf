"""Counts, speed and failures of a batch against figures worked out by hand."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest

from zero1toa.batch.records import Entry, Row, Sample
from zero1toa.batch.status import Fleet, failures, status

START = datetime(2025, 11, 3, 9, 0, tzinfo=UTC)


def at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat()


def fleet(names: str, rows: list[Row], minutes: float = 120, **more) -> Fleet:
    entries = [Entry(name, f"in/{name}.jpg") for name in names.split()]
    values = {"doing": {}, "samples": [], "thumbnails": {}, **more}
    now = START + timedelta(minutes=minutes)
    return Fleet("faces-2", START, now, entries, {row.id: row for row in rows}, **values)


def done(name: str, minutes: float, job="faces-2", psnr=25.0, gpu=100.0) -> Row:
    return Row(name, "done", job=job, attempts=1, finished=at(minutes), metrics={"psnr": psnr}, gpu_seconds=gpu)


def test_everything_is_counted_once():
    rows = [
        done("a", 10),
        Row("b", "failed", "broke"),
        Row("c", "rejected", "no face"),
        Row("d", "duplicate", "as a"),
        Row("gone", "done"),  # no longer in the manifest
    ]
    doing = {"e": "training", "f": "preparing", "a": "training"}  # what ended is not in work any more
    facts = status(fleet("a b c d e f g", rows, doing=doing))
    assert facts["counts"] == {
        "done": 1, "failed": 1, "rejected": 1, "duplicate": 1,
        "waiting": 1, "preparing": 1, "training": 1, "finishing": 0,
    }  # fmt: skip
    assert sum(facts["counts"].values()) == facts["total"] == 7
    assert facts["doing"] == {"preparing": ["f"], "training": ["e"], "finishing": []}
    assert (facts["schema"], facts["complete"]) == (1, False)
    assert facts["started"] == "2025-11-03T09:00:00+00:00"
    assert facts["updated"] == "2025-11-03T11:00:00+00:00"


def test_speed_is_this_jobs_own():
    rows = [
        done("a", -500, job="faces-1"),  # an earlier job's
        done("b", 30),
        done("c", 90),
        done("d", 110),
        Row("e", "failed", "broke", attempts=3, job="faces-2", finished=at(100)),
        Row("f", "rejected", "no face", attempts=0, job="faces-2", finished=at(61)),
    ]
    facts = status(fleet("a b c d e f g h i", rows))
    assert facts["avatars_per_hour"] == {"last_hour": 2.0, "overall": 1.5}
    assert facts["seconds_left"] == 3600.0  # three ended in the last hour, three are open


def test_a_young_job_counts_from_its_beginning():
    facts = status(fleet("a b c d", [done("a", 5), done("b", 10)], minutes=30))
    assert facts["avatars_per_hour"] == {"last_hour": 4.0, "overall": 4.0}
    assert facts["seconds_left"] == 1800.0


def test_slow_avatars_leave_an_estimate():
    facts = status(fleet("a b", [done("a", 30)], minutes=240))
    assert facts["avatars_per_hour"] == {"last_hour": 0.0, "overall": 0.25}
    assert facts["seconds_left"] == 4 * 3600.0


def test_nothing_is_made_up():
    facts = status(fleet("a b", []))
    assert facts["avatars_per_hour"] == {"last_hour": None, "overall": None}
    assert facts["seconds_left"] is None
    assert facts["gpu_seconds"] == {"total": 0.0, "per_avatar": None}
    assert (facts["metrics"], facts["sample"], facts["failures"]) == ({}, None, [])
    assert status(fleet("a", [done("a", 1)]))["seconds_left"] == 0.0
    assert status(fleet("", []))["complete"]


@pytest.mark.parametrize("finished", ["2025-11-03T10:30:00Z", "2025-11-03T10:30:00", "2025-11-03T12:30:00+02:00"])
def test_times_may_be_written_in_any_way(finished: str):
    facts = status(fleet("a", [dataclasses.replace(done("a", 0), finished=finished)]))
    assert facts["avatars_per_hour"]["last_hour"] == 1.0


def test_means_are_of_finite_figures_and_the_text_is_json():
    rows = [
        done("a", 1, psnr=20.0, gpu=10.0),
        done("b", 1, psnr=30.0, gpu=20.0),
        done("c", 1, psnr=float("inf"), gpu=30.0),
        Row("d", "failed", "broke", gpu_seconds=40.0, metrics={"psnr": 1.0}),
    ]
    facts = status(fleet("a b c d", rows, samples=[Sample(1.0), Sample(2.0, queue=3, age=float("nan"))]))
    assert facts["metrics"] == {"psnr": 25.0}
    assert facts["gpu_seconds"] == {"total": 100.0, "per_avatar": 20.0}
    assert (facts["sample"]["queue"], facts["sample"]["age"]) == (3, None)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_failures_are_grouped_by_what_they_share():
    small = "in/{0}.jpg: the face of {0} is {1} pixels high and 64 are needed"
    rows = [
        Row("a", "duplicate", "has the photo of x"),
        Row("b", "duplicate", "has the photo of x"),
        Row("c", "duplicate", "has the photo of x"),
        Row("d", "rejected", small.format("d", 12), photo="in/d.jpg"),
        Row("e", "rejected", "no face was found"),
        Row("f", "rejected", small.format("f", 31.5), photo="in/f.jpg"),
        Row("g", "failed", "cannot read g.jpg", photo="in/g.jpg"),
    ]
    found = failures(fleet("a b c d e f g", rows))
    assert [(f.state, f.reason, [row.id for row in f.rows]) for f in found] == [
        ("failed", "cannot read g.jpg", ["g"]),
        ("rejected", "the face of … is … pixels high and … are needed", ["d", "f"]),
        ("rejected", "no face was found", ["e"]),
        ("duplicate", "has the photo of x", ["a", "b", "c"]),
    ]


def test_failures_in_the_status_name_a_few_portraits():
    names = [f"p{i}" for i in range(20)]
    facts = status(fleet(" ".join(names), [Row(name, "failed", "broke") for name in names]))
    assert facts["failures"] == [{"state": "failed", "reason": "broke", "count": 20, "examples": names[:5]}]
