"""Read any photo as sRGB: rotation, grey, CMYK, palette, 16 bits, transparency, colour profiles, and non-photos."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from zero1toa.errors import PortraitError

MAX_PIXELS = 150_000_000
"""Largest photo that is decoded; 8-bit RGB of this size takes 450 MB."""
WORK_SIDE = 4096
"""Photos are reduced to this longest side; a head crop of 512 pixels needs no more."""

_ON_SIDE = (
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
)  # fmt: skip
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa")


@dataclasses.dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
        image: sRGB ``[H, W, 3]`` uint8, upright, longest side at most :data:`WORK_SIDE`.
        scale: pixels of ``image`` per pixel of the file.
        size: width and height of the file's picture in pixels, upright.
        notes: what was lost or assumed on the way, one line each.
    """

    image: NDArray[np.uint8]
    scale: float
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


def read_photo(photo: str | Path | bytes, background: Sequence[float] = (1.0, 1.0, 1.0), name: str = "") -> Photo:
    """Decode a photo of any common format into upright 8-bit sRGB.

    Memory stays bounded: the size is read from the header, JPEG files are decoded at reduced scale, and other large
    files are reduced before they are converted.

    Args:
        photo: image file, or its bytes.
        background: sRGB colour in [0, 1] that shows through transparent pixels.
        name: what messages call it; the path where there is one.

    Returns:
        The photo, its scale against the file, and notes.

    Raises:
        PortraitError: the file is missing, empty, no image, damaged, cut off or over :data:`MAX_PIXELS`.
    """
    name = name or full_name(photo)
    size = len(photo) if isinstance(photo, bytes) else _file_size(name, Path(photo))
    if size == 0:
        raise PortraitError(f"{name} is empty; give an image file such as JPEG or PNG")
    with warnings.catch_warnings():
        # Pillow warns above 89 megapixels; the limit that counts here is checked below, before decoding.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            opened = Image.open(io.BytesIO(photo) if isinstance(photo, bytes) else photo)
        except Image.DecompressionBombError as error:
            raise _too_large(name, None) from error
        except UnidentifiedImageError as error:
            raise PortraitError(
                f"{name} is not an image that can be read; give JPEG, PNG, WebP, TIFF or BMP (convert HEIC first)"
            ) from error
        except Exception as error:  # decoders raise anything on a broken header
            raise _damaged(name, error) from error
        with opened:
            return _decode(name, opened, background)


def full_name(photo: str | Path | bytes) -> str:
    """What messages call a photo of which nothing else is known."""
    return "the photo" if isinstance(photo, bytes) else str(photo)


def short_name(photo: str | Path | bytes) -> str:
    """The file's name, without its folders."""
    return full_name(photo).rpartition("/")[2]


def _file_size(name: str, path: Path) -> int:
    try:
        if path.is_dir():
            raise PortraitError(f"{name} is a folder; give one image file")
        return path.stat().st_size
    except FileNotFoundError as error:
        raise PortraitError(f"there is no file {name}") from error
    except OSError as error:
        raise PortraitError(f"{name} cannot be read: {error.strerror or error}") from error


def _decode(name: str, opened: Image.Image, background: Sequence[float]) -> Photo:
    notes: list[str] = []
    short = short_name(name)
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise _too_large(name, (width, height))
    if getattr(opened, "n_frames", 1) > 1:
        notes.append(f"{short} holds {getattr(opened, 'n_frames', 1)} pictures; the first is used")
    try:
        profile = opened.info.get("icc_profile")
        if max(width, height) > WORK_SIDE:
            opened.draft(None, (WORK_SIDE, WORK_SIDE))  # JPEG decodes at 1/2, 1/4 or 1/8; others ignore it
        opened.load()
        orientation = _orientation(opened)  # after loading: Pillow turns TIFF upright itself, and then says so
        image = _to_8_bit(opened)
        image = _shrink(image)
        image, alpha = _split_alpha(image)
        image = _to_srgb(image, profile, notes)
        if alpha is not None:
            paper = Image.new("RGB", image.size, tuple(round(255 * float(c)) for c in background))
            image = Image.composite(image, paper, alpha)
        if orientation is not None:
            image = image.transpose(orientation)
    except (MemoryError, PortraitError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise _damaged(name, error) from error
    scale = max(image.size) / max(width, height)
    if scale < 1:
        notes.append(f"{short} ({width}x{height}) is reduced to {image.width}x{image.height}")
    if orientation in _ON_SIDE:
        width, height = height, width
    return Photo(np.asarray(image, dtype=np.uint8).copy(), scale, (width, height), tuple(notes))


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """EXIF rotation; unreadable EXIF counts as none."""
    try:
        code = image.getexif().get(0x0112)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None
    return {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(code if isinstance(code, int) else 0)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit integer and float pictures, which Pillow would clip, to 8 bits."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        top = float(values.max(initial=0.0))
        # The container does not say what white is: [0, 1] floats, 8 and 16 bits are told apart by the largest value.
        white = 1.0 if image.mode == "F" and top <= 1.0 else 255.0 if top <= 255 else 65535.0 if top <= 65535 else top
        return Image.fromarray(np.clip(values * (255.0 / white) + 0.5, 0, 255).astype(np.uint8))
    return image


def _shrink(image: Image.Image) -> Image.Image:
    """Reduce to :data:`WORK_SIDE`: by whole pixels first, which is cheap, then exactly."""
    if max(image.size) <= WORK_SIDE:
        return image
    if image.mode in ("P", "1", "LA", "PA"):  # palette indices cannot be averaged
        image = image.convert("RGB" if image.mode in ("P", "1") and "transparency" not in image.info else "RGBA")
    if image.mode == "RGBA":
        image = image.convert("RGBa")  # premultiplied, so that hidden colours do not bleed
    factor = max(image.size) // WORK_SIDE
    if factor > 1:
        image = image.reduce(factor)
    ratio = min(1.0, WORK_SIDE / max(image.size))
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        full = image.convert("RGBA")
        return full.convert("RGB"), full.getchannel("A")
    return image, None


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert through the embedded colour profile where there is a usable one, else by the mode's plain formula."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            notes.append("the photo's colour profile cannot be used; its colours are taken as sRGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _damaged(name: str, error: Exception) -> PortraitError:
    return PortraitError(f"{name} is damaged or cut off ({error}); save it again or give another copy")


def _too_large(name: str, size: tuple[int, int] | None) -> PortraitError:
    given = f"{size[0]}x{size[1]} pixels" if size else "far too many pixels"
    return PortraitError(
        f"{name} has {given}, more than the {MAX_PIXELS // 1_000_000} megapixels that are read; reduce it first"
    )
