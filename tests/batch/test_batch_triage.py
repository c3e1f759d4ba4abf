"""Triage says of a photo what making a portrait of it would say, and gets over whatever it is given."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from zero1toa.batch.photos import read_photo_bytes
from zero1toa.batch.records import Entry
from zero1toa.batch.triage import YAW_MARGIN, triage
from zero1toa.config import PortraitConfig
from zero1toa.errors import AssetError, PortraitError
from zero1toa.head.registry import load_head
from zero1toa.portrait import graphs, landmarks
from zero1toa.portrait.pipeline import load_portrait


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def astronaut() -> bytes:
    return encoded(data.astronaut())


@pytest.fixture(scope="module")
def turned() -> bytes:
    """A small face that is turned by some 24 degrees, enlarged eight times."""
    face = np.round(data.lfw_subset()[21] * 255).astype(np.uint8)
    return encoded(Image.fromarray(face).resize((200, 200)).convert("RGB"))


def _made(photo: bytes, config: PortraitConfig, name: str) -> str:
    """What load_portrait says about it; empty where it makes a portrait."""
    try:
        load_portrait(photo, config, load_head("canonical"), name=name)
    except PortraitError as error:
        return str(error)
    return ""


def test_a_good_photo(tmp_path: Path, astronaut: bytes):
    path = tmp_path / "eileen.png"
    path.write_bytes(astronaut)
    found = triage(Entry("eileen", str(path)), None, PortraitConfig())
    assert found.problem == ""
    assert (found.id, found.width, found.height, found.faces) == ("eileen", 512, 512, 1)
    assert found.digest == hashlib.sha256(astronaut).hexdigest()
    assert found.face_height == pytest.approx(108, abs=8)  # forehead to chin, measured by hand
    assert abs(found.yaw) < 5
    assert 0 < found.seconds < 60
    with Image.open(io.BytesIO(found.thumbnail)) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.size == (128, 128)
        face = np.asarray(thumbnail.convert("RGB").resize((32, 32)), float)
    # Her head fills the thumbnail: her face's middle is where the photo shows it, and skin is in the middle.
    whole = np.asarray(Image.fromarray(data.astronaut()).crop((116, 19, 332, 235)).resize((32, 32)), float)
    assert np.corrcoef(face.ravel(), whole.ravel())[0, 1] > 0.8
    assert triage(Entry("eileen", "elsewhere"), astronaut, PortraitConfig()).digest == found.digest


def test_sizes_are_those_of_the_upright_file(astronaut: bytes):
    exif = Image.Exif()
    exif[0x0112] = 6
    large = Image.open(io.BytesIO(astronaut)).resize((4608, 4608)).crop((0, 0, 4608, 2001))
    lying = encoded(large.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=60, exif=exif)
    found = triage(Entry("a", "a.jpg"), lying, PortraitConfig())
    assert (found.width, found.height) == (4608, 2001)
    assert found.face_height == pytest.approx(9 * 108, rel=0.08)
    assert found.problem == ""


@pytest.mark.parametrize("case", ["no face", "small", "index", "turned", "empty", "text", "cut off"])
def test_refusals_are_those_of_load_portrait(case: str, astronaut: bytes, turned: bytes):
    small = encoded(Image.open(io.BytesIO(astronaut)).resize((200, 200)))
    photo, config = {
        "no face": (encoded(data.coffee()[:300, :300]), PortraitConfig()),
        "small": (small, PortraitConfig()),
        "index": (astronaut, PortraitConfig(face=2)),
        "turned": (turned, PortraitConfig(max_yaw=5.0)),
        "empty": (b"", PortraitConfig()),
        "text": (b"photo,id\n" * 40, PortraitConfig()),
        "cut off": (astronaut[: len(astronaut) // 2], PortraitConfig()),
    }[case]
    found = triage(Entry("p", "memory://bucket/p.png"), photo, config)
    said = _made(photo, config, "memory://bucket/p.png")
    assert "p.png" in said
    if case == "turned":  # both name an angle; triage's is an estimate
        assert found.problem.partition("turned by")[0] == said.partition("turned by")[0]
        assert found.problem.partition("degrees;")[2] == said.partition("degrees;")[2]
    else:
        assert found.problem == said
    assert found.digest == hashlib.sha256(photo).hexdigest()
    assert bool(found.thumbnail) == (case not in ("empty", "text", "cut off"))
    assert (found.faces > 0) == (case in ("small", "index", "turned"))


def test_what_the_fit_may_accept_is_let_pass(turned: bytes, astronaut: bytes):
    """At the very limit that the fit accepts, triage does not refuse; well beyond it does."""
    for photo in (turned, astronaut):
        found = triage(Entry("p", "p.png"), photo, PortraitConfig())
        portrait = load_portrait(
            photo, PortraitConfig(size=96, matting="mediapipe", max_yaw=90.0), load_head("canonical")
        )
        assert abs(found.yaw) < abs(portrait.yaw) + YAW_MARGIN
        limit = PortraitConfig(max_yaw=abs(portrait.yaw) + 1.0)  # the crop's fit differs a little from the first
        assert triage(Entry("p", "p.png"), photo, limit).problem == ""
    strict = PortraitConfig(max_yaw=abs(triage(Entry("p", "p.png"), turned, PortraitConfig()).yaw) - YAW_MARGIN - 1)
    assert "is turned by" in triage(Entry("p", "p.png"), turned, strict).problem


def test_several_faces(astronaut: bytes):
    half = np.asarray(Image.open(io.BytesIO(astronaut)).resize((400, 400)).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    both = np.full((512, 912, 3), 255, np.uint8)
    both[:400, :400], both[:, 400:] = half, data.astronaut()
    photo = encoded(both)
    largest, other = (triage(Entry("p", "p.png"), photo, PortraitConfig(face=face)) for face in (-1, 1))
    assert largest.problem == other.problem == ""
    assert largest.faces == other.faces == 2
    assert other.face_height == pytest.approx(largest.face_height * 400 / 512, rel=0.03)
    assert other.thumbnail != largest.thumbnail


def test_transparency_shows_the_background(astronaut: bytes):
    cut_out = np.dstack([data.astronaut(), np.zeros((512, 512), np.uint8)])
    cut_out[0:2, 0:2, 3] = 255
    for background in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        found = triage(Entry("p", "p.png"), encoded(cut_out), PortraitConfig(), background)
        assert "no face" in found.problem
        with Image.open(io.BytesIO(found.thumbnail)) as thumbnail:
            assert np.asarray(thumbnail).mean() == pytest.approx(255 * background[0], abs=4)


def test_a_photo_that_is_not_there(tmp_path: Path):
    entry = Entry("gone", str(tmp_path / "gone.jpg"))
    with pytest.raises(PortraitError) as caught:
        read_photo_bytes(entry)
    found = triage(entry, None, PortraitConfig())
    assert found.problem == str(caught.value)
    assert (found.digest, found.width, found.faces, found.thumbnail) == ("", 0, 0, b"")


def test_without_mediapipe_no_photo_is_blamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, astronaut: bytes):
    monkeypatch.setattr(graphs, "has_solutions", lambda: False)
    monkeypatch.delenv(landmarks.TASK_VARIABLE, raising=False)
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    with pytest.raises(AssetError, match="mediapipe"):
        triage(Entry("p", "p.png"), astronaut, PortraitConfig())


def test_what_nobody_expects_stays_with_its_photo(monkeypatch: pytest.MonkeyPatch, astronaut: bytes):
    def broken(*args: object) -> None:
        raise MemoryError("no room\nat all")

    monkeypatch.setattr("zero1toa.batch.triage.detect_faces", broken)
    problem = triage(Entry("p", "p.png"), astronaut, PortraitConfig()).problem
    assert problem == "p.png cannot be looked at (MemoryError: no room)"


KINDS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"]
MAGIC = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"GIF89a", b"RIFF"]
SMALL = {kind: encoded(Image.fromarray(data.astronaut()[90:114, 190:220]), kind) for kind in KINDS}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(KINDS),
    st.floats(0, 1),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
)
def test_any_bytes_are_survived(kind: str, kept: float, changes: list[tuple[int, int]]):
    damaged = bytearray(SMALL[kind])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    damaged = damaged[: round(kept * len(damaged))]
    found = triage(Entry("p", "p.bin"), bytes(damaged), PortraitConfig())
    assert found.problem
    assert len(found.problem.splitlines()) == 1
    assert found.digest == hashlib.sha256(damaged).hexdigest()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@settings(max_examples=40, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from(MAGIC),
)
def test_noise_is_survived(noise: bytes, magic: bytes):
    assert triage(Entry("p", "p.bin"), magic + noise, PortraitConfig()).problem
