from __future__ import annotations

import pytest
import torch
from render_scenes import relative_error
from skimage.metrics import structural_similarity

from zero1toa.render.ssim import ssim, ssim_map, ssim_map_torch

D = torch.float64


@pytest.fixture
def pair(generator):
    x = torch.rand(2, 29, 34, 3, generator=generator, dtype=D)
    return x, (x + 0.2 * torch.randn(x.shape, generator=generator, dtype=D)).clamp(0, 1)


def test_equals_scikit_image_inside(pair):
    x, y = pair
    found = ssim_map(x, y).numpy()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    for b in range(2):
        _, expected = structural_similarity(x[b].numpy(), y[b].numpy(), channel_axis=-1, full=True, **options)
        assert abs(found[b] - expected)[5:-5, 5:-5].max() < 1e-5


def test_kernel_equals_plain_torch_up_to_the_border(pair):
    torch.testing.assert_close(ssim_map(*pair), ssim_map_torch(*pair))
    single = [v.float() for v in pair]
    torch.testing.assert_close(ssim_map(*single), ssim_map_torch(*pair).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("which", [(True, False), (False, True), (True, True)])
def test_gradients_against_finite_differences(generator, pair, which):
    x, y = (v[:, :13, :15].clone().requires_grad_(flag) for v, flag in zip(pair, which, strict=True))
    weights = torch.rand(x.shape, generator=generator, dtype=D)
    (ssim_map(x, y) * weights).sum().backward()
    for moved, still, first in ((x, y, True), (y, x, False)):
        if not moved.requires_grad:
            assert moved.grad is None
            continue
        direction = torch.randn(x.shape, generator=generator, dtype=D)
        with torch.no_grad():
            ends = []
            for step in (1e-6, -1e-6):
                pictures = (moved + step * direction, still) if first else (still, moved + step * direction)
                ends.append(float((ssim_map(*pictures) * weights).sum()))
        assert float((moved.grad * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_gradients_equal_those_of_plain_torch(pair):
    single = [v.float().requires_grad_() for v in pair]
    double = [v.clone().requires_grad_() for v in pair]
    ssim_map(*single).square().sum().backward()
    ssim_map_torch(*double).square().sum().backward()
    for found, expected in zip(single, double, strict=True):
        assert relative_error(found.grad, expected.grad) < 1e-4


def test_plain_torch_equals_convolution(generator, pair):
    # The window as one 11 x 11 convolution, its weights written out here.
    x, y = pair
    line = torch.exp(-0.5 * ((torch.arange(11, dtype=D) - 5) / 1.5) ** 2)
    window = (line[:, None] * line) / line.sum() ** 2

    def mean(v):
        return torch.nn.functional.conv2d(v.permute(0, 3, 1, 2).reshape(-1, 1, 29, 34), window[None, None], padding=5)

    mx, my, xx, yy, xy = mean(x), mean(y), mean(x * x), mean(y * y), mean(x * y)
    top = (2 * mx * my + 1e-4) * (2 * (xy - mx * my) + 9e-4)
    bottom = (mx**2 + my**2 + 1e-4) * (xx - mx**2 + yy - my**2 + 9e-4)
    expected = (top / bottom).reshape(2, 3, 29, 34).permute(0, 2, 3, 1)
    torch.testing.assert_close(ssim_map_torch(x, y), expected)


def test_mean_and_mask(generator, pair):
    x, y = pair
    mask = (torch.rand(2, 29, 34, generator=generator) > 0.5).to(D)
    expected = ssim_map(x, y)[mask.bool()].mean()
    torch.testing.assert_close(ssim(x, y, mask), expected)
    torch.testing.assert_close(ssim(x, y, mask[..., None]), expected)
    torch.testing.assert_close(ssim(x, y), ssim_map(x, y).mean())
    assert float(ssim(x, x)) == pytest.approx(1.0)
    assert float(ssim(x, y, torch.zeros_like(mask))) == 0.0


def test_bad_input_is_named(pair):
    x, y = pair
    with pytest.raises(ValueError, match="must both be"):
        ssim_map(x, y[:1])
    with pytest.raises(ValueError, match="float32 or float64"):
        ssim_map(x, y.float())
    with pytest.raises(ValueError, match="mask must be"):
        ssim(x, y, x[..., :2])
