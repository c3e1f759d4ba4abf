"""Colours that make a picture of an avatar a given one, against columns of the drawing drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import SIZE, tiny_config, tiny_portrait

from zero1toa.avatar.gaussians import SH_C0
from zero1toa.head.registry import load_head
from zero1toa.symgen import back_projection
from zero1toa.symgen.portrait_target import PORTRAIT
from zero1toa.symgen.reconstruct import Reconstruction


def _none(*_):
    raise AssertionError("nothing is fetched here")


@pytest.fixture
def trainer() -> Reconstruction:
    """A grey avatar."""
    trainer = Reconstruction(
        tiny_portrait(), tiny_config("avatar.opacity=0.9"), load_head("canonical"), avatar_id="a", fetch=_none
    )
    with torch.no_grad():
        trainer.gaussians.sh0.zero_()
    return trainer


def _picture(trainer, values=None):
    with torch.no_grad():
        picture, alpha, _ = trainer._posed.render(trainer.gaussians, PORTRAIT, [0], values)
    return picture.double(), alpha.double()


def test_a_round_adds_the_mean_of_what_a_gaussians_pixels_lack(trainer, monkeypatch):
    monkeypatch.setattr(back_projection, "ROUNDS", 1)
    generator = torch.Generator().manual_seed(3)
    avatar = trainer.gaussians
    target = torch.rand(1, SIZE, SIZE, 3, generator=generator)
    asked = (torch.rand(1, SIZE, SIZE, 1, generator=generator) > 0.3).float()
    share = torch.rand(len(avatar), generator=generator)
    before, alpha = _picture(trainer)
    back_projection.back_project(trainer._posed, PORTRAIT, avatar, target, asked, share)

    background, _ = _picture(trainer, torch.zeros(len(avatar), 3))
    drawn, _ = _picture(trainer, torch.rand(len(avatar), 1, generator=generator).expand(-1, 3))
    covers = (drawn - background).abs().sum()
    assert covers > 0
    behind = torch.tensor(trainer.config.render.background, dtype=torch.float64)
    lacking = (asked * (alpha * target + (1 - alpha) * behind - before))[0]
    checked = 0
    for number in torch.randperm(len(avatar), generator=generator)[:400].tolist():
        one_hot = torch.zeros(len(avatar), 3)
        one_hot[number] = 1
        column = (_picture(trainer, one_hot)[0] - background)[0, :, :, :1]
        weight = float((column * asked[0]).sum())
        if weight < back_projection.LEAST:
            continue
        mean = (column * lacking).sum((0, 1)) / weight
        expected = (0.5 + back_projection.RELAXATION * share[number] * mean).clamp(0, 1)
        assert avatar.colors[number].tolist() == pytest.approx(expected.tolist(), abs=2e-3)
        checked += 1
    assert checked > 20


def test_the_picture_comes_near_one_that_the_avatar_can_show(trainer):
    avatar = trainer.gaussians
    generator = torch.Generator().manual_seed(4)
    truth = torch.rand(len(avatar), 3, generator=generator)
    wanted, alpha = _picture(trainer, truth)
    behind = torch.tensor(trainer.config.render.background, dtype=torch.float64)
    target = ((wanted - (1 - alpha) * behind) / alpha.clamp_min(1e-3)).float()
    asked = (alpha > 0.5).float()
    share = torch.ones(len(avatar))
    left = np.arange(len(avatar)) % 10 == 0
    share[left] = 0
    before, _ = _picture(trainer)
    back_projection.back_project(trainer._posed, PORTRAIT, avatar, target, asked, share)
    after, _ = _picture(trainer)
    errors = [float((asked * (picture - wanted)).square().sum()) for picture in (before, after)]
    assert errors[1] < errors[0] / 10
    assert torch.equal(avatar.sh0[left], torch.zeros(int(left.sum()), 3))
    assert float(avatar.sh0.detach().abs().max()) <= 0.5 / SH_C0 + 1e-6


def test_the_portraits_colours_are_solved_for_at_the_beginning_and_the_end_and_not_trained():
    config = tiny_config("avatar.project_portrait=true", "loop.portrait_share=1.0", "loop.iterations=3")
    trainer = Reconstruction(tiny_portrait(), config, load_head("canonical"), avatar_id="a", fetch=_none)
    avatar = trainer.gaussians
    colors, means = avatar.sh0.detach().clone(), avatar.means.detach().clone()
    trainer.step()
    trainer.step()
    assert torch.equal(avatar.sh0, colors)
    assert not torch.equal(avatar.means, means)
    before = trainer.metrics()["portrait_psnr"]
    trainer.step()
    assert trainer.done
    assert not torch.equal(avatar.sh0, colors)
    assert trainer.metrics()["portrait_psnr"] > before - 0.05
