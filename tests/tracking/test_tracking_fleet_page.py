"""The page of a batch, parsed: what it counts, in which order, and that nobody's text becomes markup."""

import base64
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from zero1toa.batch.records import Entry, Row, Sample
from zero1toa.batch.status import Fleet
from zero1toa.tracking.fleet_page import INLINE, render_page

START = datetime(2025, 11, 3, 9, 0, tzinfo=UTC)
EVIL = "<script>alert('x')</script>\"&amp;<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "input", "line", "path"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text inside), and a check that they are nested properly."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data):
        for index in self._open:
            self.elements[index][2].append(data)

    def all(self, tag: str, name: str = "") -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, " ".join("".join(text).split()))
            for found, attributes, text in self.elements
            if found == tag and (not name or name in (attributes.get("class") or "").split())
        ]


def fleet(entries, rows, **more) -> Fleet:
    values = {"doing": {}, "samples": [], "thumbnails": {}, **more}
    now = START + timedelta(hours=2)
    return Fleet("faces-2", START, now, entries, {row.id: row for row in rows}, **values)


def done(name: str, psnr: float | None, **more) -> Row:
    figures = {} if psnr is None else {"psnr": psnr}
    row = {"attempts": 1, "job": "faces-2", "finished": "2025-11-03T10:30:00Z", "bundle": f"avatars/{name}/avatar"}
    return Row(name, "done", metrics=figures, **{**row, **more})


MIXED = fleet(
    [Entry(name, f"in/{name}.jpg") for name in ("w", "t", "d30", "f1", "d20", "r", "n", "dup", "f2", "d25")],
    [
        done("d30", 30.0, gpu_seconds=90.0, attempts=2),
        done("d20", 20.0),
        done("d25", 25.0),
        done("n", None),
        Row("f1", "failed", "broke at 12"),
        Row("f2", "failed", "broke at 13"),
        Row("r", "rejected", "in/r.jpg: no face was found", photo="in/r.jpg"),
        Row("dup", "duplicate", "has the photo of d30"),
    ],
    doing={"t": "training"},
    thumbnails={"d20": b"jpeg"},
)


def test_portraits_come_worst_first():
    cards = Page(render_page(MIXED)).all("li", "card")
    assert [text.split()[0] for _, text in cards] == ["f1", "f2", "r", "d20", "d25", "d30", "n", "t", "w", "dup"]
    texts = {text.split()[0]: text for _, text in cards}
    assert texts["d30"] == "d30 done 30.0 dB · 90 s GPU · 2 attempts"
    assert texts["n"] == "n done"
    assert texts["t"] == "t training"
    assert "no face was found" in texts["r"]
    assert "in/r.jpg" not in texts["r"]


def test_counts_agree_everywhere():
    page = Page(render_page(MIXED))
    buttons = {attributes["data-show"]: text for attributes, text in page.all("button") if "data-show" in attributes}
    wanted = {"all": 10, "failed": 2, "rejected": 1, "done": 4, "working": 1, "waiting": 1, "duplicate": 1}
    assert {name: int(text.rsplit(" ", 1)[1]) for name, text in buttons.items()} == wanted
    classes = [attributes["class"].split()[1] for attributes, _ in page.all("li", "card")]
    assert {name: classes.count(name) for name in set(classes)} == {k: v for k, v in wanted.items() if k != "all"}
    widths = [float(re.search(r"[\d.]+", a["style"])[0]) for a, _ in page.all("span") if "style" in a]
    assert widths == [40.0, 20.0, 10.0, 10.0, 10.0]
    figures = dict(zip([t for _, t in page.all("dt")], [t for _, t in page.all("dd")], strict=True))
    assert figures["Avatars"] == "4 of 10"
    assert figures["Failed"] == "2"
    assert figures["Avatars an hour"] == "2"
    assert figures["Likeness"] == "25.0 dB"
    assert figures["Time left"] == "30 min"


def test_failures_say_why_and_what_to_do():
    articles = Page(render_page(MIXED)).all("article", "failure")
    assert [attributes["class"].split()[1] for attributes, _ in articles] == ["failed", "rejected", "duplicate"]
    assert articles[0][1].startswith("broke at … 2 failed. Submit the job again with batch.retry_failed=true")
    assert "f1: broke at 12" in articles[0][1]


def test_avatars_are_linked_beside_the_page():
    links = [attributes["href"] for attributes, _ in Page(render_page(MIXED)).all("a")]
    assert links == [f"avatars/{name}/avatar/" for name in ("d20", "d25", "d30", "n")]


def test_nothing_from_elsewhere_is_needed():
    text = render_page(MIXED)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", text)
    page = Page(text)
    assert [attributes["src"] for attributes, _ in page.all("img")] == [
        f"data:image/jpeg;base64,{base64.b64encode(b'jpeg').decode()}"
    ]
    assert not page.all("link")
    assert not any("src" in attributes for attributes, _ in page.all("script"))


def test_text_stays_text():
    entries = [Entry(EVIL, EVIL), Entry("b", ""), Entry("c", "")]
    rows = [
        Row("b", "failed", f"{EVIL} 1"),
        Row("c", "failed", f"{EVIL} 2"),
        done(EVIL, 20.0, bundle="javascript:alert(1)", thumbnail=f"{EVIL}.jpg"),
    ]
    many = [Entry(f"p{i}", "") for i in range(INLINE)]
    harmless = Page(render_page(MIXED))
    for entries_ in (entries, [*entries, *many]):
        evil = Fleet(EVIL, START, START + timedelta(hours=1), entries_, {row.id: row for row in rows}, {}, [], {})
        page = Page(render_page(evil))
        assert len(page.all("script")) == len(harmless.all("script")) == 1
        assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
        assert page.all("h1")[0][1] == EVIL
        assert any(text.startswith(EVIL) for _, text in page.all("b"))
        (link,) = [attributes["href"] for attributes, _ in page.all("a")]
        assert re.fullmatch(r"[\w%./-]+", link)


def test_many_portraits_are_linked_and_shown_in_parts():
    count = INLINE + 50
    entries = [Entry(f"p{i}", "") for i in range(count)]
    rows = [done(f"p{i}", 20.0 + i, thumbnail="previews/p 0.jpg" if i == 0 else "") for i in range(count - 1)]
    page = Page(render_page(fleet(entries, rows, thumbnails={f"p{i}": b"" for i in range(10)})))
    cards = page.all("li", "card")
    assert len(cards) == count
    assert ["hidden" in attributes for attributes, _ in cards] == [False] * INLINE + [True] * 50
    sources = [attributes["src"] for attributes, _ in page.all("img")]
    assert sources == ["previews/p%200.jpg", *(f"thumbnails/p{i}.jpg" for i in range(1, 10))]
    assert all(attributes["loading"] == "lazy" for attributes, _ in page.all("img"))


def _curve(svg: str) -> list[tuple[float, float]]:
    (path,) = [node for node in ElementTree.fromstring(svg).iter("path") if node.get("class") == "line-0"]
    points = path.get("d", "").removeprefix("M").split(" L")
    return [tuple(float(value) for value in point.split()) for point in points]


@pytest.mark.parametrize("count", [30, 3000])
def test_curves_are_the_samples(count: int):
    samples = [
        Sample(10.0 * i, done=i, busy=0.25 if i <= count // 2 else 0.75, clips=5 * i, queue=3) for i in range(count)
    ]
    svgs = re.findall(r'<svg class="chart".*?</svg>', render_page(fleet([], [], samples=samples)))
    avatars, busy, clips, queue = (_curve(svg) for svg in svgs)
    assert len(avatars) <= 250
    for curve in (avatars, busy, clips, queue):
        assert [x for x, _ in curve] == sorted(x for x, _ in curve)
    x, y = np.array(avatars).T
    assert np.ptp(y) > 100
    np.testing.assert_allclose(np.polyval(np.polyfit(x, y, 1), x), y, atol=0.2)  # a steady gain is a line
    bottom, top = 220 - 28, 14  # of the plot: 0 % and 100 %
    levels = [(bottom - y) / (bottom - top) for _, y in busy]
    assert levels[1] == pytest.approx(0.25, abs=0.01)
    assert levels[-1] == pytest.approx(0.75, abs=0.01)
    assert len({y for _, y in clips}) == len({y for _, y in queue}) == 1


def test_one_sample_is_no_curve():
    text = render_page(fleet([], [], samples=[Sample(1.0)]))
    assert "<svg" not in text
    assert "0 portraits, all ended" in " ".join(text.split())


def test_figures_that_are_no_numbers_do_not_break_the_page():
    entries = [Entry("a", ""), Entry("b", "")]
    rows = [done("a", float("nan")), done("b", float("inf"))]
    samples = [Sample(0.0), Sample(1.0, busy=float("nan"), age=float("nan"))]
    cards = Page(render_page(fleet(entries, rows, samples=samples))).all("li", "card")
    assert [(attributes["class"], text) for attributes, text in cards] == [
        ("card done", "a done"),
        ("card done", "b done"),
    ]
