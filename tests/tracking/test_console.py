"""What is shown on a terminal and in a plain log."""

import io
from typing import Any

from rich.console import Console

from zero1toa.symgen.progress import ProgressEvent
from zero1toa.tracking.console import ConsoleDisplay, duration


def _show(terminal: bool, events: list[ProgressEvent]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, color_system=None)
    with ConsoleDisplay(console) as display:
        for event in events:
            display(event)
    return stream.getvalue()


def _event(kind: Any, iteration: int, stage: Any = "spatial", **more: Any) -> ProgressEvent:
    return ProgressEvent(kind, "a", stage, iteration, 100, **more)


EVENTS = [
    _event("started", 40),
    _event("iteration", 41, losses={"total": 0.5}, eta=65.0, refined=3),
    _event("iteration", 42, losses={"total": 0.7}, eta=64.0, refined=3),
    _event("notice", 42, message="landmarks: projected in 3 of 8 frames"),
    _event("iteration", 43, "temporal_real", losses={"total": 0.5}, eta=None, refined=4),
    _event("finished", 100, seconds=125.0, gaussians=20_412, refined=9),
]


def test_plain_lines_come_at_each_stage():
    lines = _show(False, EVENTS).splitlines()
    assert lines == [
        "continuing at iteration 40 of 100",
        "turning the head: 41/100, loss 0.500, 3 refined, 1:05 left",
        "note: landmarks: projected in 3 of 8 frames",
        "wide expressions: 43/100, loss 0.510, 4 refined, –:–– left",
        "trained 20412 Gaussians in 2:05: 100 iterations, 9 clips refined",
    ]


def test_the_terminal_shows_stage_loss_and_time():
    shown = _show(True, EVENTS[:-1])
    for words in ("wide expressions", "43/100", "loss 0.510", "4 refined", "note: landmarks"):
        assert words in shown


def test_the_terminal_ends_complete():
    shown = _show(True, EVENTS)
    assert "done" in shown
    assert "100/100" in shown
    assert "0:00 left" in shown


def test_square_brackets_in_notices_are_text():
    assert "a[/b] [red]" in _show(False, [_event("notice", 1, message="a[/b] [red]")])


def test_durations():
    assert [duration(s) for s in (None, 0, 59.6, 61, 3600 + 62)] == ["–:––", "0:00", "1:00", "1:01", "1:01:02"]
