"""``python -m zero1toa.evaluation.synthetic --preview out.png --count 6``: look at synthetic clips."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from zero1toa.evaluation.synthetic.clips import SyntheticClips
from zero1toa.evaluation.synthetic.preview import contact_sheet, masked_psnr
from zero1toa.head.registry import load_head


def main() -> None:
    """Write a contact sheet and print how bad the degraded clips are."""
    parser = argparse.ArgumentParser(prog="python -m zero1toa.evaluation.synthetic", description=__doc__)
    parser.add_argument("--preview", type=Path, required=True, help="picture to write")
    parser.add_argument("--count", type=int, default=6, help="clips")
    parser.add_argument("--frames", type=int, default=4, help="frames of a clip")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels, a multiple of 8")
    parser.add_argument("--seed", type=int, default=0, help="seed of the people; 1000000 and above are held out")
    parser.add_argument("--head", default="canonical", help="head model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--blobs", action="store_true", help="the kind of damage that training never sees")
    options = parser.parse_args()
    detail = 0 if options.size <= 160 else 1
    clips = SyntheticClips(load_head(options.head), options.seed, options.device, detail, blobs=options.blobs)
    generator = torch.Generator().manual_seed(options.seed)
    batch = clips.sample(generator, options.count, options.frames, options.size)
    temporary = options.preview.with_name(f".{options.preview.name}.part")
    contact_sheet(batch).save(temporary, format="PNG")
    os.replace(temporary, options.preview)
    print(f"{options.preview}: {options.count} clips, degraded {float(masked_psnr(batch).mean()):.1f} dB on average")


if __name__ == "__main__":
    main()
