"""Batches on Ray whose processes are killed: every portrait ends in the ledger once, and little is done twice."""

import os
import signal

import pytest
from fleet import CHECKPOINT_EVERY, check_all_done, fleet, redone_iterations
from processes import workers

from zero1toa.batch.records import Row
from zero1toa.distributed.batch import run_batch
from zero1toa.distributed.portraits import Portraits
from zero1toa.distributed.session import ray_session
from zero1toa.storage import Storage


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_session(7):
        yield


@pytest.mark.timeout(900)  # a dozen processes start, one after the other
def test_killed_processes_lose_nothing(tmp_path, monkeypatch):
    output = Storage(tmp_path / "out")
    entries = fleet(tmp_path / "photos", output, 5, "diffusion.steps=60", "distributed.refiners=2")
    loads, killed, notices = [], [], []
    tick = Portraits.tick
    monkeypatch.setattr(Portraits, "tick", lambda self, load: (loads.append(load), tick(self, load))[1])
    # After so many clips, these processes are killed: whatever they are doing.
    plan = {3: "RefinementActor", 6: "ReconstructionActor", 9: "StoreActor", 12: "Dispatcher", 15: "RefinementActor"}
    clips = 0

    def hear(key, event):
        nonlocal clips
        if isinstance(event, Row):
            return
        clips += event.kind == "answered"
        if event.kind == "notice":
            notices.append(event.message)
        if event.kind == "answered" and clips in plan:
            kind = plan.pop(clips)
            pids = workers(f"ray::{kind}", os.getpid())
            os.kill(pids[0], signal.SIGKILL)
            killed.append(kind)

    config = entries[0][1]
    config.batch.at_once, config.batch.refresh = 3, 0.5
    result = run_batch(entries, output, config, hear=hear)
    assert len(killed) == 5
    assert {row.state for row in result.rows.values()} == {"done"}
    check_all_done(output, 5)
    redone = [redone_iterations(output, entry.id) for entry, _ in entries]
    assert sum(count > 0 for count in redone) <= 1
    assert max(redone) <= CHECKPOINT_EVERY
    assert any("its clip is given to another one" in notice for notice in notices)
