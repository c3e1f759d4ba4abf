"""Which pictures may move which Gaussians."""

import pytest
import torch
from tiny import tiny_config, tiny_portrait

from zero1toa.head.registry import load_head
from zero1toa.symgen.portrait_target import PORTRAIT
from zero1toa.symgen.reconstruct import Reconstruction


def _none(*_):
    raise AssertionError("nothing is fetched here")


def _edges(trainer):
    """Lengths of each triangle's edges ``[F, 3]`` at the portrait's expression over those at rest."""
    params = trainer.params
    rest = trainer.head.neutral().replace(shape=params.shape, offset=params.offset)
    lengths = []
    for pose in (params, rest):
        corners = trainer.head.vertices(pose)[trainer.head.faces]
        lengths.append((corners - corners.roll(1, 1)).norm(dim=-1))
    return lengths[0] / lengths[1].clamp_min(1e-9)


@pytest.mark.parametrize(
    ("overrides", "portrait_tells"),
    [
        (("avatar.project_portrait=true", "loop.portrait_share=0.5"), True),
        (("avatar.project_portrait=true", "loop.portrait_share=0"), False),
        (("avatar.project_portrait=false", "loop.portrait_share=0.5"), False),
    ],
)
def test_clips_leave_alone_what_the_portrait_is_asked_for(overrides, portrait_tells):
    config = tiny_config(*overrides, "avatar.facing_only=true", "avatar.keep_margins=true")
    trainer = Reconstruction(tiny_portrait(), config, load_head("canonical"), avatar_id="a", fetch=_none)
    key = next(key for key in trainer._posed.clips if key.stage == "spatial")
    share = trainer._share(key, [0])
    assert share.shape == (len(trainer.head.faces),)
    assert 0 <= float(share.min()) <= float(share.max()) <= 1
    # The mean of cameras nearly in front: most of the face's skin is shown squarely, margins are held.
    lids = trainer.head.regions["lids_left"] | trainer.head.regions["lids_right"]
    assert not share[lids].any()
    clear = (trainer._seen > 0.99) & ~trainer._kept
    assert clear.sum() > 100
    if portrait_tells:
        assert share[clear].max() < 0.02
        own, edges = trainer._share(PORTRAIT, [0]), _edges(trainer)
        same = ((edges - 1).abs() < 1e-3).all(1)  # skin that the portrait's expression does not strain
        assert (clear & same).sum() > 100
        assert own[clear & same].min() > 0.98
        strained = ((edges < 0.79) | (edges > 1 / 0.79)).any(1)
        assert (clear & strained).any()
        assert not own[strained].any()
    else:
        assert (share[clear] > 0.9).sum() > 100
    assert torch.isfinite(share).all()
