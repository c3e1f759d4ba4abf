"""Density control: invariants over random avatars, Adam's state, and the formulas of cloning and splitting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zero1toa.avatar.density import ScreenGradients, change_density, is_due
from zero1toa.avatar.gaussians import PARAMETERS, GaussianAvatar
from zero1toa.avatar.optimizer import AvatarOptimizer
from zero1toa.config import DensityConfig, OptimConfig

FACES = 12


def _avatar(count: int, seed: int) -> tuple[GaussianAvatar, AvatarOptimizer]:
    """An avatar with every triangle occupied, after one Adam step; ``means`` and the moments carry tags."""
    generator = torch.Generator().manual_seed(seed)
    binding = torch.cat([torch.arange(FACES), torch.randint(0, FACES, (count - FACES,), generator=generator)])
    tensors = {
        "means": torch.randn(count, 3, generator=generator),
        "log_scales": torch.randn(count, 3, generator=generator) * 0.5 - 0.7,
        "quats": torch.randn(count, 4, generator=generator),
        "opacity_logits": torch.randn(count, generator=generator) * 5 - 4,
        "sh0": torch.arange(count * 3).reshape(count, 3) / (3.0 * count),
    }
    avatar = GaussianAvatar(tensors, binding, torch.zeros(FACES, 3, dtype=torch.long))
    optimizer = AvatarOptimizer(avatar, OptimConfig(position=0.0, position_final=0.0, color=0.0), 100)
    loss = sum((p * (1 + torch.arange(count).reshape(-1, *[1] * (p.ndim - 1)))).sum() for p in avatar.parameters())
    loss.backward()
    optimizer.step(0)
    return avatar, optimizer


def _gradients(count: int, seed: int) -> ScreenGradients:
    statistics = ScreenGradients(count)
    generator = torch.Generator().manual_seed(seed)
    length = torch.rand(2, 3, count, generator=generator) * 2e-4
    statistics.add(length, torch.randint(0, 2, (2, 3, count, 2), generator=generator))
    return statistics


@settings(max_examples=40, deadline=None)
@given(count=st.integers(FACES, 60), seed=st.integers(0, 10**6), room=st.integers(0, 30))
def test_no_triangle_empties_and_adam_stays_aligned(count: int, seed: int, room: int) -> None:
    avatar, optimizer = _avatar(count, seed)
    before = {k: v.clone() for k, v in avatar.tensors().items()}
    opacities = avatar.opacities.detach().clone()
    protected = torch.rand(FACES, generator=torch.Generator().manual_seed(seed)) < 0.3
    config = DensityConfig(gradient=4e-4, min_opacity=0.05, max_gaussians=count + room)
    change = change_density(
        avatar, optimizer, _gradients(count, seed), protected, config, torch.Generator().manual_seed(1)
    )
    assert change.count == len(avatar) <= count + room
    assert change.count == count + change.cloned + change.split - change.pruned
    assert torch.bincount(avatar.binding, minlength=FACES).min() >= 1

    # Every Gaussian's colour is unique, so it says which old one a survivor or a child comes from.
    tags = {tuple(c): i for i, c in enumerate(before["sh0"].tolist())}
    parents = [tags[tuple(c)] for c in avatar.sh0.tolist()]
    assert torch.equal(avatar.binding, before["binding"][parents])
    gone = set(range(count)) - set(parents)
    assert len(gone) == change.pruned
    for i in gone:
        assert opacities[i] < config.min_opacity
        assert not protected[before["binding"][i]]
        mates = before["binding"] == before["binding"][i]
        assert opacities[i] <= opacities[mates].max()

    groups = {g["name"]: g["params"][0] for g in optimizer.adam.param_groups}
    assert set(groups) == set(PARAMETERS)
    for name in PARAMETERS:
        parameter = getattr(avatar, name)
        assert groups[name] is parameter
        assert parameter.requires_grad
        moments = optimizer.adam.state[parameter]
        assert moments["exp_avg"].shape == parameter.shape == moments["exp_avg_sq"].shape
        for row, parent in enumerate(parents):
            value = moments["exp_avg"][row].flatten()[0]
            assert value == 0 or torch.isclose(value, torch.tensor(0.1 * (1 + parent)), rtol=1e-4)
    assert len(optimizer.adam.state) == len(PARAMETERS)
    sum(p.sum() for p in avatar.parameters()).backward()
    optimizer.step(1)


def _one(log_scale: float, opacity_logit: float = 2.0) -> tuple[GaussianAvatar, AvatarOptimizer]:
    tensors = {
        "means": torch.tensor([[0.1, 0.2, 0.3]]),
        "log_scales": torch.tensor([[log_scale, -4.0, -4.0]]),
        "quats": torch.tensor([[0.5**0.5, 0.0, 0.5**0.5, 0.0]]),
        "opacity_logits": torch.tensor([opacity_logit]),
        "sh0": torch.zeros(1, 3),
    }
    avatar = GaussianAvatar(tensors, torch.tensor([0]), torch.zeros(1, 3, dtype=torch.long))
    return avatar, AvatarOptimizer(avatar, OptimConfig(), 10)


def _steep(count: int) -> ScreenGradients:
    statistics = ScreenGradients(count)
    statistics.add(torch.ones(1, count), torch.ones(1, count, 2, dtype=torch.int32))
    return statistics


def test_small_gaussians_are_cloned_in_place() -> None:
    avatar, optimizer = _one(log_scale=-3.0)
    change = change_density(avatar, optimizer, _steep(1), torch.zeros(1).bool(), DensityConfig(), torch.Generator())
    assert (change.cloned, change.split, change.count) == (1, 0, 2)
    for name in PARAMETERS:
        assert torch.equal(getattr(avatar, name)[0], getattr(avatar, name)[1])


def test_large_gaussians_are_split_along_their_own_axes() -> None:
    """The long axis is local x, turned by 90 degrees about y: it points along -z, and so do the children."""
    avatar, optimizer = _one(log_scale=0.0)
    generator = torch.Generator().manual_seed(5)
    change = change_density(avatar, optimizer, _steep(1), torch.zeros(1).bool(), DensityConfig(), generator)
    assert (change.cloned, change.split, change.count) == (0, 1, 2)
    moved = avatar.means.detach() - torch.tensor([0.1, 0.2, 0.3])
    assert moved[:, :2].abs().max() < 0.1
    assert moved[:, 2].abs().min() > 0.1
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(moved[:, 2], -noise[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(avatar.log_scales.exp()[:, 0], torch.full((2,), 1 / 1.6))


def test_the_last_gaussian_of_a_triangle_stays_however_faint() -> None:
    avatar, optimizer = _one(log_scale=-3.0, opacity_logit=-20.0)
    still = ScreenGradients(1)
    change = change_density(avatar, optimizer, still, torch.zeros(1).bool(), DensityConfig(), torch.Generator())
    assert (change.pruned, change.count) == (0, 1)


def test_the_steepest_grow_first_where_room_is_short() -> None:
    avatar, optimizer = _avatar(30, 0)
    statistics = ScreenGradients(30)
    statistics.add(torch.arange(30).float()[None], torch.ones(1, 30, 2, dtype=torch.int32))
    config = DensityConfig(max_gaussians=33, min_opacity=0.0, split_scale=1e9)
    change = change_density(avatar, optimizer, statistics, torch.zeros(FACES).bool(), config, torch.Generator())
    assert change.cloned == 3
    tags = {tuple(c) for c in avatar.sh0[-3:].tolist()}
    assert tags == {tuple(c) for c in avatar.sh0[27:30].tolist()}


def test_gradients_do_not_depend_on_the_batch() -> None:
    """Two pictures with a mean loss have half the gradient each; a Gaussian that is not drawn does not count."""
    one, two = ScreenGradients(2), ScreenGradients(2)
    radii = torch.tensor([[[3, 3], [0, 3]]], dtype=torch.int32)
    one.add(torch.tensor([[0.4, 0.7]]), radii)
    two.add(torch.tensor([[0.2, 0.35]]).repeat(2, 1), radii.repeat(2, 1, 1))
    torch.testing.assert_close(one.mean, torch.tensor([0.4, 0.0]))
    torch.testing.assert_close(two.mean, one.mean)


def test_schedule_and_misfits() -> None:
    config = DensityConfig(start=300, stop=900, every=300)
    assert [s for s in range(1200) if is_due(s, config)] == [300, 600]
    assert not any(is_due(s, DensityConfig(every=0)) for s in range(600))
    avatar, optimizer = _one(0.0)
    with pytest.raises(ValueError, match="statistics of 2"):
        change_density(avatar, optimizer, ScreenGradients(2), torch.zeros(1).bool(), config, torch.Generator())
