"""Contact sheets of synthetic clips: reference, ground truth, half-trained render, landmarks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from zero1toa.evaluation.synthetic.clips import KINDS

_LABEL = 14  # pixels above each row


def contact_sheet(batch: dict[str, Tensor], shown: int = 3) -> Image.Image:
    """One row per clip: reference with its landmarks, ``shown`` true frames, the same frames degraded, landmarks.

    Args:
        batch: what :meth:`SyntheticClips.sample` returns.
        shown: frames of each clip to show, evenly spread.
    """
    frames = batch["truth"].shape[1]
    picked = sorted({round(i) for i in np.linspace(0, frames - 1, shown)})
    rows = []
    for b in range(len(batch["truth"])):
        cells = [_pixels(batch["reference"][b])]
        cells += [_pixels(batch["truth"][b, t]) for t in picked]
        cells += [_pixels(batch["degraded"][b, t]) for t in picked]
        cells.append(_dotted(_pixels(batch["reference"][b]), batch["reference_landmarks"][b]))
        cells.append(_dotted(_pixels(batch["truth"][b, picked[-1]]), batch["landmarks"][b, picked[-1]]))
        row = Image.fromarray(np.concatenate(cells, axis=1))
        strip = Image.new("RGB", (row.width, row.height + _LABEL), "white")
        strip.paste(row, (0, _LABEL))
        kind, severity = KINDS[int(batch["kind"][b])], float(batch["severity"][b])
        text = f"{kind}   severity {severity:.2f}   {_decibels(batch, b):.1f} dB"
        ImageDraw.Draw(strip).text((4, 1), text, fill="black")
        rows.append(np.asarray(strip))
    return Image.fromarray(np.concatenate(rows, axis=0))


def masked_psnr(batch: dict[str, Tensor]) -> Tensor:
    """PSNR of the degraded clips over the head, ``[B]`` in dB."""
    mask = batch["mask"]
    error = ((batch["truth"] - batch["degraded"]).square() * mask).sum((1, 2, 3, 4)) / (3.0 * mask.sum((1, 2, 3, 4)))
    return -10.0 * torch.log10(error.clamp_min(1e-10))


def _decibels(batch: dict[str, Tensor], index: int) -> float:
    return float(masked_psnr({name: batch[name][index : index + 1] for name in ("truth", "degraded", "mask")}))


def _pixels(picture: Tensor) -> NDArray[np.uint8]:
    return (picture.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu().numpy()


def _dotted(picture: NDArray[np.uint8], landmarks: Tensor) -> NDArray[np.uint8]:
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for x, y in (landmarks.cpu().numpy() * [image.width, image.height]).tolist():
        pen.point((x, y), fill=(0, 190, 255))
    return np.asarray(image)
