"""Whose output a folder is, over several jobs."""

import itertools
import json
from pathlib import Path

import pytest

from zero1toa.batch.job_file import Job, config_digest, forget, open_job
from zero1toa.batch.ledger import Ledger
from zero1toa.batch.records import Row
from zero1toa.config import Config, load, to_dict
from zero1toa.errors import OutputError, StorageError
from zero1toa.storage import Storage
from zero1toa.symgen.identity import shaping_values

_UNIQUE = itertools.count()


@pytest.fixture(params=["path", "objects"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(tmp_path / "out" if request.param == "path" else f"memory://job-file-{next(_UNIQUE)}/out")


def _fill(storage: Storage) -> None:
    Ledger(storage).append(Row("ada", "done"))
    for name in ("avatars/ada/avatar/avatar.json", "thumbnails/ada.jpg", "status.json", "fleet.html", "ledger.csv"):
        storage.write(name, b"x")
    storage.write("mine.txt", b"mine")


def test_attempts_are_counted_under_the_first_name(storage: Storage):
    assert open_job(storage, "My faces / 2025", load()) == Job("My-faces-2025", 1)
    job = open_job(storage, "other", load())
    assert (job.name, job.attempt, job.id) == ("My-faces-2025", 2, "My-faces-2025-2")
    assert open_job(storage, "", load()).id == "My-faces-2025-3"


def test_a_name_is_always_found(storage: Storage):
    assert open_job(storage, "/?/", load()).id == "batch-1"


def test_what_does_not_shape_avatars_may_change(storage: Storage):
    open_job(storage, "faces", load())
    _fill(storage)
    open_job(storage, "faces", load(["distributed.refiners=8", "batch.at_once=12", "tracking.wandb=disabled"]))
    assert list(Ledger(storage).rows()) == ["ada"]


def test_another_configuration_is_refused_and_changes_nothing(storage: Storage):
    open_job(storage, "faces", load())
    _fill(storage)
    before = storage.read("job.json")
    with pytest.raises(OutputError, match=r"another configuration \(seed was 0 and is 3\); .* --restart"):
        open_job(storage, "faces", load(["seed=3"]))
    assert storage.read("job.json") == before
    assert list(Ledger(storage).rows()) == ["ada"]


def _finish(storage: Storage, name: str, config: Config, digest: str) -> None:
    Ledger(storage).append(Row(name, "done", config=digest, bundle=f"avatars/{name}/avatar"))
    storage.write(f"avatars/{name}/avatar/avatar.json", json.dumps({"config": to_dict(config)}))


def test_a_finished_portrait_is_not_given_other_values_in_silence(storage: Storage):
    base, own = load(), load(["seed=3", "loop.batch_frames=3"])
    open_job(storage, "faces", base)
    _finish(storage, "ada", own, config_digest(own))
    _finish(storage, "bert", base, config_digest(base))
    open_job(storage, "faces", base, portraits=[("ada", own), ("bert", base), ("carla", own)])
    before = storage.read("job.json")
    elsewhere = load(["seed=3", "loop.batch_frames=3", "device=cpu", "tracking.group=trial"])
    for name, now, changes in (
        ("ada", load(["seed=4", "loop.batch_frames=3"]), r"seed was 3 and is 4"),
        ("ada", base, r"loop.batch_frames was 3 and is \d+, seed was 3 and is 0"),
        ("bert", own, r"loop.batch_frames was \d+ and is 3, seed was 0 and is 3"),
    ):
        with pytest.raises(OutputError, match=rf"avatar of '{name}' .* \({changes}\); .* another id .* --restart"):
            open_job(storage, "faces", base, portraits=[(name, now)])
        assert storage.read("job.json") == before
    assert open_job(storage, "faces", base, portraits=[("ada", elsewhere)]).attempt == 3
    open_job(storage, "faces", base, portraits=[("ada", base)], restart=True)
    assert Ledger(storage).rows() == {}


def test_a_row_with_the_batchs_digest_is_judged_by_its_avatar(storage: Storage):
    base, own = load(), load(["seed=3"])
    open_job(storage, "faces", base)
    _finish(storage, "ada", own, config_digest(base))  # as earlier versions wrote it
    open_job(storage, "faces", base, portraits=[("ada", own)])
    with pytest.raises(OutputError, match=r"avatar of 'ada' .* \(seed was 3 and is 4\)"):
        open_job(storage, "faces", base, portraits=[("ada", load(["seed=4"]))])
    storage.delete("avatars/ada")
    with pytest.raises(OutputError, match=r"avatar of 'ada' .* \(its bundle cannot be read"):
        open_job(storage, "faces", base, portraits=[("ada", own)])


def test_a_portrait_without_an_avatar_may_be_given_other_values(storage: Storage):
    open_job(storage, "faces", load())
    Ledger(storage).append(Row("ada", "failed", "broke", config=config_digest(load())))
    open_job(storage, "faces", load(), portraits=[("ada", load(["seed=3"]))])


def test_a_portrait_in_work_is_not_given_other_values(storage: Storage):
    base, own = load(), load(["seed=3"])
    open_job(storage, "faces", base)
    for name in ("ada", "bert"):
        identity = {"avatar": name, "portrait": "0", "config": shaping_values(to_dict(own))}
        storage.write(f"avatars/{name}/checkpoint/identity.json", json.dumps(identity))
    storage.write("avatars/carla/portrait/portrait.npz", b"")  # prepared, and not begun
    open_job(storage, "faces", base, portraits=[("ada", own), ("carla", base)])
    with pytest.raises(OutputError, match=r"avatar of 'ada' .* begun .* \(seed was 3 and is 0\); .* --restart"):
        open_job(storage, "faces", base, portraits=[("ada", base)])
    Ledger(storage).append(Row("bert", "failed", "broke"))
    open_job(storage, "faces", base, portraits=[("bert", base)])  # it may succeed with other values


def test_restart_forgets_what_was_made_and_nothing_else(storage: Storage):
    open_job(storage, "faces", load())
    _fill(storage)
    assert open_job(storage, "faces", load(["seed=3"]), restart=True).attempt == 2
    assert storage.files() == ["job.json", "mine.txt"]
    assert not storage.exists("avatars/ada")
    assert Ledger(storage).rows() == {}
    assert open_job(storage, "faces", load(["seed=3"])).attempt == 3
    with pytest.raises(OutputError, match="seed was 3 and is 0"):
        open_job(storage, "faces", load())


def test_a_restart_that_was_cut_off_is_begun_again(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    open_job(storage, "faces", load())
    _fill(storage)
    delete = Storage.delete

    def cut(self, name):
        if name == "avatars":
            raise StorageError("cannot reach")
        delete(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", cut)
        with pytest.raises(StorageError):
            open_job(storage, "faces", load(["seed=3"]), restart=True)
    with pytest.raises(OutputError, match="seed was 0 and is 3"):  # avatars of the old configuration are there
        open_job(storage, "faces", load(["seed=3"]))
    open_job(storage, "faces", load(["seed=3"]), restart=True)
    assert not storage.exists("avatars/ada")


def test_forgetting_nothing_is_no_error(storage: Storage):
    forget(storage)
    assert storage.files() == []


@pytest.mark.parametrize("newer", [{}, {"config": ["of", "another", "kind"]}, {"name": 3}])
def test_a_newer_version_is_refused(storage: Storage, newer: dict[str, object]):
    open_job(storage, "faces", load())
    about = json.loads(storage.read("job.json"))
    storage.write("job.json", json.dumps({**about, **newer, "format": 2}))
    with pytest.raises(OutputError, match=r"job\.json is in format 2 .* knows format 1; update zero1toa"):
        open_job(storage, "faces", load())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1, "config": {}}', '{"format": 1, "config": 3}'])
def test_a_damaged_file_is_named(storage: Storage, text: str):
    storage.write("job.json", text)
    with pytest.raises(OutputError, match=r"job\.json is damaged .* --restart"):
        open_job(storage, "faces", load())
    assert open_job(storage, "faces", load(), restart=True).attempt == 1


def test_a_ledger_of_nobody_is_not_continued(storage: Storage):
    _fill(storage)
    with pytest.raises(OutputError, match=r"holds a ledger but no job\.json"):
        open_job(storage, "faces", load())
    assert list(Ledger(storage).rows()) == ["ada"]
    open_job(storage, "faces", load(), restart=True)
    assert Ledger(storage).rows() == {}


def test_an_output_out_of_reach_is_not_taken_for_a_damaged_one(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    open_job(storage, "faces", load())
    _fill(storage)

    def unplugged(self, name):
        raise StorageError("cannot reach")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "read", unplugged)
        with pytest.raises(StorageError):
            open_job(storage, "faces", load(), restart=True)
    assert list(Ledger(storage).rows()) == ["ada"]
