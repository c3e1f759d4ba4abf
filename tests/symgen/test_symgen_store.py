import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from zero1toa.errors import OutputError, StoreError
from zero1toa.symgen.admission import admit
from zero1toa.symgen.staleness import StalenessPolicy
from zero1toa.symgen.store import Reference, SymGENStore
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey

KEY = SampleKey("spatial", "jawOpen-00")


def request(base=0, key=KEY, epoch=0, step=0, seed=0, avatar="ada"):
    landmarks = LandmarkTrack(np.zeros((2, 478, 2), np.float32), np.ones(2, bool), np.zeros(2, bool))
    return RefineRequest(avatar, key, base, step, epoch, np.zeros((2, 8, 8, 3), np.uint8), landmarks, 1, "fake", seed)


def pictures(value):
    return np.full((2, 8, 8, 3), value, np.uint8)


def test_commit_load_and_rebuild(tmp_path):
    store = SymGENStore(tmp_path, "ada")
    assert store.version(KEY) == 0
    receipt = store.commit(request(), pictures(7), {"denoise": 1.5})
    assert (receipt.status, receipt.version, receipt.sequence) == ("committed", 1, 1)
    store.commit(request(1, step=30), pictures(9), {})
    for opened in (store, SymGENStore(tmp_path, "ada")):
        assert (opened.load(KEY, 1) == 7).all()
        assert (opened.load(KEY, 2) == 9).all()
        for version, value in ((1, 7), (2, 9)):
            fetched, unlocked = opened.fetch(KEY, version)
            assert (fetched == value).all()
            assert unlocked == 1
        assert (opened.load_render(KEY, 2) == request().frames).all()
        assert (opened.version(KEY), opened.sequence) == (2, 2)
        assert opened.record(KEY, 1).seconds == {"denoise": 1.5}
        assert opened.record(KEY, 2).render_step == 30
    assert not list(tmp_path.rglob("*.tmp"))


def test_repeated_commit_changes_nothing(tmp_path):
    store = SymGENStore(tmp_path, "ada")
    store.commit(request(), pictures(7), {})
    again = SymGENStore(tmp_path, "ada").commit(request(), pictures(8), {})
    assert (again.status, again.version, again.sequence) == ("duplicate", 1, 1)
    assert (store.load(KEY, 1) == 7).all()


def test_a_clip_that_has_moved_on_is_not_overwritten(tmp_path):
    store = SymGENStore(tmp_path, "ada")
    store.commit(request(), pictures(7), {})
    late = store.commit(request(seed=5), pictures(8), {})
    assert (late.status, late.version) == ("superseded", 1)
    assert (store.load(KEY, 1) == 7).all()
    assert store.commit(request(3), pictures(8), {}).status == "superseded"


def test_admission_counts_stale_clips_out(tmp_path):
    store, policy = SymGENStore(tmp_path, "ada"), StalenessPolicy(30, max_age=50)
    assert admit(store, policy, request(), pictures(1), {}, step=51, epoch=0).status == "expired"
    assert admit(store, policy, request(), pictures(1), {}, step=10, epoch=1).status == "expired"
    assert store.sequence == 0
    assert admit(store, policy, request(), pictures(1), {}, step=50, epoch=0).status == "committed"
    # What is in the dataset is in the dataset, however late the repetition comes.
    assert admit(store, policy, request(), pictures(1), {}, step=500, epoch=2).status == "duplicate"
    assert admit(store, policy, request(seed=1), pictures(1), {}, step=0, epoch=0).status == "superseded"


def test_the_portrait_is_never_overwritten(tmp_path):
    store = SymGENStore(tmp_path, "ada")
    with pytest.raises(StoreError, match="never overwritten"):
        store.commit(request(key=SampleKey("portrait", "portrait")), pictures(1), {})
    reference = Reference(np.full((8, 8, 4), 3, np.uint8), np.zeros((478, 2), np.float32))
    store.put_reference(reference)
    store.put_reference(reference)
    with pytest.raises(OutputError, match="another portrait"):
        store.put_reference(dataclasses.replace(reference, image=reference.image + 1))
    assert (SymGENStore(tmp_path, "ada").reference().image == 3).all()


def test_wrong_pictures_and_wrong_avatars_are_refused(tmp_path):
    store = SymGENStore(tmp_path, "ada")
    with pytest.raises(StoreError, match="uint8"):
        store.commit(request(), pictures(1)[:1], {})
    with pytest.raises(StoreError, match="uint8"):
        store.commit(request(), pictures(1).astype(np.float32), {})
    with pytest.raises(OutputError, match="'ada'"):
        SymGENStore(tmp_path, "bob")
    with pytest.raises(StoreError, match="no version 1"):
        store.load(KEY, 1)


def test_commits_written_behind(tmp_path, monkeypatch):
    store = SymGENStore(tmp_path, "ada", behind=True)
    begun, let = threading.Event(), threading.Event()
    write = store.root.write

    def slow(name, content):
        begun.set()
        let.wait()
        write(name, content)

    monkeypatch.setattr(store.root, "write", slow)
    assert store.commit(request(), pictures(7), {}).status == "committed"
    begun.wait()
    assert (store.fetch(KEY, 1)[0] == 7).all()
    assert SymGENStore(tmp_path, "ada").version(KEY) == 0
    let.set()
    assert (store.load(KEY, 1) == 7).all()  # waits
    store.commit(request(1), pictures(8), {})
    store.flush()
    assert SymGENStore(tmp_path, "ada").version(KEY) == 2


def test_a_commit_that_could_not_be_written_behind_is_told_before_the_next(tmp_path, monkeypatch):
    store = SymGENStore(tmp_path, "ada", behind=True)
    store.commit(request(), pictures(7), {})
    store.flush()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        store.commit(request(1), pictures(8), {})
        with pytest.raises(OutputError, match="No space left"):
            store.commit(request(2), pictures(9), {})
    with pytest.raises(OutputError, match="No space left"):
        store.flush()
    again = SymGENStore(tmp_path, "ada")
    assert (again.sequence, again.version(KEY)) == (1, 1)


def test_prune_keeps_what_a_checkpoint_needs(tmp_path):
    store = SymGENStore(tmp_path, "ada")
    for base in range(4):
        store.commit(request(base), pictures(base + 1), {})
    assert store.prune({KEY: 3}) == 2
    opened = SymGENStore(tmp_path, "ada")
    assert (opened.load(KEY, 3) == 3).all()
    assert (opened.load(KEY, 4) == 4).all()
    with pytest.raises(StoreError, match="missing"):
        opened.load(KEY, 1)
    assert opened.commit(request(1), pictures(9), {}).status == "duplicate"
    assert opened.prune({KEY: 99}) == 1  # never the newest
    assert (opened.load(KEY, 4) == 4).all()


def test_damage_is_named(tmp_path):
    store = SymGENStore(tmp_path, "ada")
    for base in range(3):
        store.commit(request(base), pictures(1), {})
    newest = tmp_path / "objects/spatial/jawOpen-00/00003.npz"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:100])
    with pytest.raises(StoreError, match=r"00003\.npz is missing or damaged"):
        SymGENStore(tmp_path, "ada").load(KEY, 3)
    newest.unlink()
    with pytest.raises(StoreError, match="was committed"):
        SymGENStore(tmp_path, "ada")
    newest.write_bytes(whole)
    (tmp_path / "commits/000002.json").unlink()
    with pytest.raises(StoreError, match="commit 2 of the dataset is missing"):
        SymGENStore(tmp_path, "ada")
    (tmp_path / "commits/000002.json").write_text("[]")
    with pytest.raises(StoreError, match=r"000002\.json"):
        SymGENStore(tmp_path, "ada")


WRITER = """
import sys
import numpy as np
from pathlib import Path
from zero1toa.symgen.store import SymGENStore
from zero1toa.types import LandmarkTrack, RefineRequest, SampleKey
store = SymGENStore(Path(sys.argv[1]), "ada", behind=sys.argv[2] == "1")
landmarks = LandmarkTrack(np.zeros((1, 478, 2), np.float32), np.ones(1, bool), np.zeros(1, bool))
rng = np.random.default_rng(0)
noise = rng.integers(0, 255, (1, 128, 128, 3)).astype(np.uint8)
for i in range(store.sequence, 10_000):
    key = SampleKey("spatial", f"clip-{i % 3}")
    ask = RefineRequest("ada", key, i // 3, i, 0, noise, landmarks, 1, "fake", 0)
    status = store.commit(ask, noise, {}).status
    assert status == "committed", (i, status)
    print(store.sequence, flush=True)
"""


@pytest.mark.parametrize("behind", [False, True])
def test_a_killed_writer_leaves_a_whole_dataset(tmp_path, behind):
    """SIGKILL at drawn moments while commits are in flight; every restart must find a gapless log."""
    script = tmp_path / "writer.py"
    script.write_text(textwrap.dedent(WRITER))
    root, dice, seen = tmp_path / "store", random.Random(0), 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, script, root, str(int(behind))], stdout=subprocess.PIPE, text=True)
        acknowledged = 0
        for _ in range(dice.randint(3, 25)):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        store = SymGENStore(root, "ada")
        # Nothing acknowledged is lost but what was being written beside.
        assert store.sequence >= acknowledged - behind >= seen
        for record in store.records():
            assert store.load(record.key, record.version).shape == (1, 128, 128, 3)
        seen = store.sequence
    names = [json.loads(p.read_text())["sequence"] for p in sorted((root / "commits").glob("*.json"))]
    assert names == list(range(1, seen + 1))
