"""Eyes, lids and mouth of a projected portrait: parts whose picture must not be copied as it is.

An iris turns and must look right from everywhere, so it is made radially symmetric; closed lids read as closed by one
dark line along their margin; a mouth's inside is hardly ever seen.
"""

from __future__ import annotations

import torch
from skimage.measure import points_in_poly
from torch import Tensor

from zero1toa.avatar.picture_sampling import smooth_step
from zero1toa.head.protocol import HeadModel

#: Landmarks of each eye (right, left): centre and rim of the iris; upper and lower lash line.
IRIS = {"right": (468, (469, 470, 471, 472)), "left": (473, (474, 475, 476, 477))}
UPPER_LASHES = {
    "right": (33, 246, 161, 160, 159, 158, 157, 173, 133),
    "left": (263, 466, 388, 387, 386, 385, 384, 398, 362),
}
_LOWER = {"right": (33, 7, 163, 144, 145, 153, 154, 155, 133), "left": (263, 249, 390, 373, 374, 380, 381, 382, 362)}

#: The seam between the lips.
LIP_SEAM = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191, 78)

BROWN = (0.30, 0.20, 0.13)
PUPIL = (0.03, 0.025, 0.025)
PUPIL_RADIUS = 0.36
"""Of the iris' radius: an eye in a lit room."""
SCLERA = (0.90, 0.87, 0.85)
CAVITY = (0.30, 0.085, 0.08)
TONGUE = (0.66, 0.34, 0.33)
LASH_SHADE = 0.18
"""Brightness of a lash line over what a picture shows there, which is mixed with skin and white of the eye."""
LOWER_LASHES = 0.25
"""Strength of the lower lash line."""
LOWER_WIDTH = 0.001
"""Metres of it; the lower lid's line does not make closed eyes, and its margin is pale."""
LASH_WIDTH = 0.0023
"""Metres; closed eyes read as closed, to people and to landmark detectors, by one clear dark line."""
WHITE_REACH = 0.003
"""Metres from the lower margin within which a picture may show the white of the eye instead of the lid."""
_LIP_EDGE = (0.0008, 0.003)  # metres from the lips' seam up to which it may show teeth
_LASH_TAPER = 0.004  # metres from the corners of the eye
_CLEAR_OF_LIDS = (0.0003, 0.0012)  # metres from the lids' margins on the eyeball: lashes and their shadow reach so far
_RINGS = 9


class FeaturePainter:
    """Colours of eyeballs, lids and lips' seams; prepared once for a layout of Gaussians."""

    def __init__(self, head: HeadModel, binding: Tensor, weights: Tensor) -> None:
        """Measure where each Gaussian lies on the features of the mean head.

        Args:
            head: head model.
            binding: triangle of each Gaussian ``[N]``.
            weights: its barycentric coordinates there ``[N, 3]``.
        """
        marks, points = with_lids(head, binding, weights, 0.0)
        # Open lids are folded to a fraction of their height; closed ones show how far a point lies from the lashes.
        closed_marks, closed = with_lids(head, binding, weights, 1.0)
        self.eyeball = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        self.radius = torch.full((len(points),), torch.inf, device=points.device)
        self.height = torch.zeros(len(points), device=points.device)
        self.inner = torch.zeros_like(self.eyeball)  # of the lids, what faces the eyeball
        self.of_eye: list[Tensor] = []  # the lids of each eye
        self.balls: dict[str, Tensor] = {}
        lips = head.regions["lips"][binding]
        self.seam = torch.full_like(self.radius, torch.inf)
        self.seam[lips] = distance_to_polyline(points[lips], marks[list(LIP_SEAM)])
        self.upper = torch.full_like(self.radius, torch.inf)
        self.lower = torch.full_like(self.radius, torch.inf)
        for side, (centre, rim) in IRIS.items():
            eye = head.regions[f"eye_{side}"][binding]
            radius = (marks[list(rim)] - marks[centre]).norm(dim=-1).mean()
            relative = (points - marks[centre]) / radius
            self.eyeball |= eye
            self.balls[side] = eye.nonzero().squeeze(1)
            self.radius = torch.where(eye, relative.norm(dim=-1), self.radius)
            self.height = torch.where(eye, relative[:, 1], self.height)
            lids = head.regions[f"lids_{side}"][binding]
            # The inner side of a lid lies behind the eye's opening, where a picture shows the eyeball.
            opening = torch.cat([marks[list(UPPER_LASHES[side])], marks[list(_LOWER[side])].flip(0)])
            within = points_in_poly(points[lids, :2].cpu().numpy(), opening[:, :2].cpu().numpy())
            self.inner[lids] = torch.from_numpy(within).to(self.inner.device)
            self.of_eye.append(lids)
            upper, lower = (
                distance_to_polyline(points[lids], marks[list(line[side])]) for line in (UPPER_LASHES, _LOWER)
            )
            margin = distance_to_polyline(closed[lids], closed_marks[list(UPPER_LASHES[side])])
            # Lashes thin out towards the corners of the eye.
            corners = closed_marks[[UPPER_LASHES[side][0], UPPER_LASHES[side][-1]]]
            margin = margin + LASH_WIDTH * smooth_step(1 - torch.cdist(closed[lids], corners).amin(1) / _LASH_TAPER)
            self.upper[lids] = torch.where(upper < lower, margin, torch.inf)
            self.lower[lids] = torch.where(upper < lower, torch.inf, margin)

    def clear_of_lids(self, points: Tensor, marks: Tensor) -> Tensor:
        """How far a picture tells the colours of eyeballs, not of lashes and their shadow ``[I, N]``.

        Args:
            points: Gaussians of the posed heads ``[I, N, 3]``, metres.
            marks: their landmarks ``[I, 478, 3]``, metres.

        Returns:
            0 to 1; 0 beside eyeballs.
        """
        low, high = _CLEAR_OF_LIDS
        result = points.new_zeros(points.shape[:2])
        for side, ball in self.balls.items():
            upper, lower = (
                distance_to_polyline(points[:, ball], marks[:, list(line[side])]) for line in (UPPER_LASHES, _LOWER)
            )
            result[:, ball] = smooth_step((torch.minimum(upper, lower) - low) / (high - low))
        return result

    def eyeballs(self, colors: Tensor, confidence: Tensor, light: Tensor, clear: Tensor) -> Tensor:
        """Colours of all Gaussians ``[I, N, 3]``, meaningful on the eyeballs.

        What lies open in the picture is copied, with its highlights; what lids cover there is painted.

        Args:
            colors: sampled ``[I, N, 3]``.
            confidence: of the samples ``[I, N]``.
            light: brightness of the picture ``[I, 1, 1]``, about 1.
            clear: from :meth:`clear_of_lids`.
        """
        ones = colors.new_ones(3)
        on_iris = self.eyeball & (self.radius < 1)
        # The upper lid's shadow and lashes lie on the upper half; the lower one shows the colour better.
        weight = confidence * on_iris * (self.radius > PUPIL_RADIUS) * (0.25 + 0.75 * (self.height < 0.15))
        brown = colors.new_tensor(BROWN) * light
        mean = _weighted_mean(colors, weight, brown, 0.5)
        luminance = colors.mean(-1)
        # What is brighter than the iris as a whole is the lamp's reflection or white of the eye.
        weight = weight * (luminance < mean.mean(-1) + 0.12)
        mean = _weighted_mean(colors, weight, mean, 0.5)
        rings = torch.linspace(0, 1, _RINGS, device=colors.device)
        share = (1 - (self.radius.clamp_max(2)[:, None] - rings).abs() * (_RINGS - 1)).clamp_min(0)
        ring_weight = weight[..., None] * share  # [I, N, R]
        total = ring_weight.sum(1)[..., None] + 4.0
        profile = (torch.einsum("inr,inc->irc", ring_weight, colors) + 4.0 * mean) / total
        iris = torch.einsum("nr,irc->inc", share, profile) / share.sum(-1).clamp_min(1e-6)[:, None]
        # A darker ring bounds every iris; the picture's is mixed with white.
        iris = iris * (1 - 0.45 * smooth_step((self.radius - 0.72) / 0.25))[:, None]
        pupil = smooth_step((PUPIL_RADIUS + 0.06 - self.radius) / 0.12)[:, None]
        iris = iris + pupil * (colors.new_tensor(PUPIL) - iris)

        white = colors.new_tensor(SCLERA) * light
        seen = confidence * (self.eyeball & (self.radius > 1.15)) * luminance.clamp_min(0) ** 4
        sclera = _weighted_mean(colors, seen, white, 2.0)
        sclera = 0.6 * sclera + 0.4 * white
        # Corners are redder and darker, and the upper lid throws a shadow.
        corner = smooth_step((self.radius.clamp_max(9) - 1.3) / 1.6)[:, None]
        sclera = sclera * (ones - corner * colors.new_tensor([0.22, 0.30, 0.30]))
        shade = (1 - 0.28 * smooth_step((self.height - 0.35) / 0.8))[:, None]
        edge = smooth_step((self.radius - 0.97) / 0.1)[:, None]
        painted = shade * (iris + edge * (sclera - iris))
        return painted + (confidence * clear)[..., None] * (colors - painted)

    def margin_confidence(self) -> Tensor:
        """Factor on the samples' confidence ``[N]``: behind an eye's opening a picture shows the eyeball instead of the
        lids' inner sides, and near the lips' seam teeth and the dark of the mouth.
        """
        low, high = _LIP_EDGE
        return smooth_step((self.seam - low) / (high - low)) * ~self.inner

    def lashes(self, colors: Tensor, sampled: Tensor, seen: Tensor) -> Tensor:
        """Darken the lids along their lashes, the upper one more: closed eyes read as closed by their lash line.

        Between it and the eyeball, lids look as the picture shows them.

        Args:
            colors: of all Gaussians ``[I, N, 3]``.
            sampled: the picture's ``[I, N, 3]``, which shows how dark this person's lashes are.
            seen: how well it shows them ``[I, N]``.
        """
        for lids in self.of_eye:
            skin = colors[:, lids].mean(1, keepdim=True)
            # Detectors put the lower margin on the white of the eye as often as below it.
            white = torch.exp(-((self.lower / WHITE_REACH) ** 2)) * lids * _whiter(sampled, skin)
            colors = colors + white[..., None] * (skin - colors)
            lower = LOWER_LASHES * torch.exp(-((self.lower / LOWER_WIDTH) ** 2))
            upper = torch.exp(-((self.upper / LASH_WIDTH) ** 2))
            for amount in (lower * lids, upper * lids):
                skin = colors[:, lids].mean(1, keepdim=True)
                shown = _weighted_mean(sampled, seen * amount, LASH_SHADE * skin, 1.0)
                line = torch.minimum(shown, skin) * LASH_SHADE
                colors = colors + amount[:, None] * (line - colors)
        # A margin as dark as the lashes would take a millimetre of the open eye, which closed lids hide.
        return torch.lerp(colors, sampled, (seen * self.inner)[..., None])


def with_lids(head: HeadModel, binding: Tensor, weights: Tensor, closed: float) -> tuple[Tensor, Tensor]:
    """Landmarks ``[478, 3]`` and Gaussians ``[N, 3]`` of the mean head, metres, with its lids closed by 0 to 1.

    Args:
        head: head model.
        binding: triangle of each Gaussian ``[N]``.
        weights: its barycentric coordinates there ``[N, 3]``.
        closed: both lids' value.
    """
    neutral = head.neutral()
    vertices = head.vertices(neutral.replace(lids=torch.full_like(neutral.lids, closed)))
    return head.landmarks.positions(vertices, head.faces), (vertices[head.faces[binding]] * weights[..., None]).sum(-2)


def _whiter(colors: Tensor, skin: Tensor) -> Tensor:
    """How far colours ``[I, N, 3]`` are an eye's white and not ``skin`` ``[I, 1, 3]``, 0 to 1 ``[I, N]``."""
    bright = colors.mean(-1) / skin.mean(-1).clamp_min(0.05)
    saturation = (colors.amax(-1) - colors.amin(-1)) / (skin.amax(-1) - skin.amin(-1) + 0.02)
    return smooth_step((bright - 0.95) / 0.1) * smooth_step((0.8 - saturation) / 0.25)


def _weighted_mean(colors: Tensor, weight: Tensor, prior: Tensor, prior_weight: float) -> Tensor:
    """``[I, 1, 3]``; the prior counts as ``prior_weight`` samples."""
    total = (weight[..., None] * colors).sum(1, keepdim=True) + prior_weight * prior
    return total / (weight.sum(1)[:, None, None] + prior_weight)


def distance_to_polyline(points: Tensor, line: Tensor) -> Tensor:
    """Distances ``[..., P]`` of points ``[..., P, 3]`` to chains of points ``[..., L, 3]``."""
    start, step = line[..., None, :-1, :], (line[..., 1:, :] - line[..., :-1, :])[..., None, :, :]
    relative = points[..., None, :] - start
    along = ((relative * step).sum(-1) / (step**2).sum(-1).clamp_min(1e-12)).clamp(0, 1)
    return (relative - along[..., None] * step).norm(dim=-1).amin(-1)
