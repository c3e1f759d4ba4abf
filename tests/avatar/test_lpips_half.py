"""LPIPS with a backward of its own, against the package's under autograd in float64."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zero1toa.avatar.lpips_half import HalfPrecisionLpips
from zero1toa.avatar.perceptual import lpips_network


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return lpips_network(None)


def _pictures(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    renders = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    return renders, (renders + 0.1 * torch.randn(renders.shape, generator=generator)).clamp(-1, 1)


def _gradient(term: Callable[..., Tensor], renders: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    leaf = renders.clone().requires_grad_()
    distances = term(leaf, targets).flatten()
    (distances * distances.new_tensor([1.0, 0.3])).sum().backward()
    assert leaf.grad is not None
    return distances.detach().double(), leaf.grad.double()


def _reference(network: nn.Module, renders: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return _gradient(copy.deepcopy(network).double(), renders.double(), targets.double())


@pytest.mark.parametrize("size", [(32, 48), (37, 43)], ids=["even", "odd"])
def test_distances_and_gradients_are_the_packages(network: nn.Module, size: tuple[int, int]) -> None:
    renders, targets = _pictures(*size)
    expected, direction = _reference(network, renders, targets)
    term = HalfPrecisionLpips(copy.deepcopy(network).double(), torch.float64, torch.float64, compiled=False)
    distances, gradient = _gradient(term, renders.double(), targets.double())
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, direction, rtol=1e-6, atol=1e-6 * direction.abs().max().item())


def test_features_that_are_known_change_nothing(network: nn.Module) -> None:
    renders, targets = (pictures.double() for pictures in _pictures(37, 43))
    expected, direction = _reference(network, renders, targets)
    term = HalfPrecisionLpips(copy.deepcopy(network).double(), torch.float64, torch.float64, compiled=False)
    known = term.coarse_features(targets)
    assert [part.shape[1:] for part in known] == [(9, 10, 256), (4, 5, 512), (2, 2, 512)]
    distances, gradient = _gradient(functools.partial(term, known=known), renders, targets)
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, direction, rtol=1e-6, atol=1e-6 * direction.abs().max().item())
    other = term.coarse_features(renders)  # they are what is compared, and not the pictures
    assert (_gradient(functools.partial(term, known=other), renders, targets)[0] < distances).all()


def test_gradients_of_equal_pictures_are_zero_and_those_of_dark_features_finite(network: nn.Module) -> None:
    renders, _ = _pictures(32, 32)
    term = HalfPrecisionLpips(network, compiled=False)
    assert _gradient(term, renders, renders)[1].abs().max() == 0
    dead = copy.deepcopy(network)
    for layer in dead.net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.bias.data.fill_(-1e3)  # no feature is ever positive
    assert torch.isfinite(_gradient(HalfPrecisionLpips(dead, compiled=False), renders, renders.flip(0))[1]).all()


def _angle(a: Tensor, b: Tensor) -> float:
    """Degrees between two gradients."""
    return float(torch.rad2deg(torch.arccos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))))


def test_half_precision_turns_the_gradient_by_less_than_brain_floats_do(network: nn.Module) -> None:
    renders, targets = _pictures(40, 40)
    expected, direction = _reference(network, renders, targets)
    distances, gradient = _gradient(HalfPrecisionLpips(network, compiled=False), renders, targets)
    torch.testing.assert_close(distances, expected, rtol=2e-3, atol=0)
    brain = HalfPrecisionLpips(network, torch.bfloat16, torch.bfloat16, compiled=False)
    assert _angle(gradient, direction) < 4.5 < _angle(_gradient(brain, renders, targets)[1], direction)
    assert gradient.norm() == pytest.approx(direction.norm().item(), rel=0.01)


@pytest.mark.gpu
def test_compiled_on_a_gpu(network: nn.Module) -> None:
    renders, targets = _pictures(130, 128)
    expected, direction = _reference(network, renders, targets)
    on_gpu = copy.deepcopy(network).cuda()
    term = HalfPrecisionLpips(on_gpu)
    renders, targets = renders.cuda(), targets.cuda()
    distances, gradient = _gradient(term, renders, targets)
    torch.testing.assert_close(distances.cpu(), expected, rtol=2e-3, atol=0)
    assert _angle(gradient.cpu(), direction) < 4.5
    known = term.coarse_features(targets)
    assert all(part.is_contiguous() for part in known)  # frames of them are selected without moving channels
    again = _gradient(functools.partial(term, known=known), renders, targets)
    for same, before in zip(again, (distances, gradient), strict=True):
        torch.testing.assert_close(same, before, rtol=1e-3, atol=1e-3 * before.abs().max().item())
