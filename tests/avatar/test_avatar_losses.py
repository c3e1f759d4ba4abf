"""Regularisers against their formulas in float64, the perceptual term's choices, and empty selections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sphere_head import SphereHead

from zero1toa import assets
from zero1toa.avatar.initialisation import initialise
from zero1toa.avatar.losses import ReconstructionLoss, drawn, position_loss, scaling_loss
from zero1toa.avatar.optimizer import AvatarOptimizer
from zero1toa.avatar.perceptual import Perceptual, lpips_network, structure
from zero1toa.config import AvatarConfig, LossConfig, OptimConfig
from zero1toa.errors import AssetError, ConfigError


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZERO1TOA_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_regularisers_equal_gaussian_avatars_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    means, logs = torch.randn(50, 3, generator=generator), torch.randn(50, 3, generator=generator)
    visible = torch.rand(50, generator=generator) < 0.5
    m, s, v = means.double().numpy(), logs.double().numpy(), visible.numpy()
    expected = np.mean([max(np.linalg.norm(row) - 1.0, 0) for row in m[v]])
    assert position_loss(means, 1.0, visible).item() == pytest.approx(expected, rel=1e-5)
    expected = np.mean([np.sqrt(sum(max(np.exp(x) - 0.6, 0) ** 2 for x in row)) for row in s[v]])
    assert scaling_loss(logs, 0.6, visible).item() == pytest.approx(expected, rel=1e-5)
    assert position_loss(means, 1.0).item() == pytest.approx(np.maximum(np.linalg.norm(m, axis=1) - 1, 0).mean())


def test_empty_selections_and_free_gaussians_give_zero_with_finite_gradients() -> None:
    means, logs = torch.zeros(5, 3, requires_grad=True), torch.full((5, 3), -2.0, requires_grad=True)
    none = torch.zeros(5, dtype=torch.bool)
    total = (
        position_loss(means, 1.0, none) + scaling_loss(logs, 0.6, none)
        + position_loss(means, 1.0) + scaling_loss(logs, 0.6)
        + position_loss(means[:0], 1.0) + scaling_loss(logs[:0], 0.6)
    )  # fmt: skip
    total.backward()
    assert total == 0
    assert means.grad is not None
    assert logs.grad is not None
    assert torch.equal(means.grad, torch.zeros(5, 3))
    assert torch.equal(logs.grad, torch.zeros(5, 3))


def test_drawn_is_the_union_over_pictures() -> None:
    radii = torch.tensor([[[[2, 2], [0, 2], [0, 0]]], [[[0, 0], [3, 3], [1, 0]]]], dtype=torch.int32)
    assert drawn(radii).tolist() == [True, True, False]


def test_structure_orders_blur_shift_and_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(1, 8, 8, 3, generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    blurred = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 9, 1, 4).movedim(1, -1)
    assert structure(picture, picture).item() == pytest.approx(0, abs=1e-6)
    assert 0 < structure(picture, picture * 0.98) < structure(picture, blurred) < structure(picture, picture.flip(1))
    assert structure(picture[:, :4, :4], 1 - picture[:, :4, :4]) > 0
    leaf = blurred.clone().requires_grad_()
    structure(leaf, picture).backward()
    assert leaf.grad is not None
    step = blurred - 0.5 * leaf.grad / leaf.grad.norm()
    assert structure(step, picture) < structure(blurred, picture)


@pytest.mark.usefixtures("no_weights")
def test_without_weights_auto_falls_back_and_says_so_and_lpips_refuses() -> None:
    chosen = Perceptual("auto")
    assert chosen.kind == "structure"
    assert "LPIPS" in chosen.fallback
    assert Perceptual("structure").fallback == ""
    assert Perceptual("none")(torch.rand(1, 4, 4, 3), torch.rand(1, 4, 4, 3)) == 0
    with pytest.raises(AssetError, match="assets install vgg16"):
        Perceptual("lpips")
    with pytest.raises(ConfigError, match="did you mean 'lpips'"):
        Perceptual("lpip")


def test_lpips_reads_a_vgg_checkpoint(tmp_path: Path) -> None:
    """A checkpoint with torchvision's names fills the whole trunk; the pictures' distance then depends on it."""
    import torchvision

    torch.manual_seed(0)
    features = torchvision.models.vgg16(weights=None).features
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, tmp_path / "vgg.pth")
    network = lpips_network(tmp_path / "vgg.pth")
    for name, value in network.net.state_dict().items():
        assert torch.equal(value, features.state_dict()[name.split(".", 1)[1]])
    assert not any(p.requires_grad for p in network.parameters())
    x = torch.rand(1, 3, 32, 32)
    assert network(x, x).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("no_weights")
def test_total_is_the_weighted_sum_and_training_lowers_it() -> None:
    assert assets.find("vgg16") is None
    head = SphereHead(rows=8, columns=10)
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=1))
    with torch.no_grad():
        avatar.means[:4] += 3.0
        avatar.log_scales[:4] = 1.0
    config = LossConfig(l1=10, perceptual=5, position=0.1, scaling=2, alpha=3)
    loss = ReconstructionLoss(config)
    generator = torch.Generator().manual_seed(2)
    renders, targets = (torch.rand(2, 3, 16, 16, 3, generator=generator) for _ in range(2))
    alphas, mattes = (torch.rand(2, 3, 16, 16, 1, generator=generator) for _ in range(2))
    result = loss(renders, targets, avatar, None, alphas, mattes)
    weights = {"l1": 10, "perceptual": 5, "position": 0.1, "scaling": 2, "alpha": 3}
    assert set(result.terms) == set(weights)
    expected = sum(weights[k] * float(v) for k, v in result.terms.items())
    assert result.total.item() == pytest.approx(expected, rel=1e-5)
    assert "alpha" not in loss(renders, targets, avatar).terms

    optimizer = AvatarOptimizer(avatar, OptimConfig(position=0.1, position_final=0.1, scaling=0.1), 10)
    before = result.total.item()
    for step in range(3):
        optimizer.zero_grad()
        loss(renders, targets, avatar).total.backward()
        optimizer.step(step)
    assert loss(renders, targets, avatar, None, alphas, mattes).total.item() < before


def test_position_rate_decays_exponentially_and_colours_stay_in_range() -> None:
    head = SphereHead(rows=8, columns=10)
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=1))
    optimizer = AvatarOptimizer(avatar, OptimConfig(position=1e-2, position_final=1e-4, color=50.0), 100)
    assert [optimizer.position_rate(s) for s in (0, 50, 100, 200)] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-4])
    (-avatar.colors.sum()).backward()
    optimizer.step(50)
    rates = {g["name"]: g["lr"] for g in optimizer.adam.param_groups}
    assert rates["means"] == pytest.approx(1e-3)
    assert avatar.colors.max().item() == pytest.approx(1.0)
