"""Does refinement bring avatars closer to the truth? ``python benchmarks/refinement.py --subjects 2``.

Held-out synthetic people are photographed, and the whole pipeline runs twice on each photo: with diffusion and
without, all else equal. Both avatars are then rendered in expressions and from cameras that the photo does not show,
and compared with exact pictures of the same person. The pipeline chooses its own scale and place for the head, so the
avatar's picture is first laid on the true one by the similarity of their landmarks. Two figures: where either covers a
pixel, and where both do. The first counts the outline, which bound Gaussians hardly change; the second the colours.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.transform import SimilarityTransform, warp

from zero1toa.avatar.bundle import read_bundle
from zero1toa.config import load
from zero1toa.evaluation.image_metrics import psnr, ssim
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.evaluation.synthetic import SyntheticSubject, held_out_subject
from zero1toa.head.arkit import coefficients
from zero1toa.head.protocol import HeadModel
from zero1toa.head.registry import load_head
from zero1toa.portrait.pipeline import load_portrait
from zero1toa.render.cameras import project
from zero1toa.symgen.loop import generate_serial

_SMILE = {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4}
VIEWS: tuple[tuple[str, float, dict[str, float]], ...] = (
    ("front", 0.0, {}),
    ("side", 45.0, {}),
    ("side", -45.0, {}),
    ("expression", 0.0, _SMILE),
    ("expression", 0.0, {"jawOpen": 0.8}),
    ("expression", 0.0, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}),
    ("expression", 0.0, {"mouthPucker": 0.8}),
    ("side, expression", 35.0, {"jawOpen": 0.6}),
    ("side, expression", -35.0, _SMILE),
)

Score = tuple[float, float, float, float]
"""PSNR and SSIM where either picture shows something, and where both do."""
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
        folder.mkdir(parents=True, exist_ok=True)
        photo = folder / "photo.png"
        _save(Image.fromarray(subject.portrait(512)), photo)
        rows: list[list[NDArray[np.uint8]]] = []
        for label, enabled in (("off", "false"), ("on", "true")):
            given = [f"preset={options.preset}", *options.overrides, f"diffusion.enabled={enabled}"]
            config = load(given)
            portrait = load_portrait(photo, config.portrait, head)
            result = generate_serial(portrait, config, folder / label, head=head)
            player = AvatarPlayer(read_bundle(result.bundle, head), head)
            truths, pictures, found = compare(subject, player, head, options.size)
            rows = [*(rows or [truths]), pictures]
            for (group, _, _), score in zip(VIEWS, found, strict=True):
                scores[label].setdefault(group, []).append(score)
            either, _, both, _ = np.mean(found, axis=0)
            print(f"{subject.name} {label}: {either:.2f} dB where either covers, {both:.2f} dB where both do, "
                  f"{result.refined} clips updated, {result.seconds:.0f} s", flush=True)  # fmt: skip
        _save(Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])), folder / "compared.png")
    report(scores)
    summary = json.dumps({"views": [v[:2] for v in VIEWS], "psnr_ssim": scores}, indent=1)
    temporary = options.output / ".scores.json.part"
    temporary.write_text(summary)
    os.replace(temporary, options.output / "scores.json")


def compare(
    subject: SyntheticSubject, player: AvatarPlayer, head: HeadModel, size: int
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], list[Score]]:
    """Pictures of a person and of their avatar in all views, and their scores."""
    truths, pictures, scores = [], [], []
    for _, azimuth, expression in VIEWS:
        arkit = coefficients(expression)[None]
        viewmats, Ks = player.cameras(azimuth, 0.0, size, 1)
        true, alpha = subject.render(arkit, viewmats, Ks, size)
        bare = player.pose(arkit).replace(offset=None)
        marks = head.landmarks.positions(head.vertices(bare), head.faces)
        ours, theirs = (
            project(points, viewmats, Ks)[0][0, :468].numpy() for points in (marks, subject.landmarks(arkit))
        )
        rgba = player.render(arkit, azimuth, 0.0, size, background=None)[0].astype(np.float64) / 255.0
        premultiplied = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
        # skimage asks for the way back, from the true picture's pixels (centres at whole numbers) to the avatar's.
        back = _similarity(theirs - 0.5, ours - 0.5)
        moved = warp(premultiplied, back, order=1)
        picture = np.clip(moved[..., :3] + 1.0 - moved[..., 3:], 0.0, 1.0)
        covers = [moved[..., 3], alpha[0, ..., 0].numpy()]
        either, both = np.maximum(*covers) > 0.5, np.minimum(*covers) > 0.95
        truth = true[0].numpy().astype(np.float64)
        measures = [measure(picture, truth, mask) for mask in (either, both) for measure in (psnr, ssim)]
        scores.append((measures[0], measures[1], measures[2], measures[3]))
        truths.append((truth * 255).round().astype(np.uint8))
        pictures.append((picture * 255).round().astype(np.uint8))
    return truths, pictures, scores


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


def _similarity(source: NDArray[np.float32], target: NDArray[np.float32]) -> SimilarityTransform:
    """Least-squares turn, scale and shift from points ``[P, 2]`` to points: w = a z + b over complex numbers."""
    z, w = (points[:, 0] + 1j * points[:, 1] for points in (source.astype(np.float64), target.astype(np.float64)))
    a, b = np.linalg.lstsq(np.stack([z, np.ones_like(z)], axis=1), w, rcond=None)[0]
    return SimilarityTransform(matrix=np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0.0, 0.0, 1.0]]))


def _save(picture: Image.Image, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    picture.save(temporary, format="PNG")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
