"""Writing pictures, videos and files so that nobody ever sees half of one.

Images are ``uint8`` sRGB ``[H, W, 3]`` or straight alpha ``[H, W, 4]``; videos are ``[T, H, W, 3]``.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of ``path``; rename it to ``path`` on success, remove it on failure.

    The name keeps the suffix, because encoders choose the format by it.

    Args:
        path: the final name; its folder is made when missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_png(path: Path, image: Picture) -> None:
    """Write ``image`` to ``path`` atomically.

    Args:
        path: file name; PNG whatever the suffix says.
        image: ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]`` uint8.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(image))


def png(image: Picture, level: int = 6) -> bytes:
    """Encode ``image`` (``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]`` uint8) as PNG.

    Args:
        image: the picture.
        level: effort of the compression, 1 to 9; 1 takes less than half the time of 6, and a tenth more room.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def data_uri(image: Picture, *, quality: int = 88) -> str:
    """Encode ``image`` ``[H, W, 3 or 4]`` for an ``<img src>``: PNG when it has transparency, else JPEG.

    Args:
        image: uint8 picture.
        quality: JPEG quality.
    """
    buffer = io.BytesIO()
    if image.shape[-1] == 4:
        kind = "png"
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    else:
        kind = "jpeg"
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def over(image: Picture, background: Sequence[float] = (1.0, 1.0, 1.0)) -> Picture:
    """Composite a straight-alpha picture over a plain background.

    Args:
        image: ``[..., 4]`` uint8.
        background: sRGB in [0, 1].

    Returns:
        ``[..., 3]`` uint8.
    """
    color, alpha = image[..., :3].astype(np.float32), image[..., 3:].astype(np.float32) / 255.0
    mixed = color * alpha + np.asarray(background, np.float32) * 255.0 * (1.0 - alpha)
    return np.rint(mixed).astype(np.uint8)


def resize(image: Picture, size: int) -> Picture:
    """Resize a picture ``[H, W, C]`` so that its longer side is ``size`` pixels (Lanczos)."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.LANCZOS))


def write_video(path: Path, frames: Iterable[Picture], fps: float) -> None:
    """Encode frames as H.264, yuv420p, with the index in front so that browsers start at once; written atomically.

    Args:
        path: an ``.mp4`` file name.
        frames: pictures ``[H, W, 3]`` uint8, all of one size; an odd side is extended by its last row or column,
            because yuv420p halves both sides.
        fps: frames per second.

    Raises:
        ValueError: without any frame.
    """
    import imageio_ffmpeg

    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    height, width = first.shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            (width + width % 2, height + height % 2),
            fps=fps,
            codec="libx264",
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "17", "-preset", "medium", "-movflags", "+faststart"],
        )
        writer.send(None)
        try:
            writer.send(np.ascontiguousarray(np.pad(first, pad, mode="edge")))
            for frame in iterator:
                writer.send(np.ascontiguousarray(np.pad(frame, pad, mode="edge")))
        finally:
            writer.close()


def contact_sheet(
    pictures: Sequence[Picture], labels: Sequence[str], *, columns: int = 0, gap: int = 10, title: str = ""
) -> Picture:
    """Lay pictures out in a grid with a caption under each.

    Args:
        pictures: ``[H, W, 3]`` uint8, all of one size.
        labels: one caption per picture.
        columns: pictures per row; 0 chooses a landscape grid.
        gap: pixels between pictures.
        title: a line above the grid.

    Returns:
        The sheet ``[H', W', 3]`` uint8 on white.

    Raises:
        ValueError: without pictures, or when the number of labels differs.
    """
    if not pictures or len(pictures) != len(labels):
        raise ValueError(f"{len(pictures)} pictures and {len(labels)} labels: a sheet needs one label per picture")
    height, width = pictures[0].shape[:2]
    columns = columns or max(1, round(math.sqrt(len(pictures) * 1.6)))
    rows = math.ceil(len(pictures) / columns)
    text = max(11, width // 16)
    caption, head = text + 12, (2 * text + 20 if title else 0)
    sheet = Image.new(
        "RGB", (gap + columns * (width + gap), head + gap + rows * (height + caption + gap)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(sheet)
    if title:
        font = ImageFont.load_default(size=text * 1.5)
        draw.text((gap + 2, gap + text * 0.75), title, fill=(30, 32, 36), font=font, anchor="lm")
    font = ImageFont.load_default(size=text)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x = gap + (i % columns) * (width + gap)
        y = head + gap + (i // columns) * (height + caption + gap)
        sheet.paste(Image.fromarray(picture), (x, y))
        draw.text((x + width / 2, y + height + caption / 2), label, fill=(90, 94, 102), font=font, anchor="mm")
    return np.asarray(sheet)
