"""Does it hold for other portraits? ``python benchmarks/portraits.py --output portraits``.

Photographs that installed packages carry, a photograph filtered into a drawing, drawn faces and held-out synthetic
people run through the preset, or photos of your own (``--photos a.jpg b.jpg``), and each avatar is measured as
``zero1toa evaluate`` does. Prints a table and which promises were not kept, and writes ``portraits.png``: portrait, its
own view, sides, open mouth, closed eyes. Runs can be continued.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from zero1toa import media
from zero1toa.avatar.bundle import read_bundle
from zero1toa.commands.evaluate import checks_of
from zero1toa.config import load
from zero1toa.evaluation.control import control_of
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.evaluation.portrait_view import measure_portrait
from zero1toa.evaluation.synthetic import held_out_subject
from zero1toa.head.arkit import coefficients
from zero1toa.head.registry import load_head
from zero1toa.head.sculpt.drawing import draw, random_face
from zero1toa.portrait.pipeline import load_portrait
from zero1toa.symgen.loop import generate_serial

TILE = 320
AZIMUTHS = (-60.0, -30.0, 30.0, 60.0)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of photos, runs and pictures")
    parser.add_argument("--only", nargs="+", help="names of portraits")
    parser.add_argument("--photos", nargs="+", type=Path, help="image files in the place of the usual portraits")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = load(["preset=preview", *options.overrides])
    head = load_head("canonical")
    rows = []
    given = ((path.stem, path) for path in options.photos) if options.photos else usual(options.output)
    for name, photo in given:
        if options.only and name not in options.only:
            continue
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        portrait = load_portrait(photo, config.portrait, head)
        result = generate_serial(portrait, config, folder / "run", head=head)
        player = AvatarPlayer(read_bundle(result.bundle, head), head)
        likeness, control = measure_portrait(player), control_of(player)
        missed = [promise for promise, kept in checks_of(likeness, control).items() if not kept]
        print(
            f"{name:<12} {likeness.psnr:5.2f} dB  SSIM {likeness.ssim:.3f}  outline {likeness.iou:.3f}  "
            f"jaw {control.jaw_open:+.2f}  blink {control.blink_left:.2f} {control.blink_right:.2f}  "
            f"wink {control.wink_left:.2f} {control.wink_right:.2f}  "
            f"yaw {' '.join(f'{seen:+.0f}' for seen in control.yaw.values())}  fit {portrait.residual:.2%}  "
            f"{12 - len(missed)} of 12{'; not kept: ' + '; '.join(missed) if missed else ''}",
            flush=True,
        )
        rows.append(pictures(player, portrait.image))
        media.write_png(options.output / "portraits.png", np.concatenate(rows))


def usual(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names of the usual portraits, and where their pictures are written below ``folder``."""
    for name, picture in _pictures():
        path = folder / name / "photo.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        media.write_png(path, picture)
        yield name, path


def _pictures() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and pictures ``[H, W, 3]`` uint8."""
    from skimage import data

    astronaut = Image.fromarray(data.astronaut())
    yield "astronaut", np.asarray(astronaut)
    try:
        from matplotlib import cbook
    except ImportError:
        print("hopper: left out, because matplotlib, which carries the photo, is not installed")
    else:
        yield "hopper", np.asarray(Image.open(cbook.get_sample_data("grace_hopper.jpg")).convert("RGB"))
    yield "filtered", _drawing_of(astronaut)
    generator = np.random.default_rng(3)
    for index in range(2):
        yield f"drawn-{index}", draw(random_face(generator))
    for index in range(4):
        subject = held_out_subject(index)
        yield subject.name, subject.portrait(512)


def _drawing_of(photo: Image.Image) -> NDArray[np.uint8]:
    """A photo with flat colours and dark contours."""
    flat = np.asarray(ImageOps.posterize(photo.filter(ImageFilter.ModeFilter(7)), 4), np.float32)
    edges = ImageOps.invert(photo.convert("L").filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.FIND_EDGES))
    lines = edges.point(lambda value: 255 if value > 215 else 60).filter(ImageFilter.GaussianBlur(0.7))
    return (flat * (np.asarray(lines, np.float32) / 255)[..., None]).astype(np.uint8)


def pictures(player: AvatarPlayer, portrait: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One row of tiles ``[S, 8 S, 3]`` uint8."""
    rest, mouth = coefficients({}).numpy(), coefficients({"jawOpen": 0.8}).numpy()
    shut = coefficients({"eyeBlinkLeft": 1, "eyeBlinkRight": 1}).numpy()
    shown = Image.fromarray(portrait).resize((TILE, TILE), Image.Resampling.BOX)
    tiles = [media.over(np.asarray(shown)), player.portrait_view(TILE)]
    tiles += [player.render(rest[None], azimuth=azimuth, size=TILE)[0] for azimuth in AZIMUTHS]
    tiles += [player.render(pose[None], size=TILE)[0] for pose in (mouth, shut)]
    return np.concatenate(tiles, axis=1)


if __name__ == "__main__":
    main()
