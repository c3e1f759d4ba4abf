"""Which pictures may move which Gaussians."""

import pytest
import torch
from tiny import tiny_config, tiny_portrait

from zero1toa.head.registry import load_head
from zero1toa.symgen.reconstruct import PORTRAIT, Reconstruction


def _none(*_):
    raise AssertionError("nothing is fetched here")


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
        assert trainer._share(PORTRAIT, [0])[clear].min() > 0.98
    else:
        assert (share[clear] > 0.9).sum() > 100
    assert torch.isfinite(share).all()
