"""``zero1toa render`` and ``zero1toa animate``."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from zero1toa import media
from zero1toa.commands.player import open_player
from zero1toa.errors import MotionError, OutputError
from zero1toa.head.arkit import coefficients
from zero1toa.head.flame.sequence import FlameSequence, require_flame2020
from zero1toa.motion.drivers import is_video, load_driver
from zero1toa.motion.sequence import Motion


def parse_expression(text: str) -> dict[str, float]:
    """Read ``jawOpen=0.8,eyeBlinkLeft=1``.

    Raises:
        MotionError: when an item is not ``name=number``; names are checked where they are used.
    """
    values: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = item.partition("=")
        try:
            values[name.strip()] = float(number)
        except ValueError as error:
            raise MotionError(f"'{item}' is not name=number; write for example jawOpen=0.8,eyeBlinkLeft=1") from error
        if not 0 <= values[name.strip()] <= 2:
            raise MotionError(f"{item}: coefficients lie between 0 and 1 (2 exaggerates)")
    return values


def check_writable(path: Path, suffix: str) -> None:
    """Refuse an output file that cannot be written, before any work.

    Raises:
        OutputError: for a wrong suffix, a folder, or a folder that does not exist and cannot be made.
    """
    if path.suffix.lower() != suffix:
        raise OutputError(f"{path} must end in {suffix}")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give a file name that ends in {suffix}")
    try:
        with media.atomic_path(path) as temporary:
            temporary.touch()
            raise _ProbeError
    except _ProbeError:
        pass
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; give another --output") from error


class _ProbeError(Exception):
    """Ends the trial write of :func:`check_writable`, which then leaves nothing."""


def render_picture(
    bundle: Path,
    output: Path,
    *,
    azimuth: float,
    elevation: float,
    expression: str,
    head: tuple[float, float, float],
    size: int,
    transparent: bool,
    device: str,
) -> None:
    """Render one picture.

    Args:
        bundle: avatar bundle.
        output: PNG file.
        azimuth: camera azimuth in degrees.
        elevation: camera elevation in degrees.
        expression: ARKit weights as text.
        head: head yaw, pitch, roll in degrees.
        size: side in pixels.
        transparent: leave the background out.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    weights = coefficients(parse_expression(expression)).numpy()[None]
    check_writable(output, ".png")
    player = open_player(bundle, device)
    neck = Motion(weights, np.asarray([head], np.float32), 25.0, "render").neck()
    background = None if transparent else (1.0, 1.0, 1.0)
    media.write_png(output, player.render(weights, azimuth, elevation, size, background, neck)[0])
    Console(highlight=False, soft_wrap=True).print(f"{output}")


def animate_video(
    bundle: Path,
    motion: str,
    output: Path,
    *,
    azimuth: float,
    elevation: float,
    size: int,
    fps: float | None,
    device: str,
) -> None:
    """Drive an avatar with a motion.

    Args:
        bundle: avatar bundle.
        motion: file or shipped name, as :func:`zero1toa.motion.drivers.load_driver`.
        output: MP4 file.
        azimuth: camera azimuth in degrees.
        elevation: camera elevation in degrees.
        size: side in pixels.
        fps: frames per second, or None for the motion's own.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    console = Console(highlight=False, soft_wrap=True)
    if is_video(motion):  # reading it takes a while: find out first whether what follows can be done
        check_writable(output, ".mp4")
        open_player(bundle, device)
        with console.status("reading the face in the video"):
            sequence = load_driver(motion, fps)
        console.print(f"{sequence.name}")
    else:
        sequence = load_driver(motion, fps)
    check_writable(output, ".mp4")
    player = open_player(bundle, device)
    started = time.perf_counter()
    if isinstance(sequence, FlameSequence):
        require_flame2020(player.head.name, motion)
        frames = player.posed_frames(sequence.params(player.identity), azimuth, elevation, size)
    else:
        frames = player.frames(sequence.coefficients, azimuth, elevation, size, neck=sequence.neck())
    shown = track(frames, "rendering", total=len(sequence), console=console, transient=True)
    media.write_video(output, shown, sequence.fps)
    rate = len(sequence) / (time.perf_counter() - started)
    console.print(f"{output}: {len(sequence)} frames, {sequence.duration:.1f} s, made at {rate:.1f} frames a second")
