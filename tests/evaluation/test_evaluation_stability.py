"""Flicker, on pictures whose every point is known and on avatars whose Gaussians are shaken loose."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "symgen"))

from tiny import tiny_config, tiny_portrait

from zero1toa.avatar.bundle import Bundle, fingerprint
from zero1toa.avatar.creation import create_avatar
from zero1toa.avatar.gaussians import SH_C0, GaussianAvatar
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.evaluation.stability import follow, measure_stability
from zero1toa.head.arkit import ARKIT_NAMES
from zero1toa.head.registry import load_head
from zero1toa.motion.sequence import Motion

SIZE = 32


def _sheet(shifts: list[int], turned: bool = False):
    """A flat sheet of 8 x 8 vertices at pixel centres that moves to the right by whole pixels, and its camera."""
    rows, columns = np.meshgrid(np.arange(8, 16), np.arange(8, 16), indexing="ij")
    faces = []
    for i in range(7):
        for j in range(7):
            a, b, c, d = i * 8 + j, i * 8 + j + 1, (i + 1) * 8 + j, (i + 1) * 8 + j + 1
            faces += [(a, c, b), (b, c, d)] if not turned else [(a, b, c), (b, d, c)]
    # One metre before a camera with a focal length of one picture, which looks along +z with y down.
    points = [
        np.stack([(columns + 0.5 + shift - 16) / SIZE, (rows + 0.5 - 16) / SIZE, np.ones_like(rows)], -1).reshape(-1, 3)
        for shift in shifts
    ]
    K = torch.tensor([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]])
    T = len(shifts)
    vertices = torch.tensor(np.stack(points), dtype=torch.float32)
    return vertices, torch.tensor(faces), torch.eye(4).expand(T, 4, 4), K.expand(T, 3, 3)


def _painted(shifts: list[int]) -> np.ndarray:
    paint = np.random.default_rng(1).integers(20, 200, (SIZE, SIZE, 3)).astype(np.uint8)
    return np.stack([np.roll(paint, shift, axis=1) for shift in shifts])


def test_what_moves_with_the_surface_is_still():
    shifts = [0, 3, 1, 5]
    result = follow(_painted(shifts), *_sheet(shifts))
    assert result.flicker == pytest.approx(0.0, abs=1e-2)
    assert result.points == 3 * 64
    # The same paint that stays where it is while the surface moves under it.
    assert follow(_painted([0, 0, 0, 0]), *_sheet(shifts)).flicker > 20


def test_flicker_is_in_levels():
    shifts = [0, 1, 2]
    pictures = _painted(shifts)
    pictures[1] += 12
    assert follow(pictures, *_sheet(shifts)).flicker == pytest.approx(12.0, abs=1e-2)


def test_what_is_not_seen_does_not_count():
    shifts = [0, 1]
    result = follow(_painted(shifts), *_sheet(shifts, turned=True))
    assert result.points == 0
    assert math.isnan(result.flicker)


def _player(jitter: float) -> AvatarPlayer:
    """Stripes painted on the surface, by Gaussians that lie up to some triangle sizes away from where they belong."""
    head = load_head("canonical")
    portrait = tiny_portrait()
    start = create_avatar(head, portrait, tiny_config().avatar)
    tensors = start.avatar.tensors()
    binding = tensors.pop("binding")
    rest = head.vertices(head.neutral().map(lambda tensor: tensor[None]))[0]
    middle = rest[head.faces].mean(1)[binding]
    noise = torch.randn(tensors["means"].shape, generator=torch.Generator().manual_seed(3))
    tensors["sh0"] = 0.4 * torch.sin(middle * 150) / SH_C0
    tensors["opacity_logits"] = torch.full_like(tensors["opacity_logits"], 3.0)
    tensors["means"] = tensors["means"] + jitter * noise
    avatar = GaussianAvatar(tensors, binding, start.avatar.faces)
    bundle = Bundle(avatar, start.params, head.name, fingerprint(head), portrait.viewmat, portrait.K, 48)
    return AvatarPlayer(bundle, head)


def test_loose_gaussians_flicker():
    turns = np.zeros((6, 3), np.float32)
    turns[:, 0] = np.linspace(-15, 15, 6)
    motion = Motion(np.zeros((6, len(ARKIT_NAMES)), np.float32), turns, 12.5, "turn")
    bound, loose, lost = (measure_stability(_player(jitter), motion, 128).flicker for jitter in (0.0, 1.0, 3.0))
    assert 1.5 * bound < loose
    assert 1.5 * loose < lost


def test_a_picture_alone_has_no_flicker():
    with pytest.raises(ValueError, match="between frames"):
        measure_stability(_player(0.0), frames=1)
