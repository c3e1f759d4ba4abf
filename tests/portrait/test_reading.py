"""Photos of every common kind decode to the same upright sRGB; everything else is refused by name."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from zero1toa.errors import PortraitError
from zero1toa.portrait.reading import MAX_PIXELS, WORK_SIDE, read_photo


@pytest.fixture
def gradient() -> np.ndarray:
    """Smooth picture ``[48, 32, 3]`` without any symmetry, so that every wrong flip shows."""
    y, x = np.mgrid[0:48, 0:32]
    return np.stack([x * 7, y * 5, 255 - x * 3 - y * 2], -1).astype(np.uint8)


def test_plain_png_is_exact(tmp_path: Path, gradient: np.ndarray) -> None:
    Image.fromarray(gradient).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    assert photo.image.dtype == np.uint8
    assert photo.scale == 1
    assert photo.notes == ()
    np.testing.assert_array_equal(photo.image, gradient)


def test_bytes_are_read_as_their_file(tmp_path: Path, gradient: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient).save(tmp_path / "a.tiff", exif=exif)
    from_file, from_bytes = read_photo(tmp_path / "a.tiff"), read_photo((tmp_path / "a.tiff").read_bytes())
    np.testing.assert_array_equal(from_bytes.image, from_file.image)
    assert from_bytes.size == from_file.size == (48, 32)
    for data, says in ((b"", "s3://b/x.jpg is empty"), (b"x" * 99, "s3://b/x.jpg is not an image")):
        with pytest.raises(PortraitError, match=says):
            read_photo(data, name="s3://b/x.jpg")
    with pytest.raises(PortraitError, match="the photo is empty"):
        read_photo(b"")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, gradient: np.ndarray, orientation: int, suffix: str) -> None:
    # How the stored pixels look for each EXIF code (TIFF 6.0: where row 0 and column 0 of the stored picture are).
    stored = {
        1: gradient,
        2: gradient[:, ::-1],
        3: gradient[::-1, ::-1],
        4: gradient[::-1],
        5: gradient.transpose(1, 0, 2),
        6: gradient.transpose(1, 0, 2)[::-1],
        7: gradient.transpose(1, 0, 2)[::-1, ::-1],
        8: gradient.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.image, gradient)
    assert photo.size == (32, 48)


def test_grey_cmyk_palette_and_bilevel(tmp_path: Path, gradient: np.ndarray) -> None:
    image = Image.fromarray(gradient)
    image.convert("L").save(tmp_path / "grey.png")
    grey = read_photo(tmp_path / "grey.png").image
    np.testing.assert_array_equal(grey, np.repeat(np.asarray(image.convert("L"))[..., None], 3, -1))
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    assert np.abs(read_photo(tmp_path / "cmyk.jpg").image.astype(int) - gradient).mean() < 4
    image.quantize(256).save(tmp_path / "palette.png")
    assert np.abs(read_photo(tmp_path / "palette.png").image.astype(int) - gradient).mean() < 6
    image.convert("1").save(tmp_path / "bilevel.png")
    assert set(np.unique(read_photo(tmp_path / "bilevel.png").image)) <= {0, 255}


def test_sixteen_bits_and_floats_keep_their_range(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    got = read_photo(tmp_path / "wide.png").image[..., 0]
    assert np.abs(got.astype(float) - wide / 257.0).max() <= 1.0
    unit = np.linspace(0, 1, 32 * 32).reshape(32, 32).astype(np.float32)
    Image.fromarray(unit).save(tmp_path / "float.tiff")
    assert np.abs(read_photo(tmp_path / "float.tiff").image[..., 0] - unit * 255.0).max() <= 1.0


def test_transparency_shows_the_background(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:4, :, 3] = 255
    pixels[4:6, :, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_photo(tmp_path / "a.png", background=(0.0, 1.0, 0.0)).image
    np.testing.assert_array_equal(image[0, 0], [200, 0, 0])
    np.testing.assert_allclose(image[5, 0], [200 * 128 / 255, 255 * 127 / 255, 0], atol=1)
    np.testing.assert_array_equal(image[7, 0], [0, 255, 0])


def test_colour_profile_is_converted_and_a_broken_one_announced(tmp_path: Path, gradient: np.ndarray) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(gradient).save(tmp_path / "srgb.png", icc_profile=profile)
    assert np.abs(read_photo(tmp_path / "srgb.png").image.astype(int) - gradient).max() <= 2
    Image.fromarray(gradient).save(tmp_path / "bad.png", icc_profile=b"not a profile")
    bad = read_photo(tmp_path / "bad.png")
    np.testing.assert_array_equal(bad.image, gradient)
    assert any("profile" in note for note in bad.notes)


def test_first_picture_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    photo = read_photo(tmp_path / "a.gif")
    np.testing.assert_array_equal(photo.image[0, 0], [255, 0, 0])
    assert "2 pictures" in photo.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"hello, this is no picture\n" * 20, "not an image"),
        ("head.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "not an image|damaged"),
    ],
)
def test_what_is_no_image(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PortraitError, match=says):
        read_photo(tmp_path / name)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PortraitError, match="there is no file"):
        read_photo(tmp_path / "nothing.png")
    with pytest.raises(PortraitError, match="folder"):
        read_photo(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PortraitError, match=r"damaged or cut off|not an image"):
        read_photo(path)


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
    )


def test_over_large_is_refused_from_its_header(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 50
    (tmp_path / "a.png").write_bytes(_png_header(side, side))
    with pytest.raises(PortraitError, match="megapixels"):
        read_photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(_png_header(2_000_000, 2_000_000))
    with pytest.raises(PortraitError, match=r"too many pixels|megapixels"):
        read_photo(tmp_path / "b.png")


@pytest.mark.parametrize(("suffix", "limit_mb"), [("jpg", 250), ("png", 650)])
def test_hundred_megapixels_are_reduced_in_bounded_memory(tmp_path: Path, suffix: str, limit_mb: int) -> None:
    small = np.random.default_rng(1).integers(0, 255, (10, 10, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    options = {"quality": 60} if suffix == "jpg" else {"compress_level": 1}
    Image.fromarray(small).resize((10_000, 10_000), Image.Resampling.NEAREST).save(path, **options)
    # A process of its own: the peak of this one already holds the picture that was just made.
    script = (
        "import resource, sys, numpy as np\n"
        "from zero1toa.portrait.reading import read_photo\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "photo = read_photo(sys.argv[1])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
        "np.save(sys.argv[2], photo.image)\n"
        "print(photo.scale, *photo.notes)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(path), str(tmp_path / "out.npy")], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    image = np.load(tmp_path / "out.npy")
    assert max(image.shape) == WORK_SIDE
    assert float(out[1].split()[0]) == pytest.approx(WORK_SIDE / 10_000)
    assert "reduced" in out[1]
    assert np.abs(image[200::410, 200::410].astype(int)[:10, :10] - small).mean() < 6
    assert float(out[0]) < limit_mb
