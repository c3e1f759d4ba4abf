"""The matte against known mattes: composed pictures whose alpha and colour are given."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from zero1toa import assets
from zero1toa.config import PortraitConfig
from zero1toa.errors import AssetError, ConfigError
from zero1toa.evaluation.image_metrics import silhouette_iou
from zero1toa.portrait.matting import choose_method, matte, segment_person, trimap


def test_method(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for variable in ("ZERO1TOA_HOME", "U2NET_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    method, note = choose_method("auto", "silueta")
    assert method == "mediapipe"
    assert note is not None
    assert "silueta" in note
    assert choose_method("mediapipe", "u2net") == ("mediapipe", None)
    how = r"BiRefNet-portrait-epoch_150\.onnx, then zero1toa assets install birefnet-portrait BiRefNet-portrait"
    with pytest.raises(AssetError, match=how):
        choose_method("rembg", "birefnet-portrait")
    with pytest.raises(AssetError, match=how):
        segment_person(np.zeros((32, 32, 3), np.uint8), "birefnet-portrait")
    with pytest.raises(ConfigError, match="did you mean 'mediapipe'"):
        choose_method("mediapip", "u2net")
    # Also where no model would be used: a wrong name is a mistake, and is found before another machine needs it.
    with pytest.raises(ConfigError, match=r"matting_model=birefnet_portrait is.*did you mean 'birefnet-portrait'"):
        choose_method("mediapipe", "birefnet_portrait")


def test_astronaut_is_told_from_the_background() -> None:
    person = segment_person(data.astronaut()[:300, 70:370])
    assert person.shape == (300, 300)
    assert person.min() >= 0
    assert person.max() <= 1
    # By eye: hair, face and suit are hers; the wall, the flag and the model rocket are not.
    for x, y in ((150, 50), (150, 120), (110, 70), (60, 250)):
        assert person[y, x] > 0.9, (x, y)
    for x, y in ((20, 30), (250, 30), (20, 150), (270, 100)):
        assert person[y, x] < 0.1, (x, y)


def _field(number: int, value: bytes | int) -> bytes:
    """One protobuf field: a varint or length-delimited bytes."""

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _mean_network(size: int) -> bytes:
    """An ONNX file ``[1, 3, size, size] -> [1, 1, size, size]`` that takes the mean over the channels."""

    def tensor(name: bytes, channels: int) -> bytes:
        shape = b"".join(_field(1, _field(1, n)) for n in (1, channels, size, size))
        return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))

    def attribute(name: bytes, kind: int, body: bytes) -> bytes:
        return _field(5, _field(1, name) + body + _field(20, kind))

    axes = attribute(b"axes", 7, _field(8, 1))
    keep = attribute(b"keepdims", 2, _field(3, 1))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"ReduceMean") + axes + keep
    graph = _field(1, node) + _field(2, b"mean") + _field(11, tensor(b"x", 3)) + _field(12, tensor(b"y", 1))
    return _field(1, 6) + _field(7, graph) + _field(8, _field(2, 11))


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Empty asset folders, a catalogue that takes any file as each asset, and a rembg that must not download."""
    for variable in ("ZERO1TOA_HOME", "U2NET_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    real = assets.catalog
    any_file = lambda: tuple(dataclasses.replace(asset, size=None, checksum=None) for asset in real())  # noqa: E731
    monkeypatch.setattr(assets, "catalog", any_file)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("rembg downloads")

    monkeypatch.setattr("pooch.retrieve", refuse)
    return tmp_path


def _install(model: str, content: bytes, folder: Path) -> None:
    given = folder / "given.onnx"
    given.write_bytes(content)
    assets.install(model, given)


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("model", "size", "mean", "deviation", "logits"),
    [
        ("u2net", 320, *_IMAGENET, False),
        ("u2netp", 320, *_IMAGENET, False),
        ("u2net_human_seg", 320, *_IMAGENET, False),
        ("silueta", 320, *_IMAGENET, False),
        ("isnet-general-use", 1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), False),
        ("birefnet-general", 1024, *_IMAGENET, True),
        ("birefnet-general-lite", 1024, *_IMAGENET, True),
        ("birefnet-portrait", 1024, *_IMAGENET, True),
        ("birefnet-dis", 1024, *_IMAGENET, True),
        ("birefnet-hrsod", 1024, *_IMAGENET, True),
        ("birefnet-massive", 1024, *_IMAGENET, True),
        ("bria-rmbg", 1024, *_IMAGENET, False),
    ],
)
def test_rembg_runs_the_installed_network(
    stand_ins: Path, model: str, size: int, mean: tuple[float, ...], deviation: tuple[float, ...], logits: bool
) -> None:
    """The mask against what the models' authors do with pictures: scaled by their own brightest value, standardised,
    through the sigmoid where the network ends in logits, and stretched to the whole range."""
    _install(model, _mean_network(size), stand_ins)
    assert choose_method("auto", model) == choose_method("rembg", model) == (model, None)
    # Of the network's own size, so that nothing is resampled: red from left to right, green downwards, blue less.
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    image = np.stack([230 * x / size, 200 * y / size, 90 + 0 * x], -1).astype(np.uint8)
    scaled = image.astype(np.float64) / image.max()
    output = ((scaled - np.array(mean)) / np.array(deviation)).mean(-1)
    if logits:
        output = 1 / (1 + np.exp(-output))
    expected = (output - output.min()) / (output.max() - output.min())
    person = segment_person(image, model)
    assert person.dtype == np.float32
    assert person.shape == (size, size)
    # rembg cuts to whole levels, once for each orientation.
    assert (expected - person).max() < 1.01 / 255
    assert (expected - person).min() > -0.01 / 255


def test_mask_has_the_pictures_size(stand_ins: Path) -> None:
    _install("isnet-general-use", _mean_network(1024), stand_ins)
    image = np.full((96, 64, 3), 20, np.uint8)
    image[24:72, 16:32] = 230  # bright, so the stand-in network calls it the person
    person = segment_person(image, "isnet-general-use")
    assert person.shape == (96, 64)
    assert person[30:66, 20:28].min() > 0.85  # resampling overshoots at the edges, and the network's range is scaled
    assert person[:, 40:].max() < 0.15
    assert person[:16].max() < 0.15


def test_a_network_that_tells_nothing_apart_sees_nobody(stand_ins: Path) -> None:
    _install("birefnet-portrait", _mean_network(1024), stand_ins)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        person = segment_person(np.full((32, 32, 3), 90, np.uint8), "birefnet-portrait")
    assert (person == 0).all()


def test_the_file_that_rembg_has_downloaded_is_found(stand_ins: Path) -> None:
    (stand_ins / "U2NET_HOME").mkdir()
    (stand_ins / "U2NET_HOME" / "birefnet-portrait.onnx").write_bytes(_mean_network(1024))
    assert choose_method("auto", "birefnet-portrait") == ("birefnet-portrait", None)


def test_a_file_that_is_not_the_model_is_named(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    _install("u2netp", b"\x08not a network", stand_ins)
    with pytest.raises(AssetError, match=r"u2netp\.onnx cannot be loaded as rembg's model u2netp"):
        segment_person(image, "u2netp")
    _install("birefnet-general", _mean_network(320), stand_ins)
    with pytest.raises(AssetError, match=r"\.onnx does not run as rembg's model birefnet-general: .*Expected: 320"):
        segment_person(image, "birefnet-general")

    from rembg.sessions import sessions

    monkeypatch.delitem(sessions, "bria-rmbg")
    _install("bria-rmbg", _mean_network(1024), stand_ins)
    with pytest.raises(AssetError, match="the installed rembg has no model bria-rmbg"):
        segment_person(image, "bria-rmbg")


def test_assets_are_the_files_that_rembg_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    from rembg.sessions import sessions

    monkeypatch.delenv("MODEL_CHECKSUM_DISABLED", raising=False)
    asked: list[tuple[str, str, Path]] = []
    monkeypatch.setattr(
        "pooch.retrieve", lambda url, checksum, *, fname, path, **_: asked.append((url, checksum, Path(path, fname)))
    )
    for name in assets.REMBG_MODELS:
        sessions[name].download_models()
    known = [assets.get(name) for name in assets.REMBG_MODELS]
    assert [(asset.source, asset.places[1]) for asset in known] == [(url, place) for url, _, place in asked]
    for asset, (_, checksum, _) in zip(known, asked, strict=True):
        assert asset.checksum == checksum or asset.name == "u2net"  # of which a stronger checksum is known


def test_the_configuration_names_every_model() -> None:
    config = Path(assets.__file__).with_name("config.py").read_text()
    words = config[config.index('matting_model: str = "u2net"') :].split('"""')[1]
    assert words.split("``")[1::2] == list(assets.REMBG_MODELS)
    assert PortraitConfig().matting_model in assets.REMBG_MODELS


def _disc(size: int, center: tuple[float, float], radius: float, soft: float) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    return np.clip((radius - np.hypot(x - center[0], y - center[1])) / soft + 0.5, 0, 1)


def test_trimap_keeps_the_blob_with_the_face_and_its_holes() -> None:
    person = np.maximum(_disc(200, (100, 100), 60, 2), _disc(200, (20, 20), 12, 2))
    person[95:105, 95:105] = 0  # a hole inside the face is the segmentation's error
    known = trimap(person, 100, (100, 80))
    assert set(np.unique(known)) == {0, 0.5, 1}
    assert (known[15:25, 15:25] == 0).all()
    assert known[100, 100] == 0.5 or known[100, 100] == 1
    band = known == 0.5
    ring = np.abs(np.hypot(*(np.mgrid[0:200, 0:200] - 100)) - 60)
    assert ring[band & (ring < 30)].max() < 0.045 * 100 + 2
    assert band[100, 100 + 60]


def test_matte_recovers_alpha_and_colour() -> None:
    truth = ndimage.gaussian_filter(_disc(128, (64, 64), 36, 1), 3)
    y, x = np.mgrid[0:128, 0:128] / 128
    front = np.stack([0.6 + 0.2 * x, 0.3 + 0.1 * y, 0.2 + 0 * x], -1)
    back = np.stack([0.1 + 0 * x, 0.4 + 0.2 * y, 0.8 - 0.1 * x], -1)
    image = np.round(255 * (truth[..., None] * front + (1 - truth[..., None]) * back)).astype(np.uint8)
    known = np.where(truth > 0.99, 1.0, np.where(truth < 0.01, 0.0, 0.5))
    alpha, colors = matte(image, known)
    assert np.abs(alpha - truth).mean() < 0.005
    assert np.abs(alpha - truth).max() < 0.1
    edge = (truth > 0.2) & (truth < 0.8)
    # Left as it is, the picture's colour is off by half the contrast there: the old background shows.
    assert np.abs(image / 255 - front)[edge].mean() > 0.15
    assert np.abs(colors - front)[edge].mean() < 0.02
    assert silhouette_iou(alpha, truth) > 0.98


def test_matte_without_background_is_the_picture() -> None:
    image = np.full((16, 16, 3), 90, np.uint8)
    alpha, colors = matte(image, np.ones((16, 16)))
    assert (alpha == 1).all()
    np.testing.assert_allclose(colors, 90 / 255, atol=1e-6)
