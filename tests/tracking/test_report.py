"""The report is one file that needs nothing else, and its curves are the log's."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from zero1toa import media
from zero1toa.config import load, to_dict
from zero1toa.tracking.charts import Series, line_chart
from zero1toa.tracking.jsonl import JsonlLog
from zero1toa.tracking.report import RefinedClip, Report, write_report


def _polyline(path: str) -> np.ndarray:
    return np.array([[float(v) for v in point.split()] for point in path.removeprefix("M").split(" L")])


def test_a_chart_is_linear_in_its_values():
    x, y = [0.0, 10.0, 20.0, 40.0], [4.0, 2.0, 1.0, 0.0]
    svg = ElementTree.fromstring(line_chart([Series("s", x, y)], title="a & b"))
    (line,) = [node for node in svg.iter("path") if node.get("class") == "line-0"]
    points = _polyline(line.get("d", ""))
    for axis, values in ((0, x), (1, y)):
        slope, offset = np.polyfit(values, points[:, axis], 1)
        np.testing.assert_allclose(points[:, axis], slope * np.array(values) + offset, atol=0.1)
    assert points[0, 1] < points[-1, 1]  # SVG counts downwards


def test_a_chart_survives_gaps_and_emptiness():
    for series in ([], [Series("s", [], [])], [Series("s", [1, 2, 3], [float("nan")] * 3)], [Series("s", [1], [2])]):
        ElementTree.fromstring(line_chart(series, title="t", smooth=5, marks={"<x>": 2}))


@pytest.fixture
def page(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (32, 32, 3), np.uint8)
    log = JsonlLog(tmp_path / "log.jsonl")
    for i in (1, 2, 3, 2, 3, 4):  # a continued run repeats iterations
        log.write("iteration", {"iteration": i, "stage": "spatial", "losses": {"total": 1 / i, "l1": 0.1 / i}})
    log.close()
    media.write_video(tmp_path / "preview.mp4", [picture] * 3, 25)
    report = Report(
        name="<me & you>",
        headline={"Time": "1:00"},
        portrait=np.concatenate([picture, picture[..., :1]], -1),
        overlay=picture,
        rebuilt=picture,
        sheet=picture,
        video=tmp_path / "preview.mp4",
        clips=[RefinedClip("jawOpen", np.stack([picture] * 2), np.stack([picture] * 2))],
        metrics={"psnr": 24.123456, "face found": True, "missing": None},
        checks={"the mouth opens": True, "the eyes close": False},
        timings={"portrait": 2.0, "training": 8.0},
        notes=["a fallback"],
        config=to_dict(load()),
        log=tmp_path / "log.jsonl",
    )
    write_report(tmp_path / "report.html", report)
    return (tmp_path / "report.html").read_text()


def test_the_page_is_self_contained(page: str):
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "url(" not in page
    assert "http" not in page


def test_the_page_says_everything(page: str):
    for words in (
        "&lt;me &amp; you&gt;",
        "a fallback",
        "24.12",
        "not measured",
        "the eyes close",
        "25.0%",
        "jawOpen",
        "loop.iterations",
        "Terms of the loss",
    ):
        assert words in page


def test_repeated_iterations_are_drawn_once(page: str):
    line = re.findall(r'<path class="line-0" d="([^"]+)"', page)[0]
    assert len(_polyline(line)) == 4
