"""Upper lids of the canonical head: what is no skin of theirs goes, what is theirs stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zero1toa.avatar.features import UPPER_LASHES, distance_to_polyline
from zero1toa.avatar.initialisation import initialise
from zero1toa.avatar.lid_skin import LASHES, LidSkin
from zero1toa.config import AvatarConfig
from zero1toa.head.registry import load_head

SKIN = (0.7, 0.55, 0.45)


class _Lids:
    """A layout on the canonical head, and where its Gaussians lie when the lids are closed."""

    def __init__(self) -> None:
        head = load_head("canonical")
        neutral = head.neutral()
        avatar = initialise(head, head.vertices(neutral), AvatarConfig(gaussians_per_triangle=3))
        weights = torch.full((len(avatar), 3), 1 / 3)  # all at the middle of their triangles
        self.even = LidSkin(head, avatar.binding, weights)
        closed = head.vertices(neutral.replace(lids=torch.ones_like(neutral.lids)))
        opened = head.vertices(neutral)
        corners = head.faces[avatar.binding]
        self.down = (opened[corners].mean(1) - closed[corners].mean(1))[:, 1]
        marks = head.landmarks.positions(closed, head.faces)
        lines = [distance_to_polyline(closed[corners].mean(1), marks[list(line)]) for line in UPPER_LASHES.values()]
        self.from_lashes = torch.stack(lines).amin(0)
        self.height = closed[corners].mean(1)[:, 1] - marks[[159, 386], 1].mean()
        self.skin = torch.tensor(SKIN).expand(len(avatar), 3).clone()

    def painted(self, where: Tensor, color: tuple[float, float, float]) -> Tensor:
        result = self.skin.clone()
        result[where] = torch.tensor(color)
        return result


@pytest.fixture(scope="module")
def lids() -> _Lids:
    return _Lids()


def _away(colors: Tensor) -> Tensor:
    return (colors - torch.tensor(SKIN)).norm(dim=-1)


@pytest.mark.parametrize("color", [(0.95, 0.95, 0.95), (0.1, 0.1, 0.12)], ids=["reflection", "rim"])
def test_a_stripe_across_the_lid_goes(lids: _Lids, color: tuple[float, float, float]) -> None:
    moves = lids.down > 0.002
    stripe = moves & (lids.height > 0.004) & (lids.height < 0.006) & (lids.from_lashes > LASHES[1])
    assert stripe.sum() > 20
    result = lids.even(lids.painted(stripe, color)[None])[0]
    assert _away(result[moves]).max() < 0.1
    assert torch.equal(result[lids.down < 0.0003], lids.skin[lids.down < 0.0003])


def test_lashes_and_makeup_stay(lids: _Lids) -> None:
    lashes = lids.from_lashes < 0.9 * LASHES[0]
    result = lids.even(lids.painted(lashes, (0.1, 0.08, 0.08))[None])[0]
    assert (result[lashes] - torch.tensor([0.1, 0.08, 0.08])).abs().max() < 0.02
    # Paint on the whole lid up to the brow.
    makeup = (lids.from_lashes < 0.02) & (lids.height > -0.002)
    painted = lids.painted(makeup, (0.45, 0.3, 0.4))
    inner = makeup & (lids.from_lashes < 0.009) & (lids.down > 0.002)
    assert inner.sum() > 50
    assert (lids.even(painted[None])[0] - painted)[inner].abs().max() < 0.03


def test_a_brow_does_not_come_down(lids: _Lids) -> None:
    """A low brow lies on skin that unfolds below it."""
    brow = (lids.height > 0.011) & (lids.from_lashes < 0.03)
    assert (brow & (lids.down > 0.001)).sum() > 20
    result = lids.even(lids.painted(brow, (0.12, 0.08, 0.06))[None])[0]
    low = (lids.down > 0.002) & (lids.height < 0.012)
    assert _away(result[low]).max() < 0.15
    still = brow & (lids.down < 0.0003)
    assert (result[still] == torch.tensor([0.12, 0.08, 0.06])).all()


def test_portraits_do_not_mix(lids: _Lids) -> None:
    stripe = (lids.down > 0.002) & (lids.height > 0.004) & (lids.height < 0.006)
    pictures = torch.stack([lids.painted(stripe, (0.95, 0.95, 0.95)), lids.skin * 0.5, lids.skin])
    together = lids.even(pictures)
    for k, picture in enumerate(pictures):
        torch.testing.assert_close(together[k], lids.even(picture[None])[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together[2], lids.skin, atol=1e-5, rtol=0)
