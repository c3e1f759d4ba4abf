"""Avatars beside exact pictures of the same synthetic person, for the benchmarks that ask what brings them closer.

The person is photographed, and their avatar rendered in expressions and from cameras that the photo does not show. The
pipeline chooses its own scale and place for the head, so the avatar's picture is first laid on the true one by the
similarity of their landmarks. Two figures: where either covers a pixel, and where both do. The first counts the
outline, which bound Gaussians hardly change; the second the colours.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.transform import SimilarityTransform, warp
from torch import Tensor

from zero1toa.config import PortraitConfig
from zero1toa.evaluation.image_metrics import psnr, ssim
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.evaluation.synthetic import SyntheticSubject
from zero1toa.head.arkit import coefficients
from zero1toa.head.protocol import HeadModel
from zero1toa.media import write_png
from zero1toa.portrait.keeping import keep_portrait, kept_portrait
from zero1toa.portrait.pipeline import load_portrait
from zero1toa.render.cameras import project
from zero1toa.storage import Storage
from zero1toa.types import Portrait

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
GROUPS = tuple(dict.fromkeys(group for group, _, _ in VIEWS))

Score = tuple[float, float, float, float]
"""PSNR and SSIM where either picture shows something, and where both do."""


@dataclasses.dataclass(frozen=True)
class ExactView:
    """What a person really looks like.

    Attributes:
        group: kind of view, one of :data:`GROUPS`.
        arkit: ARKit coefficients ``[1, 52]``.
        viewmat: OpenCV world-to-camera ``[1, 4, 4]`` in metres.
        K: intrinsics in pixels ``[1, 3, 3]``.
        picture: on white ``[S, S, 3]`` in [0, 1].
        alpha: ``[S, S]`` in [0, 1].
        landmarks: the first 468 of MediaPipe's, in pixels ``[468, 2]``.
    """

    group: str
    arkit: Tensor
    viewmat: Tensor
    K: Tensor
    picture: NDArray[np.float64]
    alpha: NDArray[np.float32]
    landmarks: NDArray[np.float32]


def portrait_of(subject: SyntheticSubject, folder: Path, config: PortraitConfig, head: HeadModel) -> Portrait:
    """Photograph a person and fit the head, or read the portrait that an earlier call left in the folder.

    The fit needs MediaPipe; what it leaves does not, so that a folder can be taken to a machine without it.
    """
    photo, kept = folder / f"{subject.name}.png", Storage(folder / subject.name)
    portrait = kept_portrait(kept)
    if portrait is None:
        write_png(photo, subject.portrait(512))
        portrait = load_portrait(photo, config, head)
        keep_portrait(kept, portrait)
    return portrait


def exact_views(subject: SyntheticSubject, player: AvatarPlayer, size: int) -> list[ExactView]:
    """Render a person in all views, by the cameras that frame an avatar of theirs.

    Args:
        subject: the person.
        player: any avatar of theirs; others are compared with the same pictures.
        size: side of the pictures.
    """
    views = []
    for group, azimuth, expression in VIEWS:
        arkit = coefficients(expression)[None]
        viewmat, K = (tensor.cpu() for tensor in player.cameras(azimuth, 0.0, size, 1))
        picture, alpha = subject.render(arkit, viewmat, K, size)
        marks = project(subject.landmarks(arkit), viewmat, K)[0][0, :468].numpy()
        views.append(
            ExactView(group, arkit, viewmat, K, picture[0].numpy().astype(np.float64), alpha[0, ..., 0].numpy(), marks)
        )
    return views


@torch.no_grad()
def compare(views: list[ExactView], player: AvatarPlayer) -> tuple[list[NDArray[np.uint8]], list[Score]]:
    """Pictures of an avatar ``[S, S, 3]``, laid on the exact ones, and their scores."""
    pictures, scores = [], []
    head = player.head
    for view in views:
        params = player.pose(view.arkit)
        viewmat, K = view.viewmat.to(player.device), view.K.to(player.device)
        marks = head.landmarks.positions(head.vertices(params.replace(offset=None)), head.faces)
        ours = project(marks, viewmat, K)[0][0, :468].cpu().numpy()
        size = len(view.alpha)
        shown, covers, _ = player.bundle.avatar.to(player.device).render(
            head.vertices(params), viewmat[None], K[None], size, (0.0, 0.0, 0.0)
        )
        premultiplied = torch.cat([shown, covers], -1)[0, 0].cpu().numpy().astype(np.float64)
        # skimage asks for the way back, from the true picture's pixels (centres at whole numbers) to the avatar's.
        moved = warp(premultiplied, _similarity(view.landmarks - 0.5, ours - 0.5), order=1)
        picture = np.clip(moved[..., :3] + 1.0 - moved[..., 3:], 0.0, 1.0)
        both = np.stack([moved[..., 3], view.alpha])
        masks = (both.max(0) > 0.5, both.min(0) > 0.95)
        measures = [measure(picture, view.picture, mask) for mask in masks for measure in (psnr, ssim)]
        scores.append((measures[0], measures[1], measures[2], measures[3]))
        pictures.append(to_bytes(picture))
    return pictures, scores


def to_bytes(picture: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A picture in [0, 1] as uint8."""
    return (picture * 255).round().astype(np.uint8)


def _similarity(source: NDArray[np.float32], target: NDArray[np.float32]) -> SimilarityTransform:
    """Least-squares turn, scale and shift from points ``[P, 2]`` to points: w = a z + b over complex numbers."""
    z, w = (points[:, 0] + 1j * points[:, 1] for points in (source.astype(np.float64), target.astype(np.float64)))
    a, b = np.linalg.lstsq(np.stack([z, np.ones_like(z)], axis=1), w, rcond=None)[0]
    return SimilarityTransform(matrix=np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0.0, 0.0, 1.0]]))
