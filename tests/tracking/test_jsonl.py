"""The log after a kill at any byte."""

import json
from pathlib import Path

import pytest

from zero1toa.tracking.jsonl import JsonlLog, read_log


def test_records_come_back_in_order(tmp_path: Path):
    log = JsonlLog(tmp_path / "sub" / "log.jsonl")
    for i in range(3):
        log.write("iteration", {"iteration": i, "losses": {"total": float("nan") if i == 1 else 0.5}})
    records = list(read_log(tmp_path / "sub" / "log.jsonl"))
    assert [r["iteration"] for r in records] == [0, 1, 2]
    assert [r["losses"]["total"] for r in records] == [0.5, None, 0.5]
    log.close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_cut_off_and_the_log_goes_on(tmp_path: Path, cut: int):
    path = tmp_path / "log.jsonl"
    log = JsonlLog(path)
    log.write("a", {"x": 1})
    whole = path.stat().st_size
    log.write("b", {"text": "a longer record that a killed process leaves unfinished"})
    log.close()
    path.write_bytes(path.read_bytes()[: whole + cut])
    assert [r["kind"] for r in read_log(path)] == ["a"]
    log = JsonlLog(path)
    log.write("c", {})
    log.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["a", "c"]


def test_a_missing_log_has_no_records(tmp_path: Path):
    assert list(read_log(tmp_path / "absent.jsonl")) == []
