"""Pictures and videos, read back by other programs."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from zero1toa import media


def _gradient(height: int, width: int, shift: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * 2 + shift) % 256, y * 2 % 256, np.full_like(x, 90)], -1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 65)])
def test_video_has_its_frames_rate_and_even_size(tmp_path: Path, height: int, width: int):
    frames = [_gradient(height, width, 3 * i) for i in range(7)]
    media.write_video(tmp_path / "a.mp4", iter(frames), 12.5)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    about = next(reader)
    assert about["fps"] == 12.5
    assert about["pix_fmt"].startswith("yuv420p")
    assert about["codec"] == "h264"
    assert about["size"] == (width + width % 2, height + height % 2)
    decoded = [np.frombuffer(data, np.uint8).reshape(height + height % 2, width + width % 2, 3) for data in reader]
    assert len(decoded) == 7
    error = np.abs(decoded[0][:height, :width].astype(int) - frames[0])
    assert error.mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_failing_video_leaves_nothing(tmp_path: Path):
    def frames():
        yield _gradient(32, 32, 0)
        raise RuntimeError("render failed")

    with pytest.raises(RuntimeError, match="render failed"):
        media.write_video(tmp_path / "a.mp4", frames(), 25)
    with pytest.raises(ValueError, match="at least one frame"):
        media.write_video(tmp_path / "a.mp4", [], 25)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "a.png"
    media.write_png(path, _gradient(8, 8, 0))
    with pytest.raises(RuntimeError), media.atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise RuntimeError
    np.testing.assert_array_equal(np.asarray(Image.open(path)), _gradient(8, 8, 0))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_compositing_is_the_over_operator():
    image = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 51]]], np.uint8)
    expected = [[255, 255, 255], [200, 100, 0], [0.2 * 200 + 0.8 * 255, 0.2 * 100 + 0.8 * 255, 0.8 * 255]]
    np.testing.assert_allclose(media.over(image)[0], expected, atol=0.5)


def test_a_sheet_holds_every_picture_and_refuses_a_missing_label():
    pictures = [np.full((40, 40, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)]
    sheet = media.contact_sheet(pictures, [f"{i}" for i in range(5)], columns=3, title="All")
    for value in (10, 20, 30, 40, 50):
        assert (sheet == value).all(-1).sum() >= 1600
    with pytest.raises(ValueError, match="one label per picture"):
        media.contact_sheet(pictures, ["one"])
