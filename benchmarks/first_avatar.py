"""What making the first avatar of a portrait costs: ``python benchmarks/first_avatar.py [PHOTO]``.

Prints CPU seconds of one thread and the number of Gaussians, for several counts per triangle.
"""

from __future__ import annotations

import argparse
import time

import torch

from zero1toa.avatar.creation import create_avatar
from zero1toa.commands.photo import open_photo
from zero1toa.config import AvatarConfig, load
from zero1toa.head.registry import load_head
from zero1toa.portrait.pipeline import load_portrait

COUNTS = (1, 3, 6, 10)
REPEATS = 3


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", default="sample:astronaut")
    options = parser.parse_args()
    head = load_head("canonical")
    with open_photo(options.photo) as photo:
        portrait = load_portrait(photo, load(["preset=preview"]).portrait, head)
    torch.set_num_threads(1)
    height, width = portrait.image.shape[:2]
    print(f"portrait of {width} x {height}, {len(head.faces)} triangles")
    for count in COUNTS:
        seconds = []
        for _ in range(REPEATS):
            start = time.process_time()
            made = create_avatar(head, portrait, AvatarConfig(gaussians_per_triangle=count))
            seconds.append(time.process_time() - start)
        print(
            f"{count:2} Gaussians a triangle: {len(made.avatar):7} in all, {min(seconds):.1f} CPU seconds", flush=True
        )


if __name__ == "__main__":
    main()
