"""The compiled rasteriser against the plain formulas in float64, and the formulas against pictures known by hand."""

from __future__ import annotations

import math

import pytest
import torch
from render_scenes import as_float32, random_scene, relative_error, rounded

from zero1toa.render.cameras import intrinsics, orbit
from zero1toa.render.rasterize import rasterize, screen_gradient
from zero1toa.render.threads import set_threads

GRADIENTS = ("means", "quats", "scales", "opacities", "colors", "backgrounds")


def draw(scene, size, backend, generator_seed=1, **options):
    """Picture, alpha, every gradient of a random weighting of both, and the screen gradient."""
    width, height = size
    scene = {name: tensor.clone() for name, tensor in scene.items()}
    for name in GRADIENTS:
        scene[name].requires_grad_()
    picture, alpha, meta = rasterize(**scene, width=width, height=height, backend=backend, **options)
    generator = torch.Generator().manual_seed(generator_seed)
    weights = torch.randn(picture.shape, generator=generator, dtype=torch.float64).to(picture)
    alpha_weights = torch.randn(alpha.shape, generator=generator, dtype=torch.float64).to(alpha)
    ((picture * weights).sum() + (alpha * alpha_weights).sum()).backward()
    found = {"picture": picture.detach(), "alpha": alpha.detach(), "screen": screen_gradient(meta)}
    return found | {name: scene[name].grad for name in GRADIENTS}, meta


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("size", [(64, 64), (75, 41)])
def test_compiled_kernel_equals_the_formulas(generator, mode, size):
    scene = random_scene(generator, 600, size[1], cameras=2)
    found, meta = draw(as_float32(scene), size, "cpu", rasterize_mode=mode)
    expected, expected_meta = draw(rounded(scene), size, "torch", rasterize_mode=mode)
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-4, name
    assert torch.equal(meta["radii"], expected_meta["radii"])
    drawn = (meta["radii"] > 0).all(-1)
    assert 100 < int(drawn.sum()) < drawn.numel()
    assert relative_error(meta["means2d"][drawn], expected_meta["means2d"][drawn]) < 1e-6
    assert relative_error(meta["depths"][drawn], expected_meta["depths"][drawn]) < 1e-6


def test_needles_and_opaque_splats(generator):
    # Needles of 60 pixels test the ellipse bounds, opaque splats the cap, the stop and the divisions by 1 - alpha.
    scene = random_scene(generator, 300, 64)
    scene["scales"] = torch.tensor([0.05, 0.0005, 0.0005], dtype=torch.float64).expand(300, 3).clone()
    scene["opacities"] = 1 - 1e-4 * torch.rand(300, generator=generator, dtype=torch.float64)
    found, _ = draw(as_float32(scene), (64, 64), "cpu")
    expected, _ = draw(rounded(scene), (64, 64), "torch")
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-4, name


def test_gaussians_at_the_edge_of_the_frustum(generator):
    # Centres far outside of the picture, and behind the camera, exercise the clamped Jacobian and the culling.
    scene = random_scene(generator, 200, 48)
    scene["means"] *= torch.tensor([4.0, 4.0, 3.0], dtype=torch.float64)
    scene["scales"] *= 12
    found, _ = draw(as_float32(scene), (48, 48), "cpu")
    expected, meta = draw(rounded(scene), (48, 48), "torch")
    outside = (meta["means2d"] < 0).any(-1) | (meta["means2d"] > 48).any(-1)
    assert int((outside & (meta["radii"] > 0).all(-1)).sum()) > 20
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-4, name


def test_reference_gradients_against_finite_differences(generator):
    scene = random_scene(generator, 12, 20)
    scene["scales"] = scene["scales"] * 2
    weights = torch.randn(1, 20, 20, 3, generator=generator, dtype=torch.float64)

    def loss(values):
        picture, alpha, _ = rasterize(**values, width=20, height=20, backend="torch", rasterize_mode="antialiased")
        return ((picture + alpha) * weights).sum()

    values = {name: tensor.clone().requires_grad_(name in GRADIENTS) for name, tensor in scene.items()}
    loss(values).backward()
    step = 1e-7  # Short, so that no pixel crosses the thresholds on alpha.
    for name in GRADIENTS:
        direction = torch.randn(scene[name].shape, generator=generator, dtype=torch.float64)
        up, down = (loss(scene | {name: scene[name] + sign * step * direction}) for sign in (1, -1))
        along = float((values[name].grad * direction).sum())
        assert float((up - down).detach() / (2 * step)) == pytest.approx(along, rel=1e-4), name


def test_one_gaussian_by_hand():
    # Focal length 100, distance 1 m, sigma 2 cm: 2 pixels, variance 4 + 0.3, around the centre of pixel (8, 8).
    viewmat = orbit(0.0, 0.0, 1.0)[None]
    K = torch.tensor([[[100.0, 0, 8.5], [0, 100, 8.5], [0, 0, 1]]])
    arguments = torch.tensor([[2.0, 0, 0, 0]]), torch.full((1, 3), 0.02), torch.tensor([0.8])
    color, background = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    picture, alpha, meta = rasterize(torch.zeros(1, 3), *arguments, color, viewmat, K, 17, 17, backgrounds=background)
    for row, column in ((8, 8), (8, 11), (5, 10), (8, 15), (8, 16)):
        squared = (column - 8) ** 2 + (row - 8) ** 2
        expected = 0.8 * math.exp(-squared / (2 * 4.3))
        expected = expected if expected >= 1 / 255 else 0.0
        assert float(alpha[0, row, column, 0]) == pytest.approx(expected, abs=1e-6)
        wanted = expected * color[0] + (1 - expected) * background[0]
        torch.testing.assert_close(picture[0, row, column], wanted, atol=1e-6, rtol=0)
    extent = math.sqrt(2 * math.log(0.8 * 255))
    assert meta["radii"].tolist() == [[[math.ceil(extent * math.sqrt(4.3))] * 2]]


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_nearer_splats_hide_farther_ones(backend):
    # Given back to front; at the centre 0.9 of the red one is drawn and 0.9 of the remaining tenth is blue.
    means = torch.tensor([[0.0, 0, -0.05], [0.0, 0, 0.05]])
    quats = torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4)
    colors = torch.tensor([[0.0, 0, 1], [1.0, 0, 0]])
    K = torch.tensor([[[100.0, 0, 8.5], [0, 100, 8.5], [0, 0, 1]]])
    arguments = quats, torch.full((2, 3), 0.05), torch.full((2,), 0.9), colors
    front, _, _ = rasterize(means, *arguments, orbit(0.0, 0.0, 1.0)[None], K, 17, 17, backend=backend)
    torch.testing.assert_close(front[0, 8, 8], torch.tensor([0.9, 0.0, 0.09]), atol=1e-5, rtol=0)
    back, _, _ = rasterize(means, *arguments, orbit(180.0, 0.0, 1.0)[None], K, 17, 17, backend=backend)
    torch.testing.assert_close(back[0, 8, 8], torch.tensor([0.09, 0.0, 0.9]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_the_splat_that_would_end_a_pixel_is_not_drawn(backend):
    # 0.999 leaves 1e-3; the next 0.999 would leave 1e-6 <= 1e-4 and is left out, and so is everything behind it.
    means = torch.tensor([[0.0, 0, 0.05], [0.0, 0, 0.0], [0.0, 0, -0.05]])
    quats, scales = torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4), torch.full((3, 3), 0.05)
    colors, opacities = torch.eye(3), torch.tensor([1.0, 1.0, 0.5])
    K = torch.tensor([[[100.0, 0, 8.5], [0, 100, 8.5], [0, 0, 1]]])
    cameras = orbit(0.0, 0.0, 1.0)[None], K
    picture, alpha, _ = rasterize(means, quats, scales, opacities, colors, *cameras, 17, 17, backend=backend)
    torch.testing.assert_close(picture[0, 8, 8], torch.tensor([0.999, 0.0, 0.0]), atol=1e-6, rtol=0)
    assert float(alpha[0, 8, 8, 0]) == pytest.approx(0.999, abs=1e-6)


def test_batches_of_sets_and_cameras_equal_one_by_one(generator):
    scene = as_float32(random_scene(generator, 150, 40, batch=(2, 3), cameras=2))
    found, meta = draw(scene, (40, 40), "cpu")
    assert found["picture"].shape == (2, 3, 2, 40, 40, 3)
    assert found["alpha"].shape == (2, 3, 2, 40, 40, 1)
    assert meta["means2d"].shape == (2, 3, 2, 150, 2)
    for i in range(2):
        for j in range(3):
            for c in range(2):
                one = {name: tensor[i, j] for name, tensor in scene.items()}
                for name in ("viewmats", "Ks", "backgrounds"):
                    one[name] = one[name][c : c + 1]
                picture, alpha, _ = rasterize(**one, width=40, height=40)
                assert torch.equal(found["picture"][i, j, c], picture[0])
                assert torch.equal(found["alpha"][i, j, c], alpha[0])
    expected, _ = draw(scene, (40, 40), "torch")
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-4, name


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_any_number_of_channels(generator, channels):
    scene = random_scene(generator, 200, 40, channels=channels)
    found, _ = draw(as_float32(scene), (40, 40), "cpu")
    expected, _ = draw(rounded(scene), (40, 40), "torch")
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-4, name


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("count", [0, 5])
def test_nothing_visible(backend, count):
    means = torch.zeros(count, 3)
    means[:, 2] = 5.0  # Behind the camera at 1 m.
    means.requires_grad_()
    arguments = torch.ones(count, 4), torch.full((count, 3), 0.01), torch.full((count,), 0.5), torch.ones(count, 3)
    picture, alpha, meta = rasterize(
        means,
        *arguments,
        orbit(0.0, 0.0, 1.0)[None],
        intrinsics(40.0, 24)[None],
        24,
        24,
        backgrounds=torch.tensor([[0.25, 0.5, 1.0]]),
        backend=backend,
    )
    assert torch.equal(picture, torch.tensor([0.25, 0.5, 1.0]).expand(1, 24, 24, 3))
    assert torch.equal(alpha, torch.zeros(1, 24, 24, 1))
    assert int(meta["radii"].sum()) == 0
    (picture.sum() + alpha.sum()).backward()
    assert torch.equal(means.grad, torch.zeros(count, 3))


def test_results_repeat_bitwise_with_any_number_of_threads(generator):
    scene = as_float32(random_scene(generator, 2000, 80, cameras=3))
    first, _ = draw(scene, (80, 80), "cpu")
    for threads in (1, 2, 5):
        set_threads(threads)
        again, _ = draw(scene, (80, 80), "cpu")
        for name, value in first.items():
            assert torch.equal(again[name], value), (threads, name)


def test_screen_gradient_is_the_gradient_of_the_place_in_the_picture(generator):
    # Shifting the principal point shifts every splat alike (but for the clamped Jacobian, not reached here).
    scene = random_scene(generator, 1, 40)
    scene["means"] *= 0
    scene["scales"] = torch.full_like(scene["scales"], 0.03)
    weights = torch.randn(1, 40, 40, 3, generator=generator, dtype=torch.float64)

    def loss(shift):
        Ks = scene["Ks"].clone()
        Ks[..., :2, 2] += shift
        picture, _, _ = rasterize(**(scene | {"Ks": Ks}), width=40, height=40, backend="torch")
        return float((picture * weights).sum())

    shifts = torch.eye(2, dtype=torch.float64) * 1e-6
    slopes = torch.tensor([(loss(s) - loss(-s)) / 2e-6 for s in shifts])
    values = as_float32(scene)
    values["means"].requires_grad_()
    picture, _, meta = rasterize(**values, width=40, height=40)
    (picture * weights.float()).sum().backward()
    assert float(screen_gradient(meta)) == pytest.approx(float((slopes * 20).norm()), rel=1e-3)


def test_screen_gradient_needs_backward(generator):
    scene = as_float32(random_scene(generator, 5, 16))
    _, _, meta = rasterize(**scene, width=16, height=16)
    with pytest.raises(ValueError, match="call backward"):
        screen_gradient(meta)


def test_values_changed_before_backward_are_noticed(generator):
    scene = as_float32(random_scene(generator, 5, 16))
    scene["means"].requires_grad_()
    picture, _, _ = rasterize(**scene, width=16, height=16)
    with torch.no_grad():
        scene["means"] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        picture.sum().backward()


def test_near_plane_radius_clip_and_eps(generator):
    scene = random_scene(generator, 400, 64)
    options = {"near_plane": 0.4, "far_plane": 0.55, "radius_clip": 4.0, "eps2d": 1.5}
    found, meta = draw(as_float32(scene), (64, 64), "cpu", **options)
    expected, expected_meta = draw(rounded(scene), (64, 64), "torch", **options)
    assert relative_error(found["picture"], expected["picture"]) < 1e-4
    assert torch.equal(meta["radii"], expected_meta["radii"])
    drawn = (meta["radii"] > 0).all(-1)
    assert float(meta["depths"][drawn].min()) >= 0.4
    assert float(meta["depths"][drawn].max()) <= 0.55
    assert int(meta["radii"][drawn].amax(-1).min()) > 4


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("means", lambda v: v[..., :2], r"means must be \[\.\.\., N, 3\]"),
        ("quats", lambda v: v[..., :3], r"quats must be \[5, 4\]"),
        ("opacities", lambda v: v[:4], r"opacities must be \[5\]"),
        ("viewmats", lambda v: v[0], "viewmats must be"),
        ("backgrounds", lambda v: v[0], r"backgrounds must be \[1, 3\]"),
        ("colors", lambda v: v.double(), "colors must be torch.float32"),
        ("means", lambda v: v.index_fill(0, torch.tensor([2]), torch.nan), r"means must be finite.*\[2, 0\]"),
        ("colors", lambda v: v / 0, "colors must be finite"),
        ("opacities", lambda v: v + 1, r"opacities must lie in \[0, 1\]"),
        ("quats", lambda v: v * 0, "quats must not be zero"),
    ],
)
def test_bad_input_is_named(generator, name, change, message):
    scene = as_float32(random_scene(generator, 5, 16))
    scene[name] = change(scene[name])
    with pytest.raises(ValueError, match=message):
        rasterize(**scene, width=16, height=16)


def test_bad_options_are_named(generator):
    scene = as_float32(random_scene(generator, 5, 16))
    with pytest.raises(ValueError, match="backend must be one of"):
        rasterize(**scene, width=16, height=16, backend="opengl")
    with pytest.raises(ValueError, match="rasterize_mode"):
        rasterize(**scene, width=16, height=16, rasterize_mode="smooth")
    with pytest.raises(ValueError, match="width and height"):
        rasterize(**scene, width=0, height=16)
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        rasterize(**scene, width=16, height=16, backend="gsplat")
    with pytest.raises(ValueError, match="needs float32"):
        rasterize(**{name: v.double() for name, v in scene.items()}, width=16, height=16)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_gsplat_draws_the_same(generator, mode):
    scene = as_float32(random_scene(generator, 3000, 128, batch=(2,), cameras=2))
    found, meta = draw(scene, (128, 128), "cpu", rasterize_mode=mode)
    expected, expected_meta = draw({k: v.cuda() for k, v in scene.items()}, (128, 128), "gsplat", rasterize_mode=mode)
    error = (found["picture"] - expected["picture"].cpu()).square().mean()
    assert float(-10 * torch.log10(error)) > 45
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-2, name
    assert float((meta["radii"] != expected_meta["radii"].cpu()).double().mean()) < 1e-3
