"""Whatever names portraits becomes the same list of them, or one line that says what is wrong with it."""

import io
import json
import string
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset import ShardWriter

from zero1toa.batch import ids
from zero1toa.batch.locations import absolute, join
from zero1toa.batch.manifest import IMAGES, portrait_config, read_manifest
from zero1toa.batch.photos import photo_name, read_photo_bytes
from zero1toa.batch.records import Entry
from zero1toa.batch.tables import SHARED
from zero1toa.config import Config, to_dict
from zero1toa.errors import ManifestError, PortraitError, UserError
from zero1toa.storage import Storage


def picture(shade: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, kind)
    return file.getvalue()


@pytest.fixture(params=["path", "url", "remote", "objects"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    urls = {
        "path": str(tmp_path / "in"),
        "url": f"file://{tmp_path}/in",
        "remote": f"dir::file://{tmp_path}/in",
        "objects": f"memory://{tmp_path.name}/in",
    }
    return Storage(urls[request.param])


def _in(place: Storage, name: str) -> str:
    """Address of a file; ``dir::`` makes a file system of a folder, in which the file's path is told apart from it."""
    return join(absolute(place.url), name)


def _ids(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def _refused(source: object) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(str(source))
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert message.strip()
    assert "\n" not in message
    return message


def test_a_folder_gives_its_photos_by_their_paths(place: Storage):
    photos = {"b.PNG": picture(1, "PNG"), "a.jpg": picture(2), "trip/a.jpg": picture(3), "trip/far/c d.webp": b"x"}
    for name, data in photos.items():
        place.write(name, data)
    for name in ("notes.txt", ".hidden.jpg", ".thumbs/a.jpg", "trip/._a.jpg", "jpg"):
        place.write(name, b"no portrait")
    entries = read_manifest(place.url)
    assert _ids(entries) == ["a", "b", "trip-a", "trip-far-c-d"]
    read = [read_photo_bytes(entry) for entry in entries]
    assert read == [photos[name] for name in ("a.jpg", "b.PNG", "trip/a.jpg", "trip/far/c d.webp")]
    assert read_manifest(place.url) == entries
    assert all(entry.overrides == () and entry.member == "" for entry in entries)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["x", "y"]),
        ("*/*.png", ["a-x", "b-x"]),
        ("**/*.png", ["a-deep-z", "a-x", "b-x"]),
        ("{b,a}/*.png", ["b-x", "a-x"]),
        ("{a,b}/x.png", ["a-x", "b-x"]),
        ("[xy].jpg", ["x", "y"]),
        ("?.*", ["x", "y"]),
    ],
)
def test_patterns(place: Storage, pattern: str, expected: list[str]):
    for name in ("x.jpg", "y.jpg", "x.txt", "a/x.png", "b/x.png", "a/deep/z.png", "a/x.csv"):
        place.write(name, name.encode())
    entries = read_manifest(f"{place.url}/{pattern}")
    assert _ids(entries) == expected
    assert all(read_photo_bytes(entry).decode().endswith((".jpg", ".png")) for entry in entries)


def test_one_photo(place: Storage):
    place.write("Zoë Ünal.jpeg", picture(7))
    (entry,) = read_manifest(_in(place, "Zoë Ünal.jpeg"))
    assert entry.id == "Zoe-Unal"
    assert read_photo_bytes(entry) == picture(7)


def test_paths_hold_in_every_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "home" / "in").mkdir(parents=True)
    (tmp_path / "home" / "in" / "a.jpg").write_bytes(b"1")
    (tmp_path / "home" / "list.csv").write_text("photo\nin/a.jpg\n./in/../in/a.jpg\n~/in/a.jpg\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    entries = [e for source in ("in", "in/*.jpg", "in/a.jpg", "~/in", "list.csv") for e in read_manifest(source)]
    assert len(entries) == 7
    monkeypatch.chdir("/")
    assert {entry.photo for entry in entries} == {str(tmp_path / "home" / "in" / "a.jpg")}


def test_csv_with_configuration(place: Storage):
    place.write("photos/anna.jpg", picture(1))
    place.write("photos/bert.jpg", picture(2))
    lines = [
        "id,photo , portrait.face,loop.iterations,portrait.matting,curriculum.fovy",
        "first,photos/anna.jpg,1,,mediapipe,",
        "",
        ' ,photos/bert.jpg,,500,,"[30, 50]"',
        ",photos/missing.jpg,,,,",
        f",{_in(place, 'photos/anna.jpg')},,,,",
    ]
    place.write("list.csv", "\ufeff" + "\r\n".join(lines))
    entries = read_manifest(_in(place, "list.csv"))
    assert _ids(entries) == ["first", "photos-bert", "photos-missing", "anna"]
    assert entries[0].overrides == ("portrait.face=1", "portrait.matting=mediapipe")
    assert read_photo_bytes(entries[0]) == picture(1)
    assert read_photo_bytes(entries[1]) == picture(2)
    with pytest.raises(PortraitError, match=r"there is no file .*photos/missing\.jpg"):
        read_photo_bytes(entries[2])
    config = portrait_config(["loop.iterations=70", "seed=3"], None, entries[1])
    assert (config.loop.iterations, config.seed, config.curriculum.fovy) == (500, 3, (30.0, 50.0))
    assert portrait_config(["loop.iterations=70"], None, entries[0]).loop.iterations == 70


def test_jsonl_says_the_same_as_csv(tmp_path: Path):
    rows = [
        {"id": 7, "photo": "a.jpg", "portrait": {"face": 1, "matting": "rembg"}, "seed": None},
        {"photo": "b.jpg", "portrait.face": 0, "avatar.hair_volume": False, "portrait.shape_from": "12: é#"},
        {"photo": "b.jpg", "curriculum.fovy": [30, 50.5], "optim.position": 1e-05},
    ]
    (tmp_path / "list.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    entries = read_manifest(str(tmp_path / "list.jsonl"))
    assert entries[0].id == "7"
    first, second, third = (portrait_config((), None, entry) for entry in entries)
    assert (first.portrait.face, first.portrait.matting, first.seed) == (1, "rembg", 0)
    assert (second.portrait.face, second.avatar.hair_volume, second.portrait.shape_from) == (0, False, "12: é#")
    assert (third.curriculum.fovy, third.optim.position) == ((30.0, 50.5), 1e-05)


def test_configurations_are_not_shared(tmp_path: Path):
    file = tmp_path / "batch.yaml"
    file.write_text("loop:\n  iterations: 60\n")
    entry = Entry("a", "a.jpg")
    first, second = portrait_config((), file, entry), portrait_config((), file, entry)
    assert to_dict(first) == to_dict(second)
    first.loop.iterations = 1
    assert second.loop.iterations == portrait_config((), file, entry).loop.iterations == 60


def test_shards(place: Storage, tmp_path: Path):
    with ShardWriter(str(tmp_path / "s-%02d.tar"), maxcount=2, verbose=0) as writer:
        for i in range(5):
            writer.write({"__key__": f"people/{i:03d}", "jpg": picture(i), "json": {"age": i}})
    for i in range(3):
        place.write(f"s-{i:02d}.tar", (tmp_path / f"s-{i:02d}.tar").read_bytes())
    for source in ("s-{00..02}.tar", "s-*.tar"):
        entries = read_manifest(f"{place.url}/{source}")
        assert _ids(entries) == [f"people-{i:03d}" for i in range(5)]
        assert [read_photo_bytes(entry) for entry in entries] == [picture(i) for i in range(5)]
        assert entries[3].member == "people/003.jpg"
        assert photo_name(entries[3]).endswith("s-01.tar/people/003.jpg")
    assert _ids(read_manifest(_in(place, "s-02.tar"))) == ["people-004"]
    assert "s-03.tar" in _refused(f"{place.url}/s-{{00..03}}.tar")


def test_shards_with_several_pictures_of_a_key(tmp_path: Path):
    for shard in ("a", "b"):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for name in ("./x.front.png", "./x.side.png", "./y.jpg", "__meta__/z.png", "._y.jpg", "x.txt"):
                archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    entries = read_manifest(str(tmp_path / "*.tar"))
    assert [entry.member for entry in entries] == 2 * ["./x.front.png", "./x.side.png", "./y.jpg"]
    assert len(set(_ids(entries))) == 6
    assert all(entry.id.startswith(("x-", "y-")) for entry in entries)


def test_reading_a_member_leaves_the_others(tmp_path: Path):
    noise = np.random.default_rng(0).bytes(8_000_000)
    with tarfile.open(tmp_path / "big.tar", "w") as archive:
        for name, data in (("a.jpg", noise), ("b.jpg", b"small"), ("c.jpg", noise)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    tracemalloc.start()
    entries = read_manifest(str(tmp_path / "big.tar"))
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    assert read_photo_bytes(entries[1]) == b"small"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 1_000_000
    assert read_photo_bytes(entries[2]) == noise


@pytest.mark.parametrize("damage", ["cut off", "overwritten header", "no tar", "compressed", "twice"])
def test_damaged_shards_are_refused_as_a_whole(tmp_path: Path, damage: str):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w:gz" if damage == "compressed" else "w") as archive:
        for name in ("a.jpg", "b.jpg", "b.jpg" if damage == "twice" else "c.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 600
            archive.addfile(member, io.BytesIO(bytes(range(200)) * 3))
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        data = data[: 512 + 1024 + 512 + 300]
    elif damage == "overwritten header":
        data[512 + 1024 : 512 + 1024 + 100] = b"\xff" * 100
    elif damage == "no tar":
        data = bytearray(picture(1))
    path.write_bytes(data)
    assert "is no webdataset shard, or is damaged" in _refused(path)


def test_names_that_would_collide_are_told_apart_by_their_photo(tmp_path: Path):
    for name in ("x.jpg", "x.png", "a-b.jpg", "a/b.jpg", "c.jpg", "写真.jpg", "ポートレート.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    entries = read_manifest(str(tmp_path))
    by_photo = {Path(entry.photo).relative_to(tmp_path).as_posix(): entry.id for entry in entries}
    assert len(set(by_photo.values())) == 7
    assert by_photo["c.jpg"] == "c"
    assert by_photo["x.jpg"].startswith("x-")
    assert by_photo["a/b.jpg"].startswith("a-b-")
    assert by_photo["写真.jpg"].startswith("portrait-")
    # What comes beside them later does not move a name to another photo.
    (tmp_path / "x.bmp").write_bytes(b"")
    (tmp_path / "0.jpg").write_bytes(b"")
    later = {Path(e.photo).relative_to(tmp_path).as_posix(): e.id for e in read_manifest(str(tmp_path))}
    assert {name: later[name] for name in by_photo} == by_photo


def test_rows_of_one_photo_are_portraits_of_their_own(tmp_path: Path):
    rows = ["photo,id,seed", "a.jpg,,1", "a.jpg,,2", "a.jpg,,2", "b.jpg,,", "c.jpg,b,"]
    (tmp_path / "l.csv").write_text("\n".join(rows))
    entries = read_manifest(str(tmp_path / "l.csv"))
    assert len(set(_ids(entries))) == 5
    assert entries[4].id == "b"
    assert entries[3].id.startswith("b-")
    (tmp_path / "l.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))
    assert set(_ids(read_manifest(str(tmp_path / "l.csv")))) == set(_ids(entries))


paths = st.text(st.sampled_from(string.ascii_lowercase[:3] + "A/.-_ é写~"), max_size=12)


@settings(deadline=None)
@given(st.lists(paths, max_size=12, unique=True), st.sets(st.sampled_from(["a", "b", "portrait"])), st.randoms())
def test_made_ids_are_safe_unique_and_independent_of_order(photos: list[str], taken: set[str], random):
    names = [ids.from_path(photo) for photo in photos]
    made = ids.distinct(names, [(photo,) for photo in photos], taken)
    assert all(ids.is_safe(name) for name in made)
    assert len({*made, *taken}) == len(made) + len(taken)
    shuffled = random.sample(photos, len(photos))
    again = ids.distinct([ids.from_path(photo) for photo in shuffled], [(photo,) for photo in shuffled], taken)
    assert dict(zip(photos, made, strict=True)) == dict(zip(shuffled, again, strict=True))


def test_long_paths_make_short_names():
    first, second = (ids.from_path(f"{'deep/' * 60}{name}.jpg") for name in ("a", "b"))
    assert first == second
    made = ids.distinct([first, second], [("a",), ("b",)])
    assert made[0] != made[1]
    assert all(ids.is_safe(name) for name in made)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "a b", "é", "a" * 101, "a\n"])
def test_unsafe_names(name: str):
    assert not ids.is_safe(name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foto,id\na.jpg,1", ["no column 'photo'", "did you mean 'foto'", "foto, id"]),
        ("photo,ID\na.jpg,1", ["line 1", "'ID' is written 'id'"]),
        ("photo,portrait.fase\na.jpg,", ["line 1", "portrait.fase", "did you mean 'portrait.face'"]),
        ("photo,portrait\na.jpg,1", ["line 1", "'portrait' is a section"]),
        ("photo,seed,seed\na.jpg,1,2", ["two columns 'seed'"]),
        ("photo,\na.jpg,1", ["column 2 has no name"]),
        ('photo,portrait.matting\n"a\nb.jpg",auto\n\nc.jpg,a,b', ["line 5", "3 cells, but 2 columns"]),
        ("photo,loop.iterations\na.jpg,5\nb.jpg,many", ["line 3", "loop.iterations", "many"]),
        ("photo,id\na.jpg,x\nb.jpg,y\nc.jpg,x", ["'x' is given twice", "line 2 and line 4"]),
        ("photo,id\na.jpg,x/y", ["line 2", "'x/y' cannot name a folder", "'x-y'"]),
        ("photo,id\n,x", ["line 2", "no photo"]),
        ('photo,id\na.jpg,"x', ["line 2"]),
        ("photo\n", ["lists no portraits"]),
        ("", ["lists no portraits"]),
    ],
)
def test_csv_that_is_not_understood(tmp_path: Path, text: str, says: list[str]):
    (tmp_path / "l.csv").write_text(text)
    message = _refused(tmp_path / "l.csv")
    assert str(tmp_path / "l.csv") in message
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"photo": "a.jpg"', ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ('["a.jpg"]', ["not an object"]),
        ('{"foto": "a.jpg"}', ["no key 'photo'", "did you mean 'foto'"]),
        ('{"photo": 3}', ["no photo"]),
        ('{"photo": "a.jpg", "id": [1]}', ["cannot name a folder"]),
        ('{"photo": "a.jpg", "portrait": {"fase": 1}}', ["portrait.fase", "did you mean 'portrait.face'"]),
        ('{"photo": "a.jpg", "loop.iterations": "many"}', ["loop.iterations"]),
        ('{"photo": "a.jpg", "loop.iterations": [1]}', ["loop.iterations"]),
        ('{"photo": "a.jpg", "seed=1": 1}', ["seed=1"]),
        ('{"photo": "a.jpg", "": 1}', ["unknown configuration key"]),
        ('{"photo": "a.jpg", "portrait.matting": "${oops}"}', ["oops"]),
        ('{"photo": "a.jpg", "diffusion": {"steps": 4}}', ["'diffusion.steps' cannot differ"]),
    ],
)
def test_jsonl_that_is_not_understood(tmp_path: Path, line: str, says: list[str]):
    (tmp_path / "l.jsonl").write_text('{"photo": "good.jpg"}\n\n' + line)
    message = _refused(tmp_path / "l.jsonl")
    assert "line 3" in message
    assert all(part in message for part in says), message


@pytest.mark.parametrize("key", SHARED)
def test_what_belongs_to_the_whole_batch_cannot_differ(tmp_path: Path, key: str):
    value = to_dict(Config())
    for part in key.split("."):
        value = value[part]
    name = f"{key}.{next(iter(value))}" if isinstance(value, dict) else key
    (tmp_path / "l.csv").write_text(f"photo,{name}\na.jpg,\n")
    assert f"'{name}' cannot differ between portraits" in _refused(tmp_path / "l.csv")
    neighbour = "render.size" if key == "render.background" else "curriculum.spatial_clips"
    (tmp_path / "l.csv").write_text(f"photo,{neighbour}\na.jpg,4\n")
    assert read_manifest(str(tmp_path / "l.csv"))[0].overrides == (f"{neighbour}=4",)


def test_a_manifest_in_another_encoding(tmp_path: Path):
    (tmp_path / "l.csv").write_bytes("photo\na.jpg\nZoë.jpg\n".encode("latin-1"))
    assert "line 3: not UTF-8" in _refused(tmp_path / "l.csv")


def test_nothing_there(place: Storage):
    assert "there is no file or folder" in _refused(f"{place.url}/nothing")
    assert "there is no file or folder" in _refused(f"{place.url}/nothing.csv")
    assert "nothing matches" in _refused(f"{place.url}/*.jpg")
    place.write("a.txt", b"text")
    place.write("b.tar.gz", b"text")
    folder = _refused(place.url)
    assert "there is no photo in" in folder
    assert all(ending in folder for ending in IMAGES)
    assert "none of the 2 that match" in _refused(f"{place.url}/*")
    assert "is not a photo" in _refused(_in(place, "a.txt"))


def test_patterns_that_cannot_be_meant(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    assert "photos and shards" in _refused(tmp_path / "*")
    assert "there is no photo in" in _refused(tmp_path / "a.tar")
    assert "braces" in _refused(tmp_path / "{a,b.jpg")
    assert "**" in _refused(tmp_path / "**.jpg")
    assert "no input" in _refused(" ")


def test_unreachable_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert "did you mean 's3'" in _refused("s4://bucket/photos")
    assert "Protocol not known: nonsense" in _refused("nonsense://bucket/*.jpg")
    assert "cannot read http://127.0.0.1:9/photos: " in _refused("http://127.0.0.1:9/photos")

    from fsspec.implementations.memory import MemoryFileSystem

    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route\nto host")

    for name in ("isdir", "glob"):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, name, broken)
            assert "no route" in _refused("memory://bucket/*.jpg")


def test_a_package_that_is_not_installed():
    fsspec.register_implementation("elsewhere", "no_such_package.Files", errtxt="Install no_such_package")
    assert "Install no_such_package" in _refused("elsewhere://bucket")


def test_archives_of_photos(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/a.jpg", picture(1))
        archive.writestr("in/b.jpg", picture(2))
        archive.writestr("list.csv", "photo\nin/b.jpg\n")
    zipped = f"::file://{tmp_path}/all.zip"
    for source in (f"zip://{zipped}", f"zip://in{zipped}", f"zip://in/*.jpg{zipped}", f"simplecache::zip://{zipped}"):
        assert [read_photo_bytes(entry) for entry in read_manifest(source)] == [picture(1), picture(2)]
    assert read_photo_bytes(read_manifest(f"zip://list.csv{zipped}")[0]) == picture(2)


def test_signed_web_addresses_keep_their_ids(tmp_path: Path):
    for signature in ("abc", "def"):
        rows = [f"https://host/x/anna.jpg?X-Sig={signature}", f"https://host/y/anna.jpg?X-Sig={signature}"]
        (tmp_path / f"{signature}.csv").write_text("\n".join(["photo", *rows]))
    first, second = (read_manifest(str(tmp_path / f"{name}.csv")) for name in ("abc", "def"))
    assert _ids(first) == _ids(second)
    assert all(entry.id.startswith("anna-") for entry in first)
    assert first[0].photo.endswith("?X-Sig=abc")


def test_what_is_no_photo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(PortraitError, match="is a directory"):
        read_photo_bytes(Entry("a", str(tmp_path)))
    (tmp_path / "a.jpg").write_bytes(b"12345")
    monkeypatch.setattr("zero1toa.batch.photos.MAX_BYTES", 4)
    with pytest.raises(PortraitError, match="cannot be read: it has 5 bytes"):
        read_photo_bytes(Entry("a", str(tmp_path / "a.jpg")))
    with pytest.raises(PortraitError, match=r"there is no file .*s\.tar/x\.jpg"):
        read_photo_bytes(Entry("a", str(tmp_path / "s.tar"), "x.jpg"))
    names = {
        "s4://bucket/a.jpg": "s4://bucket/a.jpg",
        "memory://bucket/a.jpg": "memory://bucket/a.jpg",
        "http://127.0.0.1:9/a.jpg?Signature=secret": "http://127.0.0.1:9/a.jpg ",
        "zip://in/a.jpg::/no.zip": "/no.zip/in/a.jpg",
    }
    for address, name in names.items():
        with pytest.raises(PortraitError) as caught:
            read_photo_bytes(Entry("a", address))
        assert "\n" not in str(caught.value)
        assert name in f"{caught.value} "


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=60), st.sampled_from(["csv", "jsonl"]), st.sampled_from(["", "photo\n", "photo,seed\n", '{"ph'])
)
def test_any_text_is_a_manifest_or_one_line(tmp_path: Path, text: str, kind: str, start: str):
    (tmp_path / f"l.{kind}").write_bytes((start + text).encode("utf-8", "surrogatepass"))
    entries, message = [Entry("none", "")], "one line"
    try:
        entries = read_manifest(str(tmp_path / f"l.{kind}"))
    except ManifestError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert len(set(_ids(entries))) == len(entries) > 0
