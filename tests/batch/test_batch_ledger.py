"""The ledger against a plain list, with a storage that is killed or fails before or after any of its changes."""

import csv
import io
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zero1toa.batch import ledger as module
from zero1toa.batch.ledger import Ledger
from zero1toa.batch.records import Row
from zero1toa.batch.tables import write_tables
from zero1toa.errors import OutputError, StorageError
from zero1toa.storage import Storage

KINDS = ["path", "remote", "objects"]
_UNIQUE = itertools.count()


def place(kind: str, folder: Path) -> str:
    name = f"{folder.name}-{next(_UNIQUE)}"
    return {
        "path": str(folder / name),
        "remote": f"dir::file://{folder}/{name}",  # fsspec's wrapper stands for a file system of another machine
        "objects": f"memory://ledger/{name}",
    }[kind]


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(place(request.param, tmp_path))


def row(name: str, state="done", job="job-1", attempts=1, **more) -> Row:
    return Row(name, state, job=job, attempts=attempts, **more)


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it, and whoever meets it is not used any more."""


class Failing(Storage):
    """Stops at one chosen change of the folder, before or after it took place."""

    def __init__(self, url: str | Path):
        super().__init__(url)
        self.plan = {}  # shared by all folders in this one
        self.fail_at(0, False, Killed())

    def __copy__(self):
        copied = object.__new__(Failing)
        copied.__dict__.update(self.__dict__)
        return copied

    def fail_at(self, change: int, after: bool, error: BaseException) -> None:
        self.plan.update(left=change, after=after, error=error)

    def _guard(self, act):
        self.plan["left"] -= 1
        now = self.plan["left"] == 0
        if now and not self.plan["after"]:
            raise self.plan["error"]
        act()
        if now:
            raise self.plan["error"]

    def write(self, name, content):
        self._guard(lambda: Storage.write(self, name, content))

    def delete(self, name):
        self._guard(lambda: Storage.delete(self, name))


def test_rows_come_back_as_they_were(storage: Storage):
    full = Row(
        "ada", "done", "", "s3://in/ada.jpg", "d1", "c1", 2, "2025-11-03T09:12:00+00:00", "job-1", {"train": 1.5}, 3.25,
        {"psnr": 24.5, "clips": 12}, "avatars/ada/avatar", "thumbnails/ada.jpg",
    )  # fmt: skip
    bad = row("bödo", "failed", reason='"quoted"\nand two lines \udce4')  # a file name that is no valid UTF-8
    ledger = Ledger(storage)
    assert ledger.append(full)
    assert ledger.append(bad)
    assert ledger.append(row("numpy", metrics={"psnr": np.float32(2.5), "n": np.int64(3)}, gpu_seconds=np.float64(1)))
    for opened in (ledger, Ledger(storage)):
        assert opened.history()[:2] == [full, bad]
        assert opened.rows()["numpy"].metrics == {"psnr": 2.5, "n": 3}
    Ledger(storage).compact()
    assert Ledger(storage).history()[:2] == [full, bad]


def test_looking_at_a_ledger_writes_nothing(storage: Storage):
    assert Ledger(storage).rows() == {}
    assert not storage.exists(module.FOLDER)


def test_a_portrait_is_done_once(storage: Storage):
    ledger = Ledger(storage)
    assert ledger.append(row("ada"))
    for again in (row("ada"), row("ada", gpu_seconds=9.0), row("ada", job="job-2", attempts=2), row("ada", "failed")):
        assert not ledger.append(again)
        assert not Ledger(storage).append(again)
    assert Ledger(storage).history() == [row("ada")]


def test_a_failure_ends_a_portrait_in_its_job_and_a_later_job_supersedes_it(storage: Storage):
    ledger = Ledger(storage)
    first = row("ada", "failed", reason="no")
    second = row("ada", "failed", "job-2", 4, reason="no")
    third = row("ada", "done", "job-3", 5)
    assert ledger.append(first)
    assert not ledger.append(row("ada", "done"))  # came after the job had given the portrait up
    assert ledger.append(second)
    with pytest.raises(ValueError, match="begun 4 times, but its new row says 1"):
        ledger.append(row("ada", "done", "job-3"))
    assert ledger.append(third)
    for opened in (ledger, Ledger(storage)):
        assert opened.history() == [first, second, third]
        assert opened.rows() == {"ada": third}


def test_opening_reads_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage = Storage(f"memory://{tmp_path.name}")
    ledger = Ledger(storage)
    count = 5000
    for i in range(count):
        ledger.append(row(f"p{i}"))
    reads = []
    read = Storage.read
    monkeypatch.setattr(Storage, "read", lambda self, name: (reads.append(name), read(self, name))[1])
    assert [kept.id for kept in Ledger(storage).history()] == [f"p{i}" for i in range(count)]
    assert len(reads) <= 1 + 64 + count / 1000


def test_full_segments_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SINGLES", 4)
    monkeypatch.setattr(module, "_FULL", 16)
    storage = Storage(f"memory://{tmp_path.name}")
    ledger = Ledger(storage)
    for i in range(64):
        ledger.append(row(f"p{i}"))
    assert storage.files(f"{module.FOLDER}/segments") == [
        "00000001-00000016.jsonl", "00000017-00000032.jsonl", "00000033-00000048.jsonl", "00000049-00000064.jsonl",
    ]  # fmt: skip
    assert storage.files(f"{module.FOLDER}/rows") == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_change_loses_and_doubles_nothing(
    kind: str, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Twelve rows with everything that gathering does; every one of its changes is the last in turn."""
    monkeypatch.setattr(module, "_SINGLES", 3)
    monkeypatch.setattr(module, "_FULL", 5)
    wanted = [row(f"p{i}") for i in range(12)]
    for change in itertools.count(1):
        url, kept, ended = place(kind, tmp_path), [], False
        dying = Failing(url)
        dying.fail_at(change, after, Killed())
        try:
            ledger = Ledger(dying)
            for one in wanted:
                ledger.append(one)
                kept.append(one)
            ended = True
        except Killed:
            pass
        assert Ledger(Storage(url)).history() in (kept, wanted[: len(kept) + 1])  # the row in flight may have arrived
        again = Ledger(Storage(url))
        for one in wanted:
            again.append(one)
        again.compact()
        assert Ledger(Storage(url)).history() == wanted
        assert not Storage(url).files(f"{module.FOLDER}/rows")
        names = Storage(url).files(f"{module.FOLDER}/segments")
        covered = [
            i for first, last in (name[:-6].split("-") for name in names) for i in range(int(first), int(last) + 1)
        ]
        assert covered == list(range(1, 13))  # nothing is left over
        if ended:
            break
    assert change > 30


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"), st.integers(0, 5), st.sampled_from(["done", "failed", "rejected"]), st.integers(0, 1)
        ),
        st.tuples(st.just("compact")),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("break"), st.integers(1, 6), st.booleans(), st.booleans()),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, kind=st.sampled_from(KINDS))
def test_any_interleaving_keeps_what_was_acknowledged(steps, kind: str, tmp_path: Path):
    """A plain list is the reference; only a row whose append failed may be there or not. Jobs follow each other."""
    url = place(kind, tmp_path)
    storage = Failing(url)
    kept: list[Row] = []
    job = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SINGLES", 3)
        patch.setattr(module, "_FULL", 5)
        ledger = Ledger(storage)
        for step, *arguments in steps:
            possible = [kept]
            try:
                if step == "append":
                    number, state, further = arguments
                    job += further
                    one = row(f"p{number}", state, f"job-{job}")
                    before = {r.id: r for r in kept}.get(one.id)
                    wanted = before is None or (before.state != "done" and before.job != one.job)
                    possible = [kept, [*kept, one]] if wanted else [kept]
                    assert ledger.append(one) == wanted
                    possible = possible[-1:]
                elif step == "compact":
                    ledger.compact()
                elif step == "reopen":
                    ledger = Ledger(storage)
                else:
                    change, after, killed = arguments
                    storage.fail_at(change, after, Killed() if killed else StorageError("unplugged"))
            except StorageError:
                pass  # the same ledger goes on
            except Killed:
                ledger = Ledger(storage)
            seen = Ledger(Storage(url))
            assert seen.history() in possible
            kept = seen.history()
            assert seen.rows() == {r.id: r for r in kept}
    assert len({(r.id, r.job) for r in kept}) == len(kept)
    assert all(sum(r.id == f"p{i}" and r.state == "done" for r in kept) <= 1 for i in range(6))


def test_a_reader_meets_a_writer_that_gathers(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    writer = Ledger(storage)
    for i in range(10):
        writer.append(row(f"p{i}"))
    read, once = Storage.read, iter([True])

    def meanwhile(self, name):
        if name.startswith("rows/") and next(once, False):
            writer.compact()  # deletes what the reader has listed and is about to read
        return read(self, name)

    monkeypatch.setattr(Storage, "read", meanwhile)
    assert len(Ledger(storage).history()) == 10
    assert next(once, None) is None


@pytest.mark.parametrize("change", [1, 2])
def test_a_row_that_arrived_though_its_append_failed_is_not_overwritten(change: int, tmp_path: Path):
    storage = Failing(tmp_path)
    ledger = Ledger(storage)
    storage.fail_at(change, True, StorageError("connection lost"))
    with pytest.raises(StorageError, match="connection lost"):
        ledger.append(row("ada"))
    assert ledger.append(row("bob"))
    assert ledger.append(row("ada")) == (change == 1)  # the first change is the format's
    assert sorted(kept.id for kept in Ledger(storage).history()) == ["ada", "bob"]


def test_full_disk_keeps_what_is_there_and_goes_on_after(tmp_path: Path):
    storage = Failing(tmp_path)
    ledger = Ledger(storage)
    ledger.append(row("ada"))
    storage.fail_at(1, False, StorageError("cannot write: No space left on device"))
    with pytest.raises(StorageError, match="No space left"):
        ledger.append(row("bob"))
    assert list(ledger.rows()) == ["ada"]
    assert ledger.append(row("bob"))
    assert ledger.append(row("cleo"))
    assert [kept.id for kept in Ledger(storage).history()] == ["ada", "bob", "cleo"]


SEGMENT = "segments/00000001-00000004.jsonl"


def _filled(storage: Storage) -> Storage:
    ledger = Ledger(storage)
    for i in range(4):
        ledger.append(row(f"p{i}"))
    ledger.compact()
    for i in range(4, 7):
        ledger.append(row(f"p{i}"))
    return storage / module.FOLDER


def _cut(folder: Storage, name: str) -> None:
    folder.write(name, folder.read(name)[:-40])


NEWER = r"ledger is in format 2 .* knows format 1; update zero1toa"


def _of_a_newer_version(folder: Storage, *names: str) -> None:
    """Its files have names that this version does not know."""
    folder.write("format.json", '{"format": 2}')
    for name in names:
        folder.write(name, "x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _of_a_newer_version(f), NEWER),
        (lambda f: _of_a_newer_version(f, "rows/ada-1.cbor"), NEWER),
        (lambda f: _of_a_newer_version(f, "segments/a.parquet"), NEWER),
        (lambda f: f.write("format.json", '{"form'), r"format\.json is damaged"),
        (lambda f: f.write("format.json", "[]"), r"format\.json is damaged"),
        (lambda f: f.delete("format.json"), r"ledger has rows but no format\.json"),
        (lambda f: f.write("rows/notes.txt", "x"), r"rows/notes\.txt is no row of a ledger"),
        (lambda f: f.write("segments/all.jsonl", "x"), r"segments/all\.jsonl is no segment of a ledger"),
        (
            lambda f: f.delete("rows/00000006.json"),
            r"00000007\.json does not follow row 5: a file of the ledger",
        ),
        (lambda f: f.delete(SEGMENT), r"rows/00000005\.json does not follow row 0"),
        (lambda f: _cut(f, "rows/00000006.json"), r"rows/00000006\.json is torn or no part of a ledger: row 6 cannot"),
        (lambda f: _cut(f, SEGMENT), r"00000004\.jsonl is torn or no part of a ledger: row 4 cannot"),
        (lambda f: f.write(SEGMENT, f.read(SEGMENT).split(b"\n")[0]), r"00000004\.jsonl is torn: it has 1 rows of 4"),
        (lambda f: f.write("rows/00000006.json", f.read("rows/00000005.json")), r"row 6 is row 5 of p4"),
        (lambda f: f.write("rows/00000006.json", '{"sequence": 6, "id": "x", "state": "lost"}'), r"row 6 of x, lost"),
        (lambda f: f.write("rows/00000006.json", "[1]"), r"rows/00000006\.json is torn or no part of a ledger"),
        (lambda f: f.write("rows/00000006.json", '{"sequence": 6, "colour": 1}'), r"row 6 cannot be read"),
    ],
)
def test_damage_is_named(damage, message: str, storage: Storage):
    folder = _filled(storage)
    damage(folder)
    with pytest.raises(OutputError, match=message):
        Ledger(storage)


WRITER = """
import sys
from zero1toa.batch import ledger as module
from zero1toa.batch.records import Row
from zero1toa.storage import Storage
module._SINGLES = 5
ledger = module.Ledger(Storage(sys.argv[1]))
for i in range(100_000):
    if ledger.append(Row(f"p{i}", "done", attempts=1, job="job-1")):
        print(i, flush=True)
"""


@pytest.mark.parametrize("kind", ["path", "remote"])
def test_a_killed_writer_leaves_every_acknowledged_row_once(kind: str, tmp_path: Path):
    url, dice, end = place(kind, tmp_path), random.Random(0), -1
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(dice.randint(5, 60))]
        writer.kill()
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        writer.wait()
        writer.stdout.close()
        ids = [kept.id for kept in Ledger(Storage(url)).history()]
        assert ids == [f"p{i}" for i in range(len(ids))]
        assert end < acknowledged[-1] < len(ids) <= acknowledged[-1] + 2  # one row may be kept and not yet printed
        end = acknowledged[-1]


def test_tables_are_for_people_and_scripts(storage: Storage):
    rows = [
        row("ada", metrics={"psnr": 24.5}, seconds={"train": 3.0}, photo='a, "b".jpg'),
        row("bob", "failed", reason="two\nlines \udce4"),
        row("cleo", metrics={"psnr": float("inf"), "iou": 0.5}),
    ]
    write_tables(storage, rows)
    table = list(csv.DictReader(io.StringIO(storage.read_text("ledger.csv"), newline="")))
    assert [line["id"] for line in table] == ["ada", "bob", "cleo"]
    assert [line["metrics.psnr"] for line in table] == ["24.5", "", ""]
    assert (table[0]["photo"], table[0]["seconds.train"], table[2]["metrics.iou"]) == ('a, "b".jpg', "3.0", "0.5")
    assert table[1]["reason"] == "two\nlines \\udce4"

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = [json.loads(line, parse_constant=refuse) for line in storage.read_text("ledger.jsonl").splitlines()]
    assert [Row(**line) for line in lines[:2]] == rows[:2]
    assert lines[2]["metrics"] == {"psnr": None, "iou": 0.5}


def test_tables_of_nothing_have_a_head(storage: Storage):
    write_tables(storage, [])
    assert storage.read_text("ledger.csv").startswith("id,state,reason")
    assert storage.read("ledger.jsonl") == b""
