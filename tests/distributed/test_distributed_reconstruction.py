"""The reconstruction actor's class by itself: what the coordinator tells it reaches the run that it is meant for."""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "symgen"))

from tiny import tiny_config, tiny_portrait

from zero1toa.distributed import reconstruction
from zero1toa.distributed.reconstruction import ReconstructionActor
from zero1toa.distributed.records import DatasetRef, Job
from zero1toa.storage import Storage
from zero1toa.symgen.folder import RunFolder
from zero1toa.symgen.staleness import StalenessPolicy


def test_a_run_begins_as_wide_as_it_was_told_however_early(tmp_path, monkeypatch):
    """Calls to the actor are served side by side, so one that widens a run may come before the run itself."""
    began = []
    monkeypatch.setattr(reconstruction, "run", lambda *arguments, **_: began.append(arguments[5].policy))
    actor, policy, root = ReconstructionActor(None, [None], 1), StalenessPolicy(5), Storage(tmp_path)
    job, dataset = Job(tiny_portrait(), root), DatasetRef("ada", root, policy)

    def run(number: int) -> StalenessPolicy:
        actor.run(number, job, RunFolder(root, "ada"), dataset, tiny_config())
        return began[-1]

    assert run(0) == policy
    actor.widen(1, 2, 1.0)
    assert run(1) == dataclasses.replace(policy, window=2, slack=1.0)
    assert run(2) == policy  # another avatar, which nobody has widened


def test_a_run_that_is_to_end_before_it_begins_ends(tmp_path, monkeypatch):
    stopped = []
    monkeypatch.setattr(reconstruction, "run", lambda *_, stopping, **__: stopped.append(stopping()))
    actor, root = ReconstructionActor(None, [None], 1), Storage(tmp_path)
    for number in (0, 1, 2):
        if number == 1:
            actor.stop(number)
        dataset = DatasetRef("ada", root, StalenessPolicy(5))
        actor.run(number, Job(tiny_portrait(), root), RunFolder(root, "ada"), dataset, tiny_config())
    assert stopped == [False, True, False]
