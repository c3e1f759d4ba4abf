"""Texture for the hair that a portrait does not show: the back of a head.

Colours spread over it from the hair that is seen (:mod:`zero1toa.avatar.surface_fill`), but evenly, so that it would
look like a cap. At the limit of what is seen the detail of the seen hair, which is its brightness over a blurred copy
of itself, is reflected, so that no seam shows; it gives way to strands that run from the crown downwards, with the seen
hair's contrast. The map on which this happens holds directions from the middle of the skull.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from zero1toa.avatar.hair_strands import crown_of, strands_at

AZIMUTHS = 160
"""Columns of the map, all around; 2.25 degrees each, 4 mm on a head."""
POLAR = 72
"""Rows from the crown down to the nape."""
LOWEST = 2.4
"""Angle of the last row from straight up, radians."""
BLUR = 9.0
"""Standard deviation in cells beyond which brightness is no detail but light: four centimetres."""
FILL = 0.7
"""The same of the blur that fills the cells between Gaussians."""
CLEAR = 0.5
"""Confidence from which a cell shows hair."""
NARROWEST = 12
"""Cells that a row must show beside each other to be reflected; other rows take the nearest one that does."""
STRONGEST = 0.9
"""Largest logarithm of brightness that is taken for detail."""
KEPT = 8.0
"""Cells beyond what is seen over which reflected detail gives way to strands."""
STRANDS = 0.5
"""Contrast of strands over the seen hair's."""


class HairTexture:
    """Detail of seen hair on a layout of Gaussians, any number of pictures at once.

    Args:
        points: the Gaussians on the neutral head ``[N, 3]``, metres.
        on_scalp: which of them are hair ``[N]`` bool.
    """

    def __init__(self, points: Tensor, on_scalp: Tensor) -> None:
        self.on_scalp = on_scalp
        hair = points[on_scalp]
        self.row = self.column = hair.new_zeros(0)
        if not len(hair):
            return
        low, high = hair.amin(0), hair.amax(0)
        middle = torch.stack([hair.new_zeros(()), low[1] + 0.55 * (high[1] - low[1]), (low[2] + high[2]) / 2])
        x, y, z = (hair - middle).unbind(-1)
        # Column 0 looks forward; columns to either side are mirror images of each other.
        self.column = torch.atan2(x, z) / (2 * math.pi) * AZIMUTHS
        self.row = (torch.atan2(torch.hypot(x, z), y) / LOWEST * POLAR - 0.5).clamp(0, POLAR - 1)
        self.strands = strands_at(hair, crown_of(hair))

    def __call__(self, colors: Tensor, confidence: Tensor) -> Tensor:
        """Brightness of the unseen hair's strands.

        Args:
            colors: what is known of the Gaussians ``[I, N, 3]`` sRGB.
            confidence: how well ``[I, N]``, 0 to 1.

        Returns:
            Factors ``[I, N]`` on the colours of hair that is not seen, about 1; 1 beside the scalp.
        """
        result = torch.ones_like(confidence)
        if len(self.row):
            seen = confidence[:, self.on_scalp]
            brightness = colors[:, self.on_scalp].mean(-1).clamp_min(0.02).log()
            details = [self._detail(b, c) for b, c in zip(brightness, seen, strict=True)]
            result[:, self.on_scalp] = torch.stack(details).exp()
        return result

    def _detail(self, brightness: Tensor, seen: Tensor) -> Tensor:
        """Logarithm of one picture's factors at the Gaussians on the scalp ``[M]``."""
        cell = self.row.round().long() * AZIMUTHS + self.column.round().long() % AZIMUTHS
        weight = seen.new_zeros(POLAR * AZIMUTHS).index_add(0, cell, seen)
        total = seen.new_zeros(POLAR * AZIMUTHS).index_add(0, cell, seen * brightness)
        count = seen.new_zeros(POLAR * AZIMUTHS).index_add(0, cell, torch.ones_like(seen))
        weight, total, count = (v.view(POLAR, AZIMUTHS) for v in (weight, total, count))
        near, around = (_blurred(total, s) / _blurred(weight, s).clamp_min(1e-6) for s in (FILL, BLUR))
        clear = _blurred(weight, FILL) > CLEAR * _blurred(count, FILL).clamp_min(1e-3)
        detail = torch.where(clear, near - around, 0.0).clamp(-STRONGEST, STRONGEST)
        contrast = ((detail**2).sum() / clear.sum().clamp_min(1)).sqrt()
        reflected, share = (self._look_up(m) for m in _reflected(detail, clear))
        return torch.lerp(STRANDS * contrast * self.strands, reflected, share)

    def _look_up(self, detail: Tensor) -> Tensor:
        """The map's values at the Gaussians on the scalp, bilinearly ``[M]``."""
        row, column = self.row.floor().long(), self.column.floor().long()
        down, right = self.row - row, self.column - column
        below = (row + 1).clamp(max=POLAR - 1)
        result = torch.zeros_like(down)
        for rows, share in ((row, 1 - down), (below, down)):
            left, beyond = detail[rows, column % AZIMUTHS], detail[rows, (column + 1) % AZIMUTHS]
            result = result + share * torch.lerp(left, beyond, right)
        return result


def _reflected(detail: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
    """A map whose rows go on where they are not clear, by reflecting what is, separately on both sides; and how much
    it is worth there, 0 to 1.
    """
    half = AZIMUTHS // 2
    device = detail.device
    result, share = torch.zeros_like(detail), torch.zeros_like(detail)
    for side in (1, -1):
        columns = torch.arange(half + 1, device=device) * side % AZIMUTHS
        values, known = detail[:, columns], clear[:, columns].cpu().numpy()
        first, last = _longest_runs(known)
        good = last - first >= NARROWEST
        if not good.any():
            continue
        source = _nearest_rows(good)
        place = np.arange(half + 1)[None]
        begin, width = first[source][:, None], (last - first)[source][:, None] - 1
        phase = np.mod(place - begin, 2 * width)
        mirrored = begin + np.where(phase > width, 2 * width - phase, phase)
        taken = values[torch.from_numpy(source).to(device)[:, None], torch.from_numpy(mirrored).to(device)]
        beyond = np.maximum(place - begin - width, 0) + np.abs(source - np.arange(POLAR))[:, None]
        result[:, columns] = taken
        share[:, columns] = torch.from_numpy(np.exp(-beyond / KEPT)).to(share)
    return result, share


def _longest_runs(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of the longest run of each row."""
    first, last = np.zeros(len(known), np.int64), np.zeros(len(known), np.int64)
    for row, flags in enumerate(known):
        edges = np.flatnonzero(np.diff(np.r_[False, flags, False].astype(np.int8)))
        if len(edges):
            lengths = edges[1::2] - edges[::2]
            longest = int(lengths.argmax())
            first[row], last[row] = edges[2 * longest], edges[2 * longest + 1]
    return first, last


def _nearest_rows(good: np.ndarray) -> np.ndarray:
    """For each row itself where it is good, else the good row as far on the other side of the nearest one."""
    rows = np.flatnonzero(good)
    place = np.arange(len(good))
    nearest = rows[np.abs(place[:, None] - rows).argmin(1)]
    beyond = np.clip(2 * nearest - place, 0, len(good) - 1)
    return np.where(good, place, np.where(good[beyond], beyond, nearest))


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a map, around the head and up to its ends."""
    reach = math.ceil(3 * sigma)
    taps = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = torch.cat([values[:, -reach:], values, values[:, :reach]], 1)[None, None]
    across = torch.nn.functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return torch.nn.functional.conv2d(across, kernel.view(1, 1, -1, 1), padding=(reach, 0))[0, 0]
