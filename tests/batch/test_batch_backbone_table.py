"""The table of a comparison: its figures, and how they are written."""

import csv
import io
import json

import pytest

from zero1toa.batch.backbone_table import COLUMNS, AvatarFigures, compare, to_csv, to_json, to_markdown
from zero1toa.batch.records import Row

ROWS = [
    Row(
        "a",
        "done",
        seconds={"encode": 1.0, "denoise": 6.0, "decode": 1.0, "train": 50.0},
        gpu_seconds=30.0,
        metrics={"psnr": 30.0, "ssim": 0.9, "iou": 0.96, "refined": 3.0, "superseded": 1.0, "expired": 0.0},
    ),
    Row(
        "b",
        "done",
        seconds={"encode": 1.0, "denoise": 14.0, "decode": 1.0, "train": 50.0},
        gpu_seconds=50.0,
        metrics={"psnr": 26.0, "ssim": 0.8, "iou": 0.92, "refined": 4.0, "expired": 4.0},
    ),
    Row("c", "rejected", reason="no face"),
]
FIGURES = {"a": AvatarFigures(1.0, 2.0), "b": AvatarFigures(None, 4.0, "MediaPipe is missing")}


def _rows():
    one = compare("one|x", "compact", 3, ROWS, FIGURES, (3 * 2**29, True))
    two = compare("two", "echomimic", 3, [], {}, None, "weights of\nEchoMimic are missing")
    return [one, two]


def test_figures_are_means_over_what_was_made():
    one, two = _rows()
    assert (one.portraits, one.done) == (3, 2)
    assert (one.psnr, one.ssim, one.iou) == (28.0, pytest.approx(0.85), pytest.approx(0.94))
    assert (one.control, one.flicker) == (1.0, 3.0)
    assert one.seconds_per_clip == pytest.approx(24 / 12)  # not the mean of the avatars' own
    assert one.gpu_seconds == 40.0
    assert (one.peak_memory, one.memory) == (1.5, "GPU")
    assert one.problem == "c: no face; MediaPipe is missing"
    assert {two.psnr, two.control, two.flicker, two.seconds_per_clip, two.gpu_seconds, two.peak_memory} == {None}
    assert two.problem == "weights of EchoMimic are missing"


def test_without_refinement_there_are_no_seconds_of_a_clip():
    row = Row("a", "done", seconds={"train": 5.0}, metrics={"refined": 3.0})
    assert compare("off", "none", 1, [row], {}, None).seconds_per_clip is None


def test_markdown_is_a_table():
    text = to_markdown("trial", _rows(), "backbones.png")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert table[0].split(" | ")[:3] == ["| setting", "backbone", "done"]
    cells = "28.00 | 0.850 | 0.940 | 100% | 3.00 | 2.00 | 40.0 | 1.50 (GPU)"
    assert table[2] == f"| one\\|x | compact | 2 of 3 | {cells} |"
    assert table[3] == "| two | echomimic | 0 of 3 | – | – | – | – | – | – | – | – |"
    assert "* **two**: weights of EchoMimic are missing" in text
    assert "](backbones.png)" in text
    assert "](" not in to_markdown("trial", _rows())


def test_csv_and_json_hold_the_same():
    rows = _rows()
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert list(read[0]) == COLUMNS
    told = json.loads(to_json("trial", rows, {"two": {}}))
    assert (told["name"], told["avatars"]) == ("trial", {"two": {}})
    for line, plain in zip(read, told["settings"], strict=True):
        assert line == {name: "" if value is None else str(value) for name, value in plain.items()}
