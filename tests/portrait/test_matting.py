"""The matte against known mattes: composed pictures whose alpha and colour are given."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from zero1toa.errors import AssetError, ConfigError
from zero1toa.evaluation.image_metrics import silhouette_iou
from zero1toa.portrait import matting
from zero1toa.portrait.matting import choose_method, matte, segment_person, trimap


def test_method(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for variable in ("ZERO1TOA_HOME", "U2NET_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    method, note = choose_method("auto")
    assert method == "mediapipe"
    assert note
    assert choose_method("mediapipe") == ("mediapipe", None)
    with pytest.raises(AssetError, match=r"u2net\.onnx"):
        choose_method("rembg")
    with pytest.raises(ConfigError, match="magic"):
        choose_method("magic")


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


def _brightness_network() -> bytes:
    """An ONNX file ``[1, 3, 320, 320] -> [1, 1, 320, 320]`` that takes the mean over the channels."""

    def tensor(name: bytes, channels: int) -> bytes:
        shape = b"".join(_field(1, _field(1, n)) for n in (1, channels, 320, 320))
        return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))

    def attribute(name: bytes, kind: int, body: bytes) -> bytes:
        return _field(5, _field(1, name) + body + _field(20, kind))

    axes = attribute(b"axes", 7, _field(8, 1))
    keep = attribute(b"keepdims", 2, _field(3, 1))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"ReduceMean") + axes + keep
    graph = _field(1, node) + _field(2, b"brightness") + _field(11, tensor(b"x", 3)) + _field(12, tensor(b"y", 1))
    return _field(1, 6) + _field(7, graph) + _field(8, _field(2, 11))


def test_rembg_runs_the_installed_network(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    network = tmp_path / "u2net.onnx"
    network.write_bytes(_brightness_network())
    monkeypatch.setattr(matting.assets, "find", lambda name: network)
    assert choose_method("auto") == ("rembg", None)
    image = np.full((96, 96, 3), 20, np.uint8)
    image[24:72, 16:48] = 230  # bright, so the stand-in network calls it the person
    person = segment_person(image, "rembg")
    assert person.shape == (96, 96)
    assert person[30:66, 22:42].min() > 0.85  # resampling overshoots at the edges, and the network's range is scaled
    assert person[:, 60:].max() < 0.15
    assert person[:16].max() < 0.15


def test_rembg_reads_the_installed_file_only(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    broken = tmp_path / "u2net.onnx"
    broken.write_bytes(b"\x08not a network")
    monkeypatch.setattr(matting.assets, "find", lambda name: broken)
    with pytest.raises(AssetError, match="cannot be loaded"):
        segment_person(np.zeros((32, 32, 3), np.uint8), "rembg")


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
