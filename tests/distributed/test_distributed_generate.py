"""The loop on Ray: the serial result bit for bit, whoever is killed on the way."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "symgen"))

from processes import workers
from tiny import tiny_config, tiny_portrait

from zero1toa.avatar.bundle import read_bundle
from zero1toa.cli import app
from zero1toa.commands import generate
from zero1toa.distributed.generate import generate_batch, generate_distributed
from zero1toa.distributed.records import Job
from zero1toa.distributed.session import ray_session
from zero1toa.errors import OutputError
from zero1toa.head.registry import load_head
from zero1toa.storage import Storage
from zero1toa.symgen.loop import generate_serial
from zero1toa.symgen.store import SymGENStore
from zero1toa.types import Portrait

STEPS = "diffusion.steps=100"  # a clip takes long enough to be killed in


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_session(5):
        yield


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    events = []
    result = generate_serial(tiny_portrait(), tiny_config(STEPS), tmp_path_factory.mktemp("serial"), events.append)
    return result, events


def check(result, serial):
    """One valid bundle, equal to the serial one; every clip committed once."""
    ours, theirs = read_bundle(result.bundle, load_head("canonical")), read_bundle(serial.bundle)
    for name, tensor in theirs.avatar.tensors().items():
        assert torch.equal(ours.avatar.tensors()[name], tensor), name
    store, other = (SymGENStore(r.dataset, r.avatar) for r in (result, serial))
    strip = [(r.sequence, r.key, r.version, r.render_step, r.unlocked) for r in other.records()]
    assert [(r.sequence, r.key, r.version, r.render_step, r.unlocked) for r in store.records()] == strip
    assert result.losses == serial.losses
    assert (result.refined, result.superseded, result.expired) == (6, 0, 0)


def test_window_one_slack_zero_is_the_serial_loop(serial, tmp_path):
    events = []
    result = generate_distributed(tiny_portrait(), tiny_config(STEPS), tmp_path, events.append)
    check(result, serial[0])
    told = [(e.kind, e.iteration, e.stage, e.message, e.losses) for e in events]
    assert told == [(e.kind, e.iteration, e.stage, e.message, e.losses) for e in serial[1]]


def test_killed_workers_change_nothing(serial, tmp_path):
    killed, notices = set(), []

    def progress(event):
        if event.kind == "notice":
            notices.append(event.message)
        for kind, iteration in (("RefinementActor", 2), ("ReconstructionActor", 6)):
            # Slack 0: right after an even iteration the trainer waits while the refiner is busy with a clip.
            if event.kind == "iteration" and event.iteration >= iteration and kind not in killed:
                (pid,) = workers(f"ray::{kind}", os.getpid())
                os.kill(pid, signal.SIGKILL)
                killed.add(kind)

    result = generate_distributed(tiny_portrait(), tiny_config(STEPS), tmp_path, progress)
    check(result, serial[0])
    assert killed == {"RefinementActor", "ReconstructionActor"}
    assert any("its clip is given to another one" in note for note in notices)
    assert any("it continues from the last checkpoint" in note for note in notices)
    assert result.continued_from in (4, 8)  # iteration 6 is heard of a little after it was done


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny import tiny_config, tiny_portrait
from zero1toa.distributed.generate import generate_distributed
if __name__ == "__main__":
    def progress(event):
        print(event.kind, event.iteration, flush=True)
    generate_distributed(tiny_portrait(), tiny_config(sys.argv[3]), Path(sys.argv[2]), progress)
"""


@pytest.mark.slow
def test_a_killed_driver_continues(serial, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    folder = str(Path(__file__).parent.parent / "symgen")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, script, folder, tmp_path / "out", STEPS], stdout=subprocess.PIPE, text=True, env=environment
    )
    for line in driver.stdout:
        if line.split() == ["iteration", "5"]:
            break
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    # At once: what the dead driver's processes still do is kept apart by the locks.
    result = generate_distributed(tiny_portrait(), tiny_config(STEPS), tmp_path / "out")
    assert result.continued_from >= 4
    check(result, serial[0])


def test_a_batch_with_slack_shares_the_refiners(tmp_path):
    config = tiny_config("distributed.window=2", "distributed.slack=1", "distributed.refiners=2")
    jobs = [Job(tiny_portrait(), Storage(tmp_path / name)) for name in ("a", "b", "file")]
    (tmp_path / "file").write_text("not a folder")
    events = []
    outcomes = generate_batch(jobs, config, events.append, at_once=2)
    assert isinstance(outcomes[2], OutputError)
    for result in outcomes[:2]:
        assert len(read_bundle(result.bundle).avatar) == result.gaussians
        store = SymGENStore(result.dataset, result.avatar)
        assert len({r.request_id for r in store.records()}) == store.sequence
        # The paper's ratio: one request for every interval, less what the slack leaves open at the end.
        answered = result.refined + result.superseded + result.expired
        assert 5 <= answered <= result.requested <= 6
        mine = [e.kind for e in events if e.avatar == result.avatar]
        assert mine[0] == "started"
        assert mine[-1] == "finished"
        assert mine.count("iteration") == 12


@pytest.mark.slow
def test_an_avatar_asks_for_more_when_there_are_more_refiners_than_avatars(tmp_path):
    """In the tail of a batch; with one avatar and two refiners, that is from its beginning."""
    ages: dict[int, list[int]] = {}
    for tail_window in (0, 2):
        events = []
        config = tiny_config(STEPS, "distributed.refiners=2", f"distributed.tail_window={tail_window}")
        generate_distributed(tiny_portrait(), config, tmp_path / str(tail_window), events.append)
        ages[tail_window] = [event.age for event in events if event.kind == "answered"]
    assert set(ages[0]) == {0}  # it waits for each clip
    assert 0 < max(ages[2]) <= 2  # it trains meanwhile, one update interval ahead


def test_a_stopped_run_leaves_a_checkpoint_that_the_serial_loop_continues(serial, tmp_path):
    def progress(event):
        if event.kind == "iteration" and event.iteration == 3:
            raise KeyboardInterrupt

    rarely = tiny_config(STEPS, "loop.checkpoint_every=100")  # the only checkpoint is that of the stop
    with pytest.raises(KeyboardInterrupt):
        generate_distributed(tiny_portrait(), rarely, tmp_path, progress)
    result = generate_serial(tiny_portrait(), tiny_config(STEPS), tmp_path)
    assert result.continued_from >= 3
    check(result, serial[0])


def test_a_trainer_that_runs_out_of_gpu_memory_is_one_line_and_exit_code_2(monkeypatch, tmp_path):
    """In its own process; the line comes out of it as it would in this one, and nobody tries again."""

    class HungryPortrait(Portrait):  # defined here, so that it goes to the trainer's process by value
        """Stands in for a GPU that is too small: whoever trains on it runs out of memory."""

        @property
        def size(self):
            torch.cuda.mem_get_info = lambda device: (2**30, 8 * 2**30)  # in the trainer's process, which ends here
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    tiny = tiny_portrait()
    portrait = HungryPortrait(**{field.name: getattr(tiny, field.name) for field in dataclasses.fields(tiny)})
    monkeypatch.setattr(
        generate, "generate_avatar", lambda *_, **__: generate_distributed(portrait, tiny_config(), tmp_path)
    )
    result = CliRunner().invoke(app, ["generate", "photo.jpg", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: too little GPU memory to train the avatar: of its 8.0 GiB 1.0 are free; ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "avatar").exists()
