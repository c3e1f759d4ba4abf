"""What is done with a photo before an avatar is begun, called without Ray."""

import hashlib
import json

import pytest
from fleet import photo
from tiny import tiny_config, tiny_portrait

from zero1toa import assets
from zero1toa.batch.records import Entry
from zero1toa.distributed.preparation import made_of, prepare
from zero1toa.errors import PortraitError
from zero1toa.portrait import pipeline
from zero1toa.storage import Storage
from zero1toa.symgen.folder import open_run


@pytest.fixture
def made(monkeypatch):
    """What portraits were made of: the name of the photo and the face that was chosen."""
    calls = []

    def load_portrait(data, config, head, background, name):
        calls.append(config.face)
        return tiny_portrait()

    monkeypatch.setattr(pipeline, "load_portrait", load_portrait)
    return calls


@pytest.fixture
def given(tmp_path):
    """A photo in the manifest, its digest, and the folder of its avatar."""
    path = tmp_path / "ada.png"
    path.write_bytes(photo(1))
    return Entry("ada", str(path)), hashlib.sha256(photo(1)).hexdigest(), Storage(tmp_path / "out" / "ada")


def test_a_portrait_is_made_once_for_the_same_values(given, made):
    entry, digest, folder = given
    first = tiny_config("portrait.face=0")
    for config in (first, first, tiny_config("portrait.face=0", "distributed.refiners=3", "loop.iterations=9")):
        prepare(entry, digest, config, folder, False)
    assert made == [0]  # neither the fleet nor the training changes a portrait
    prepare(entry, digest, tiny_config("portrait.face=1"), folder, False)
    prepare(entry, digest, tiny_config("portrait.face=1"), folder, False)
    assert made == [0, 1]


def test_a_photo_that_was_exchanged_is_no_portrait_of_this_batch(given, made):
    entry, digest, folder = given
    with pytest.raises(PortraitError, match="has changed since the batch began"):
        prepare(entry, "0" + digest[1:], tiny_config(), folder, False)
    assert made == []


def test_another_attempt_with_other_values_begins_anew_and_with_the_same_goes_on(given, made):
    entry, digest, folder = given
    config = tiny_config("seed=1")
    portrait, _ = prepare(entry, digest, config, folder, False)
    open_run(folder, portrait, config)
    folder.write("checkpoint/state.pt", b"work")
    prepare(entry, digest, config, folder, True)
    assert folder.read("checkpoint/state.pt") == b"work"
    other = tiny_config("seed=2")
    portrait, _ = prepare(entry, digest, other, folder, True)
    assert not folder.exists("checkpoint")
    open_run(folder, portrait, other)  # which would refuse what the first attempt has begun
    folder.write("checkpoint/identity.json", json.dumps({"avatar": "a torn record"}))
    prepare(entry, digest, other, folder, True)
    assert not folder.exists("checkpoint")
    assert len(made) == 1


def test_weights_are_fetched_where_portraits_are_prepared(given, made, tmp_path, monkeypatch):
    entry, digest, folder = given
    home = tmp_path / "home"
    monkeypatch.setenv("ZERO1TOA_HOME", str(home))
    monkeypatch.setattr(assets, "check", lambda asset, file: None)
    source = Storage(f"memory://{tmp_path.name}/weights")
    source.write("flame2020.npz", b"flame")
    prepare(entry, digest, tiny_config(f"distributed.weights={source.url}"), folder, False)
    assert (home / "flame2020.npz").read_bytes() == b"flame"


def test_the_mark_of_a_portrait_is_of_what_it_is_made_of():
    base = made_of("photo", tiny_config())
    assert base == made_of("photo", tiny_config("seed=4", "device=cpu"))
    others = [
        made_of("another", tiny_config()),
        *(made_of("photo", tiny_config(v)) for v in ("portrait.face=1", "portrait.matting_model=silueta")),
    ]
    assert len({base, *others}) == 4
