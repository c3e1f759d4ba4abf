"""Projection: what the portrait shows is copied, the rest comes from the right place, nothing from the background."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from skimage.measure import points_in_poly
from sphere_head import SphereHead, sphere

from zero1toa.avatar.creation import create_avatar
from zero1toa.avatar.initialisation import initialise
from zero1toa.avatar.picture_sampling import CarvedPictures
from zero1toa.avatar.projection import PortraitProjector
from zero1toa.avatar.surface import hollowness, laplacian
from zero1toa.avatar.surface_fill import SMOOTHING, SurfaceFill
from zero1toa.avatar.zbuffer import depth_map
from zero1toa.config import AvatarConfig
from zero1toa.head.protocol import HeadModel
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit, project
from zero1toa.types import Portrait

SIZE = 192
# MediaPipe's landmarks along the lash lines, from one corner of the eye to the other.
UPPER_LASHES = {
    "right": (33, 246, 161, 160, 159, 158, 157, 173, 133),
    "left": (263, 466, 388, 387, 386, 385, 384, 398, 362),
}
LOWER_LASHES = {
    "right": (33, 7, 163, 144, 145, 153, 154, 155, 133),
    "left": (263, 249, 390, 373, 374, 380, 381, 382, 362),
}


def _camera(azimuth: float, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return orbit(azimuth, 0.0, 1.0, target)[None], intrinsics(20.0, SIZE)[None]


def _matte(head: HeadModel, viewmat: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    vertices = head.vertices(head.neutral())[None]
    return torch.isfinite(depth_map(vertices, head.faces, viewmat, K, (SIZE, SIZE)))[0].float()


def test_depth_map_of_a_sphere() -> None:
    vertices, faces = sphere(60, 90)
    radius, distance = 0.1, 0.8
    viewmat, K = orbit(0.0, 0.0, distance)[None], intrinsics(20.0, 96)[None]
    found = depth_map(vertices[None] * radius, faces, viewmat, K, (96, 96))[0].double().numpy()
    f = float(K[0, 0, 0])
    y, x = np.mgrid[0:96, 0:96] + 0.5
    rays = np.stack([(x - 48) / f, (y - 48) / f, np.ones_like(x)], -1)
    a, b, c = (rays**2).sum(-1), -2 * distance * rays[..., 2], distance**2 - radius**2
    discriminant = b * b - 4 * a * c
    hit = discriminant > 1e-4
    expected = (-b - np.sqrt(np.maximum(discriminant, 0))) / (2 * a)
    assert np.abs(found[hit] - expected[hit]).max() < 0.002
    assert np.isinf(found[discriminant < -1e-3]).all()


def test_depth_map_of_a_batch_takes_the_nearest_of_large_and_small_triangles() -> None:
    wall = torch.tensor([[-9.0, -9, 0], [9, -9, 0], [0, 18, 0]])
    chip = torch.tensor([[-0.01, -0.01, 0.1], [0.01, -0.01, 0.1], [0, 0.02, 0.1]])
    vertices = torch.stack([torch.cat([wall, chip]), torch.cat([wall - torch.tensor([0, 0, 0.2]), chip * 0 + 9])])
    viewmat, K = orbit(0.0, 0.0, 1.0).expand(2, 4, 4), intrinsics(40.0, 33).expand(2, 3, 3)
    depth = depth_map(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]), viewmat, K, (33, 33))
    assert depth[0, 16, 16].item() == pytest.approx(0.9, abs=1e-4)
    assert depth[0, 0, 0].item() == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(depth[1], torch.full((33, 33), 1.2), atol=1e-4, rtol=0)


def test_fill_equals_a_dense_solution() -> None:
    """The same least-squares problem, assembled row by row and solved in float64 by numpy."""
    vertices, faces = sphere(7, 9)
    points, triangles = vertices.double().numpy(), faces.numpy()
    generator = torch.Generator().manual_seed(0)
    corners = faces.repeat_interleave(2, 0)
    weights = torch.rand(len(corners), 3, generator=generator)
    weights /= weights.sum(-1, keepdim=True)
    values = torch.rand(2, len(corners), 3, generator=generator)
    confidence = (torch.rand(2, len(corners), generator=generator) - 0.5).clamp_min(0)
    prior = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    found = SurfaceFill(points, triangles, corners, weights)(values, confidence, prior, 1e-3)

    L = laplacian(points, triangles)[0].toarray()
    assert np.abs(L.sum(1)).max() < 1e-9
    assert np.linalg.eigvalsh(L).min() > -1e-9
    for i in range(2):
        # Mass is lumped to the corners: each sample speaks to its three vertices separately.
        mass, right = np.zeros(len(points)), np.zeros((len(points), 3))
        for n in range(len(corners)):
            for k in range(3):
                share = float(confidence[i, n] * weights[n, k])
                mass[corners[n, k]] += share
                right[corners[n, k]] += share * values[i, n].double().numpy()
        A = np.diag(mass + 1e-3) + SMOOTHING * L
        x = np.linalg.solve(A, right + 1e-3 * prior[i].double().numpy())
        expected = np.einsum("nk,nkc->nc", weights.double().numpy(), x[corners.numpy()])
        np.testing.assert_allclose(found[i].numpy(), expected, atol=2e-4)


def test_fill_joins_separate_parts_and_leaves_other_samples_alone() -> None:
    vertices, faces = sphere(7, 9)
    both = torch.cat([vertices, vertices * 0.2 + torch.tensor([1.3, 0.0, 0.0])])
    separate = torch.cat([faces, faces + len(vertices)])
    weights = torch.full((len(separate), 3), 1 / 3)
    fill = SurfaceFill(both.double().numpy(), separate.numpy(), separate, weights)
    confidence = torch.zeros(1, len(separate))
    confidence[0, : len(faces)] = 1
    red = torch.tensor([[[0.8, 0.1, 0.1]]]).expand(1, len(separate), 3)
    found = fill(red, confidence, torch.zeros(1, 3))
    torch.testing.assert_close(found, red, atol=5e-3, rtol=0)
    partly = SurfaceFill(both.double().numpy(), faces.numpy(), separate, weights)
    assert torch.equal(partly(red, confidence, torch.zeros(1, 3))[:, len(faces) :], torch.zeros(1, len(faces), 3))


def test_pictures_are_read_without_their_background() -> None:
    image = torch.zeros(1, 64, 64, 4)
    image[..., 1] = 1.0
    image[:, :, :32] = torch.tensor([0.5, 0.2, 0.1, 1.0])
    pictures = CarvedPictures(image)
    pixels = torch.tensor([[[10.0, 20.0], [31.0, 20.0], [33.0, 40.0], [60.0, 40.0], [-5.0, 2.0]]])
    for footprint in (1.0, 3.0, 8.0):
        colors = pictures.colors(pixels, torch.full((1, 5), footprint))
        torch.testing.assert_close(colors[0, :2], torch.tensor([[0.5, 0.2, 0.1]]).expand(2, 3), atol=1e-5, rtol=0)
    confidence = pictures.confidence(pixels)[0]
    assert confidence[0] == 1
    assert confidence[1] < 0.5
    assert torch.equal(confidence[2:], torch.zeros(3))


def test_hollows_are_found_where_the_surface_is_concave() -> None:
    n = 41
    grid = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"), -1).reshape(-1, 2).double()
    flat = (grid - n // 2) * 0.001
    height = -0.004 * torch.exp(-(flat**2).sum(-1) / (2 * 0.003**2))
    a = torch.tensor([i * n + j for i in range(n - 1) for j in range(n - 1)])
    faces = torch.cat([torch.stack([a, a + n, a + 1], -1), torch.stack([a + n, a + n + 1, a + 1], -1)]).numpy()
    everywhere = np.ones(len(faces), bool)
    for sign in (1.0, -1.0):
        points = torch.cat([flat, sign * height[:, None]], -1).numpy()
        found = hollowness(points, faces, everywhere)
        middle = found[np.linalg.norm(flat.numpy(), axis=1) < 0.002].mean()
        assert (middle > 0.3) if sign > 0 else (middle < 0.05)
    assert not hollowness(points, faces, ~everywhere).any()


def test_seen_gaussians_take_the_picture_at_their_pixel() -> None:
    head = SphereHead(rows=24, columns=32)
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=3), {})  # as many on what is unseen
    viewmat, K = _camera(0.0, head.center)
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    image = torch.stack([x / SIZE, y / SIZE, 0.5 + 0 * x, _matte(head, viewmat, K)], -1)
    found = PortraitProjector(head, avatar, head.rest)(head.rest[None], image[None], viewmat, K)
    pixels, _ = project(avatar.splats(head.rest[None]).means.detach(), viewmat, K)
    own = torch.stack([head.regions[f"{part}_{side}"] for part in ("eye", "lids") for side in ("left", "right")]).any(0)
    skin = ~own[avatar.binding]  # eyes and lids have colours of their own
    sure = (found.seen[0] > 0.99) & skin
    assert sure.float().mean() > 0.1
    torch.testing.assert_close(found.colors[0][sure, :2], pixels[0][sure] / SIZE, atol=0.02, rtol=0)
    # Nothing behind the silhouette's rim or inside the head is called seen.
    behind = avatar.splats(head.rest).means[:, 2].detach() < -0.01
    assert found.seen[0][behind].max() == 0


def test_the_background_never_reaches_the_skin() -> None:
    head = SphereHead(rows=24, columns=32)
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=3))
    viewmat, K = _camera(20.0, head.center)
    image = torch.zeros(SIZE, SIZE, 4)
    image[..., 1] = 1.0
    matte = _matte(head, viewmat, K)
    image[matte > 0] = torch.tensor([0.7, 0.4, 0.4, 1.0])
    found = PortraitProjector(head, avatar, head.rest)(head.rest[None], image[None], viewmat, K)
    skin = ~(head.regions["eye_left"] | head.regions["eye_right"])[avatar.binding]
    excess = found.colors[0][skin, 1] - found.colors[0][skin, 0]
    assert excess.max() < -0.1


def test_an_unseen_side_takes_the_other_sides_colours() -> None:
    """The head is turned by 60 degrees; its texture is symmetric, so both sides must come out alike."""
    head = SphereHead(rows=24, columns=32)
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=3))
    viewmat, K = _camera(60.0, head.center)
    means = avatar.splats(head.rest[None]).means.detach()
    truth = torch.stack([0.5 + 3 * means[..., 1], 0.2 + 5 * means[..., 0].abs(), 0.4 + 0 * means[..., 2]], -1)[0]
    image = torch.zeros(SIZE, SIZE, 4)
    # Every pixel of the picture gets the colour of the surface it shows.
    depth = depth_map(head.rest[None], head.faces, viewmat, K, (SIZE, SIZE))[0]
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    camera = torch.stack([(x - SIZE / 2) / K[0, 0, 0], (y - SIZE / 2) / K[0, 1, 1], torch.ones_like(x)], -1)
    hit = depth.isfinite()
    world = (camera[hit] * depth[hit][:, None] - viewmat[0, :3, 3]) @ viewmat[0, :3, :3]
    image[hit] = torch.stack(
        [0.5 + 3 * world[:, 1], 0.2 + 5 * world[:, 0].abs(), 0.4 + 0 * world[:, 0], torch.ones(int(hit.sum()))], -1
    )
    image[~hit] = 0
    found = PortraitProjector(head, avatar, head.rest)(head.rest[None], image[None], viewmat, K)
    face = (head.regions["face"] & ~head.regions["scalp"])[avatar.binding]
    hidden = face & (found.seen[0] == 0) & (means[0, :, 0] < -0.02)
    assert hidden.sum() > 100
    assert (found.colors[0] - truth)[hidden].abs().mean() < 0.04


def test_what_clothes_hide_of_a_neck_is_skin_at_the_jaw_and_theirs_below() -> None:
    """Seen from the front in a polo neck that ends at the jaw; what lies behind is not seen."""
    head = load_head("canonical")
    rest = head.vertices(head.neutral())
    avatar = initialise(head, rest, AvatarConfig(gaussians_per_triangle=1), {})
    viewmat, K = _camera(0.0, rest.mean(0))
    skin, wool = torch.tensor([0.8, 0.6, 0.5]), torch.tensor([0.1, 0.1, 0.6])
    own = depth_map(rest[None], head.faces[head.regions["neck"]], viewmat, K, (SIZE, SIZE))[0]
    nearest = depth_map(rest[None], head.faces, viewmat, K, (SIZE, SIZE))[0]
    image = torch.zeros(SIZE, SIZE, 4)
    image[nearest.isfinite()] = torch.cat([skin, torch.ones(1)])
    image[nearest.isfinite() & (own <= nearest), :3] = wool
    found = PortraitProjector(head, avatar, rest)(rest[None], image[None], viewmat, K)
    means = avatar.splats(rest[None]).means.detach()[0]
    hidden = head.regions["neck"][avatar.binding] & (found.seen[0] == 0) & (means[:, 2] < means[:, 2].mean())
    height = means[hidden, 1]
    share = ((found.colors[0][hidden] - wool) @ (skin - wool)) / (skin - wool).square().sum()
    top, bottom = height > height.quantile(0.95), height < height.quantile(0.3)
    assert share[bottom].mean() < 0.15
    assert share[top].mean() > share[bottom].mean() + 0.3


def test_a_batch_equals_single_pictures() -> None:
    head = SphereHead(rows=14, columns=18)
    avatar = initialise(head, head.rest, AvatarConfig(gaussians_per_triangle=1))
    projector = PortraitProjector(head, avatar, head.rest)
    vertices = torch.stack([head.rest, head.rest * 0.9])
    cameras = [_camera(a, head.center) for a in (0.0, 25.0)]
    viewmats, Ks = (torch.cat([c[i] for c in cameras]) for i in (0, 1))
    images = torch.rand(2, SIZE, SIZE, 4, generator=torch.Generator().manual_seed(3))
    images[..., 3] = 1
    together = projector(vertices, images, viewmats, Ks)
    for i in range(2):
        alone = projector(vertices[i : i + 1], images[i : i + 1], viewmats[i : i + 1], Ks[i : i + 1])
        torch.testing.assert_close(together.seen[i], alone.seen[0])
        torch.testing.assert_close(together.colors[i], alone.colors[0], atol=2e-3, rtol=0)


def test_hair_beside_a_cheek_is_not_painted_on_it_and_shading_is() -> None:
    """A frontal picture of skin that darkens sideways, with strips of hair over the far sides of the cheeks."""
    head = load_head("canonical")
    vertices = head.vertices(head.neutral())
    avatar = initialise(head, vertices, AvatarConfig(gaussians_per_triangle=3))
    projector = PortraitProjector(head, avatar, vertices)
    size = 768
    viewmat, K = orbit(0.0, 0.0, 1.0, head.center)[None], intrinsics(20.0, size)[None]
    matte = torch.isfinite(depth_map(vertices[None], head.faces, viewmat, K, (size, size)))[0].float()
    points = (vertices[projector.corners] * projector.weights[..., None]).sum(-2)
    at = project(points[None], viewmat, K)[0][0]
    x = torch.arange(size) + 0.5
    shaded = ((0.9 - 0.6 * (x - size / 2).abs() / size)[:, None] * torch.tensor([0.9, 0.7, 0.6])).expand(size, size, 3)

    def project_on_head(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = projector(vertices[None], torch.cat([picture, matte[..., None]], -1)[None], viewmat, K)
        return found.seen[0], found.colors[0]

    seen, colors = project_on_head(shaded)
    # The sides of the face, by what is seen of them, and not the flanks of nose and lips.
    side = head.regions["face"][avatar.binding] & (points[:, 0].abs() > 0.05)
    rim = side & (seen > 0.02) & (seen < 0.3)
    assert int(rim.sum()) > 50
    strip = torch.zeros(size, size)
    column, row = at[rim].long().T
    strip[row, column] = 1
    strip = torch.nn.functional.max_pool2d(strip[None], 7, 1, 3)[0, ..., None] > 0
    seen_hairy, hairy = project_on_head(torch.where(strip, torch.tensor([0.1, 0.07, 0.05]), shaded))
    assert float(seen_hairy[rim].mean()) < 0.2 * float(seen[rim].mean())
    assert float(hairy[rim].mean()) > 0.75 * float(colors[rim].mean())


@pytest.fixture(scope="module")
def face() -> tuple[HeadModel, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The canonical head photographed with a plain skin, blue irises without pupils and magenta around the irises."""
    head = load_head("canonical")
    avatar = initialise(head, head.vertices(head.neutral()), AvatarConfig(gaussians_per_triangle=3))
    target = torch.tensor([0.0, 0.02, 0.0])
    viewmat, K = orbit(0.0, 0.0, 0.8, target)[None], intrinsics(16.0, 384)[None]
    vertices = head.vertices(head.neutral())
    depth = depth_map(vertices[None], head.faces, viewmat, K, (384, 384))[0]
    image = torch.zeros(384, 384, 4)
    image[depth.isfinite()] = torch.tensor([0.8, 0.6, 0.5, 1.0])
    for name, color in (("eye", (0.9, 0.1, 0.9)), ("iris", (0.2, 0.4, 0.9))):
        for side in ("left", "right"):
            own = depth_map(vertices[None], head.faces[head.regions[f"{name}_{side}"]], viewmat, K, (384, 384))[0]
            image[(own - depth).abs() < 1e-4] = torch.tensor([*color, 1.0])
    found = PortraitProjector(head, avatar, vertices)(vertices[None], image[None], viewmat, K)
    points = avatar.splats(vertices).means.detach()
    return head, avatar.binding, points, found.colors[0], found.seen[0], vertices


def test_lids_keep_the_eyes_colours_out_up_to_their_lashes(face: tuple) -> None:
    """Between lashes and eyeball they show what the picture has there."""
    head, binding, points, colors, seen, vertices = face
    lids = (head.regions["lids_left"] | head.regions["lids_right"])[binding]
    marks = head.landmarks.positions(vertices, head.faces)[:, :2].numpy()
    openings = [
        points_in_poly(points[:, :2].numpy(), marks[[*UPPER_LASHES[side], *LOWER_LASHES[side][::-1]]])
        for side in ("left", "right")
    ]
    margin = torch.from_numpy(openings[0] | openings[1]) & lids
    lids = lids & ~margin
    # Red exceeds green by 0.2 on the skin and by 0.8 in the eyes; footprints touch both at the corners only.
    excess = colors[:, 0] - colors[:, 1]
    assert excess[lids].quantile(0.97) < 0.25
    assert excess[lids].max() < 0.42
    assert (colors[lids, 2] - colors[lids, 0]).max() < 0.02
    shown = margin & (seen > 0.9)
    assert shown.sum() > 50
    assert excess[shown].quantile(0.9) > 0.6
    assert colors[shown].mean(-1).quantile(0.05) > 0.45
    # The lash line is there: some of the lid is much darker than its skin.
    assert colors[lids].mean(-1).min() < 0.3
    assert colors[lids].mean(-1).quantile(0.67) > 0.5


def test_what_lies_open_of_an_eye_is_copied(face: tuple) -> None:
    head, binding, points, colors, seen, vertices = face
    marks = head.landmarks.positions(vertices, head.faces)
    for side, iris in (("left", 473), ("right", 468)):
        radius = (marks[iris + 1 : iris + 5] - marks[iris]).norm(dim=-1).mean()
        near = (points - marks[iris]).norm(dim=-1) < 0.55 * radius
        middle = near & head.regions[f"iris_{side}"][binding] & (seen > 0.95)
        assert middle.sum() > 20
        copied = torch.tensor([0.2, 0.4, 0.9]).expand(int(middle.sum()), 3)
        torch.testing.assert_close(colors[middle], copied, atol=0.04, rtol=0)  # footprints touch the lids' margins


def test_what_lids_hide_of_an_iris_is_radially_symmetric_with_a_dark_pupil() -> None:
    """The picture's irises are blue without pupils, seen all over, but none of it is clear of the lids."""
    head = load_head("canonical")
    vertices = head.vertices(head.neutral())
    avatar = initialise(head, vertices, AvatarConfig(gaussians_per_triangle=3))
    features = PortraitProjector(head, avatar, vertices).features
    points = avatar.splats(vertices).means.detach()
    on_iris = (head.regions["iris_left"] | head.regions["iris_right"])[avatar.binding]
    shown = torch.where(on_iris[:, None], torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0.9, 0.1, 0.9]))[None]
    confidence = torch.ones(1, len(avatar))
    colors = features.eyeballs(shown, confidence, torch.ones(1, 1, 1), torch.zeros_like(confidence))[0]
    marks = head.landmarks.positions(vertices, head.faces)
    iris = head.regions["iris_left"][avatar.binding]
    radius = (marks[474:478] - marks[473]).norm(dim=-1).mean()
    relative = (points[iris] - marks[473]) / radius
    rho, color = relative.norm(dim=-1), colors[iris]
    assert color[rho < 0.25].max() < 0.1
    ring = (rho > 0.5) & (rho < 0.65)
    assert (color[ring, 2] - color[ring, 0]).min() > 0.25
    lower = ring & (relative[:, 1] < 0)
    assert lower.sum() > 8
    assert color[lower].std(0).max() < 0.03
    above = ring & (relative[:, 1] > 0)
    # The lid's shadow is the only difference between the halves.
    ratio = color[above].mean(0) / color[lower].mean(0)
    assert ratio.max() <= 1.01
    assert (ratio.max() - ratio.min()) < 0.03


def test_the_mouth_is_dark_red_and_teeth_are_ivory(face: tuple) -> None:
    head, binding, _, colors, seen, _ = face
    teeth = head.regions["teeth"][binding]
    mouth = (head.regions["mouth"] & ~head.regions["teeth"])[binding]
    assert (colors[mouth, 0] > colors[mouth, 1] * 1.5).all()
    assert colors[mouth].mean() < 0.35
    assert colors[teeth].mean() > 0.6
    assert seen[teeth].mean() < 0.2


def test_a_photo_without_colours_gives_none() -> None:
    """What it does not show (mouth, whites of the eyes, hair) is grey as well; a sepia photo is one in colour."""
    head = load_head("canonical")
    avatar = initialise(head, head.vertices(head.neutral()), AvatarConfig(gaussians_per_triangle=1))
    viewmat, K = _camera(0.0, torch.tensor([0.0, 0.02, 0.0]))
    alpha = _matte(head, viewmat, K)
    shade = torch.linspace(0.3, 0.9, SIZE).expand(SIZE, SIZE)
    grey = torch.dstack([shade, shade * 0.99, shade * 0.985, alpha])  # as JPEG has it
    sepia = torch.dstack([shade, shade * 0.85, shade * 0.7, alpha])
    projector = PortraitProjector(head, avatar, head.vertices(head.neutral()))
    vertices = head.vertices(head.neutral()).expand(2, -1, -1)
    found = projector(vertices, torch.stack([grey, sepia]), viewmat.expand(2, 4, 4), K.expand(2, 3, 3)).colors
    spread = found.amax(-1) - found.amin(-1)
    assert spread[0].max() < 1e-6
    mouth = head.regions["mouth"][avatar.binding] & ~head.regions["teeth"][avatar.binding]
    assert spread[1, mouth].min() > 0.02


def test_an_avatar_of_a_portrait_shows_it() -> None:
    """From the photo's own camera, the first avatar differs little from the photo, and twice gives the same."""
    head = SphereHead(rows=24, columns=32)
    viewmat, K = _camera(0.0, head.center)
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    matte = _matte(head, viewmat, K)
    image = torch.stack([0.4 + 0.4 * x / SIZE, 0.2 + 0.5 * y / SIZE, 0.4 + 0 * x, matte], -1)
    portrait = Portrait(
        image=(image * 255).round().byte().numpy(),
        landmarks=np.zeros((478, 2), np.float32),
        viewmat=viewmat[0].numpy(),
        K=K[0].numpy(),
        params=head.neutral(),
        arkit=np.zeros(52, np.float32),
        residual=0.0,
        yaw=0.0,
    )
    config = AvatarConfig(gaussians_per_triangle=3, landmark_offset=False)  # this head has no landmarks
    made = [create_avatar(head, portrait, config) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.avatar.tensors().values() for m in made), strict=True))
    assert 0.15 < float(made[0].seen.mean()) < 0.6
    avatar, params = made[0].avatar, made[0].params
    picture, alpha, _ = avatar.render(head.vertices(params)[None], viewmat[None], K[None], SIZE)
    inside = torch.nn.functional.avg_pool2d(matte[None, None], 9, 1, 4)[0, 0] > 0.999
    # The eyeballs have colours of their own, and the neck fades out.
    _, depth = project(head.rest[None], viewmat, K)
    own = depth_map(head.rest[None], head.faces[~head.regions["neck"]], viewmat, K, (SIZE, SIZE))[0].isfinite()
    eyes = depth_map(
        head.rest[None], head.faces[head.regions["eye_left"] | head.regions["eye_right"]], viewmat, K, (SIZE, SIZE)
    )[0]
    skin = inside & own & ~eyes.isfinite() & (y < 0.8 * SIZE)
    assert (picture[0, 0] - image[..., :3])[skin].abs().mean() < 0.02
    assert alpha[0, 0, ..., 0][skin].min() > 0.9
    assert depth.min() > 0

    plain = create_avatar(
        head, portrait, dataclasses.replace(config, gaussians_per_triangle=1, project_portrait=False, hair_volume=False)
    )
    assert plain.params.offset is None
    assert (plain.seen == 1).all()
    even = AvatarConfig(gaussians_per_triangle=1, by_region=False, project_portrait=False, hair_volume=False)
    assert len(create_avatar(head, portrait, even).avatar) == len(head.faces)
    torch.testing.assert_close(plain.avatar.colors, torch.full((len(plain.avatar), 3), 0.5))
