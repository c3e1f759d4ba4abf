"""The store actor's class by itself, in threads as Ray runs it."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from zero1toa.distributed.records import DatasetRef, Refined
from zero1toa.distributed.store_actor import StoreActor
from zero1toa.storage import Storage
from zero1toa.symgen.locks import FolderLock
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.symgen.store import LOCK, SymGENStore
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey

FRAMES, SIZE = 2, 8


def dataset(root: Path, avatar: str) -> DatasetRef:
    return DatasetRef(avatar, Storage(root / avatar), StalenessPolicy(1, max_age=10))


def refined(avatar: str, number: int, base: int = 0, step: int = 0) -> Refined:
    frames = np.full((FRAMES, SIZE, SIZE, 3), number % 256, np.uint8)
    track = LandmarkTrack(np.zeros((FRAMES, 478, 2), np.float32), np.ones(FRAMES, bool), np.zeros(FRAMES, bool))
    key = SampleKey("spatial", "clip")
    return Refined(RefineRequest(avatar, key, base, step, 0, frames, track, 1, "none", number), frames, {})


def test_a_commit_that_waits_for_its_folder_holds_up_no_other_avatar(tmp_path: Path) -> None:
    actor, ada, bob = StoreActor("none"), dataset(tmp_path, "ada"), dataset(tmp_path, "bob")
    with ThreadPoolExecutor(2) as threads:
        with FolderLock(tmp_path / "ada" / LOCK):  # the store actor of a killed driver, say
            waiting = threads.submit(actor.commit, ada, refined("ada", 1))
            assert threads.submit(actor.commit, bob, refined("bob", 1)).result(20).status == "committed"
            assert not waiting.done()
        assert waiting.result(20).status == "committed"


def test_commits_of_many_threads_make_one_unbroken_log(tmp_path: Path) -> None:
    actor, ada = StoreActor("none"), dataset(tmp_path, "ada")
    with ThreadPoolExecutor(8) as threads:  # each version is offered eight times; one of them counts
        for base in range(6):
            offers = [refined("ada", 10 * base + number, base) for number in range(8)]
            answers = [receipt.status for receipt in threads.map(lambda one: actor.commit(ada, one), offers)]
            assert sorted(answers) == ["committed"] + ["superseded"] * 7
    actor.close(ada)
    records = SymGENStore(ada.root, "ada").records()
    assert [record.sequence for record in records] == list(range(1, 7))
    assert [record.version for record in records] == list(range(1, 7))


def test_the_last_report_of_progress_judges_the_age_and_is_forgotten_with_the_avatar(tmp_path: Path) -> None:
    actor, ada = StoreActor("none"), dataset(tmp_path, "ada")
    actor.observe(ada, 11, 0)
    assert actor.commit(ada, refined("ada", 1)).status == "expired"
    actor.close(ada)
    assert actor.commit(ada, refined("ada", 1)).status == "committed"


def test_a_clip_that_comes_after_its_avatar_is_finished_opens_nothing(tmp_path: Path) -> None:
    actor, ada = StoreActor("none"), dataset(tmp_path, "ada")
    actor.commit(ada, refined("ada", 1))
    actor.close(ada, finished=True)
    shutil.rmtree(tmp_path / "ada")  # as batch.keep_dataset=false does
    assert actor.commit(ada, refined("ada", 2, base=1)).status == "superseded"
    assert not (tmp_path / "ada").exists()


def test_a_folder_is_free_when_its_avatar_is_closed(tmp_path: Path) -> None:
    actor, ada = StoreActor("none"), dataset(tmp_path, "ada")
    actor.commit(ada, refined("ada", 1))
    with pytest.raises(Exception, match="another process"), FolderLock(tmp_path / "ada" / LOCK, patience=0):
        pass
    actor.close(ada)
    with FolderLock(tmp_path / "ada" / LOCK, patience=0):
        pass
