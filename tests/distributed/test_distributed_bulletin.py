"""What a batch tells people of itself while it runs, and when it is submitted again and there is nothing to do."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest
from fleet import CLIPS, fleet

from zero1toa.batch.job_file import config_digest, open_job
from zero1toa.batch.ledger import Ledger
from zero1toa.batch.records import Entry, Row, Sample
from zero1toa.batch.status import Fleet
from zero1toa.distributed.batch import run_batch
from zero1toa.distributed.bulletin import Bulletin
from zero1toa.storage import Storage
from zero1toa.symgen.progress import ProgressEvent

BEGAN = datetime(2026, 11, 3, 9, 0, tzinfo=UTC)


@pytest.fixture
def output(tmp_path):
    """The output of a batch of two portraits, whose last job ended with the second one."""
    output = Storage(tmp_path / "out")
    config = fleet(tmp_path / "photos", output, 2)[0][1]
    open_job(output, "faces", config)
    for number, psnr in enumerate((20.0, 21.0)):
        row = Row(f"p{number}", "done", config=config_digest(config), metrics={"psnr": psnr}, job="faces-1")
        Ledger(output).append(row)
    return output


def before(output: Storage, **changes) -> Fleet:
    """The batch as its last job saw it, at its end unless something else is given."""
    entries = [Entry("p0", "p0.png"), Entry("p1", "p1.png")]
    samples = [Sample(60.0 * minute, done=minute) for minute in range(3)]
    now = BEGAN + timedelta(minutes=2)
    fleet = Fleet("faces-1", BEGAN, now, entries, Ledger(output).rows(), {}, samples, {})
    return dataclasses.replace(fleet, **changes)


def publish(output: Storage, fleet: Fleet) -> str:
    bulletin = Bulletin(output)
    bulletin.publish(fleet, wait=True)
    bulletin.close()
    page = output.read_text("fleet.html")
    assert "Clips refined a minute" in page
    return page


def test_a_batch_with_nothing_to_do_keeps_the_curves_of_its_page(output, tmp_path):
    page, status = publish(output, before(output)), output.read("status.json")
    entries = fleet(tmp_path / "photos", output, 2)
    run_batch(entries, output, entries[0][1])
    assert output.read_text("fleet.html") == page
    assert output.read("status.json") == status
    rows = [json.loads(line) for line in output.read_text("ledger.jsonl").splitlines()]
    assert [(row["id"], row["metrics"]["psnr"]) for row in rows] == [("p0", 20.0), ("p1", 21.0)]


def test_the_status_is_refreshed_while_the_batch_runs(tmp_path):
    output, seen = Storage(tmp_path / "out"), []
    entries = fleet(tmp_path / "photos", output, 2, "distributed.refiners=1", "batch.at_once=1", "batch.refresh=0")

    def hear(key, event):
        if isinstance(event, ProgressEvent) and event.kind == "answered" and key == "p1":
            seen.append(json.loads(output.read("status.json")))

    run_batch(entries, output, entries[0][1], hear=hear)
    # The trainer of p1 begins when p0 has its row, and its last clip comes long after.
    last = seen[-1]
    assert (last["complete"], last["total"], last["counts"]["done"], last["counts"]["training"]) == (False, 2, 1, 1)
    assert last["sample"]["clips"] >= CLIPS
    assert json.loads(output.read("status.json"))["complete"]


def test_a_page_from_before_the_last_row_is_replaced(output, tmp_path):
    """As when the driver was killed between the row and the page."""
    rows = {"p0": Ledger(output).rows()["p0"]}
    page = publish(output, before(output, rows=rows, doing={"p1": "training"}))
    entries = fleet(tmp_path / "photos", output, 2)
    run_batch(entries, output, entries[0][1])
    assert output.read_text("fleet.html") != page
    assert json.loads(output.read("status.json"))["complete"]


def test_a_page_of_other_portraits_is_replaced(output, tmp_path):
    page = publish(output, before(output))
    entries = fleet(tmp_path / "photos", output, 2)[:1]  # the other one has left the manifest
    run_batch(entries, output, entries[0][1])
    assert output.read_text("fleet.html") != page
    assert json.loads(output.read("status.json"))["total"] == 1


@pytest.mark.parametrize("lost", ["fleet.html", "status.json"])
def test_a_lost_file_is_written_again(output, tmp_path, lost):
    publish(output, before(output))
    output.delete(lost)
    entries = fleet(tmp_path / "photos", output, 2)
    run_batch(entries, output, entries[0][1])
    assert output.exists(lost)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_status_says_nothing(output, text):
    publish(output, before(output))
    assert Bulletin(output).shows(before(output, job="faces-2", samples=[]))
    output.write("status.json", text)
    assert not Bulletin(output).shows(before(output))
