"""Does refinement bring avatars closer to the truth? ``python benchmarks/refinement.py --subjects 2``.

Held-out synthetic people are photographed, and the whole pipeline runs twice on each photo: with diffusion and
without, all else equal. Both avatars are then compared with exact pictures of the same person, see
``exact_pictures.py``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from exact_pictures import VIEWS, Score, compare, exact_views, portrait_of, to_bytes

from zero1toa.avatar.bundle import read_bundle
from zero1toa.config import load
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.evaluation.synthetic import held_out_subject
from zero1toa.head.registry import load_head
from zero1toa.media import write_png, write_text
from zero1toa.symgen.loop import generate_serial

Scores = dict[str, dict[str, list[Score]]]
"""By refinement (off, on) and group of views."""


def main() -> None:
    """Run both pipelines on every subject and print PSNR and SSIM by group of views."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=2, help="how many held-out people")
    parser.add_argument("--first", type=int, default=0, help="index of the first")
    parser.add_argument("--preset", default="preview")
    parser.add_argument("--size", type=int, default=256, help="side of the compared pictures")
    parser.add_argument("--output", type=Path, default=Path("refinement"), help="folder of the runs; they can continue")
    parser.add_argument("overrides", nargs="*", help="key=value configuration overrides for both runs")
    options = parser.parse_args()
    head = load_head("canonical")
    scores: Scores = {"off": {}, "on": {}}
    for index in range(options.first, options.first + options.subjects):
        subject = held_out_subject(index, head)
        folder = options.output / subject.name
        rows: list[np.ndarray] = []
        for label, enabled in (("off", "false"), ("on", "true")):
            given = [f"preset={options.preset}", *options.overrides, f"diffusion.enabled={enabled}"]
            config = load(given)
            portrait = portrait_of(subject, folder, config.portrait, head)
            result = generate_serial(portrait, config, folder / label, head=head)
            player = AvatarPlayer(read_bundle(result.bundle, head), head)
            if not rows:
                views = exact_views(subject, player, options.size)
                rows.append(np.concatenate([to_bytes(view.picture) for view in views], 1))
            pictures, found = compare(views, player)
            rows.append(np.concatenate(pictures, 1))
            for (group, _, _), score in zip(VIEWS, found, strict=True):
                scores[label].setdefault(group, []).append(score)
            either, _, both, _ = np.mean(found, axis=0)
            print(f"{subject.name} {label}: {either:.2f} dB where either covers, {both:.2f} dB where both do, "
                  f"{result.refined} clips updated, {result.seconds:.0f} s", flush=True)  # fmt: skip
        write_png(folder / "compared.png", np.concatenate(rows))
    report(scores)
    summary = json.dumps({"views": [v[:2] for v in VIEWS], "psnr_ssim": scores}, indent=1)
    write_text(options.output / "scores.json", summary)


def report(scores: Scores) -> None:
    """Print the means by group and how often refinement won."""
    by_group = {label: {**groups, "all": [score for group in groups.values() for score in group]}
                for label, groups in scores.items()}  # fmt: skip
    for first, title in ((0, "either covers"), (2, "both cover")):
        print(f"{title:18s} {'off':>8s} {'on':>8s} {'gain':>7s} {'wins':>6s}   SSIM off  on")
        for group in by_group["off"]:
            off, on = (np.array(by_group[label][group])[:, first : first + 2] for label in ("off", "on"))
            gain = on[:, 0] - off[:, 0]
            print(f"{group:18s} {off[:, 0].mean():8.2f} {on[:, 0].mean():8.2f} {gain.mean():+7.2f} "
                  f"{(gain > 0).mean():6.0%}   {off[:, 1].mean():.3f}  {on[:, 1].mean():.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
