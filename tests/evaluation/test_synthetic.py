import math

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch

from zero1toa.avatar import quaternion
from zero1toa.evaluation.synthetic import HELD_OUT_SEED, KINDS, SyntheticClips, held_out_subject
from zero1toa.evaluation.synthetic.atlas import polyline
from zero1toa.evaluation.synthetic.clothes import paint_clothes
from zero1toa.evaluation.synthetic.colour import to_linear, to_srgb
from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.expression import motion
from zero1toa.evaluation.synthetic.light import Visibility
from zero1toa.evaluation.synthetic.noise import wave_noise
from zero1toa.evaluation.synthetic.picture import block_compress, blur
from zero1toa.evaluation.synthetic.projection import Neighbourhoods, seen
from zero1toa.evaluation.synthetic.subject import along_x, draw_subjects
from zero1toa.evaluation.synthetic.textures import natural_pictures
from zero1toa.evaluation.synthetic.views import clip_views, reference_views
from zero1toa.head.arkit import ARKIT_INDEX, coefficients
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import intrinsics, orbit


@pytest.fixture(scope="module")
def clips() -> SyntheticClips:
    return SyntheticClips(load_head("canonical"), seed=0)


@pytest.fixture(scope="module")
def batch(clips):
    return clips.sample(torch.Generator().manual_seed(1), batch=2, frames=2, size=64)


def test_sample_has_the_promised_shapes_and_ranges(batch):
    shapes = {
        "truth": (2, 2, 64, 64, 3), "degraded": (2, 2, 64, 64, 3), "mask": (2, 2, 64, 64, 1),
        "reference": (2, 64, 64, 3), "reference_landmarks": (2, 478, 2), "landmarks": (2, 2, 478, 2),
        "kind": (2,), "severity": (2,),
    }  # fmt: skip
    assert {name: tuple(value.shape) for name, value in batch.items()} == shapes
    for name in ("truth", "degraded", "mask", "reference"):
        assert batch[name].dtype == torch.float32
        assert float(batch[name].min()) >= 0.0
        assert float(batch[name].max()) <= 1.0
    assert all(0 <= k < len(KINDS) for k in batch["kind"].tolist())
    assert (batch["landmarks"].mean(2) - 0.5).abs().max() < 0.3
    covered = batch["mask"].mean((1, 2, 3, 4))
    assert ((covered > 0.08) & (covered < 0.8)).all()


def test_one_seed_is_one_result_and_seeds_share_nobody(clips, batch):
    again = clips.sample(torch.Generator().manual_seed(1), batch=2, frames=2, size=64)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    other = draw_subjects(clips.template, Draw.fork(torch.Generator().manual_seed(1), HELD_OUT_SEED, "cpu"), 2)
    same = draw_subjects(clips.template, Draw.fork(torch.Generator().manual_seed(1), 0, "cpu"), 2)
    assert not torch.isclose(other.identity.shape, same.identity.shape).all(1).any()


def test_sampling_leaves_global_random_state_alone(clips):
    before = torch.random.get_rng_state()
    clips.sample(torch.Generator().manual_seed(2), batch=1, frames=1, size=32)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("count", "frames", "size"), [(0, 1, 64), (1, 0, 64), (1, 1, 60)])
def test_impossible_samples_are_refused(clips, count, frames, size):
    with pytest.raises(ValueError, match="multiple of 8"):
        clips.sample(torch.Generator(), batch=count, frames=frames, size=size)


def test_kinds_have_their_cameras_and_expressions(clips):
    draw, kind = Draw(3), torch.arange(4).repeat_interleave(40)
    views = clip_views(draw, clips.template.head, kind, 5, 64)
    azimuth = views.azimuths.abs()
    assert azimuth[kind == 0].max() < 25
    assert azimuth[kind == 1].min() >= 30
    turning = azimuth[kind == 3]
    assert turning[:, 0].max() < 5
    assert turning[:, -1].min() >= 30
    arkit = motion(draw, 160, 5, wide=(kind == 2).float(), still=(kind == 3).float())
    assert float(arkit.min()) >= 0.0
    assert float(arkit.max()) <= 1.0
    assert torch.allclose(arkit[kind == 3], arkit[kind == 3][:, :1].expand(-1, 5, -1))
    jaw = arkit[..., ARKIT_INDEX["jawOpen"]].amax(1)
    assert jaw[kind == 2].mean() > 0.5 > jaw[kind == 0].mean()
    assert (arkit[kind == 0].diff(dim=1).abs().amax((1, 2)) > 0.02).float().mean() > 0.7


def test_reference_cameras_look_at_the_face_from_the_front(clips):
    views = reference_views(Draw(4), clips.template.head, 50, 64)
    assert views.azimuths.abs().max() < 25
    assert views.azimuths.std() > 4


def test_splats_have_the_covariance_of_their_triangles(clips):
    surface, head = clips.template.surface, clips.template.head
    _, quats, scales = surface.splats(clips.template.rest[None])
    rotation = quaternion.to_matrix(quats[0].double())
    rng = np.random.default_rng(0)
    free = torch.nonzero(~surface.regions["mouth"])[:, 0].numpy()  # in the mouth they are kept short
    for n in rng.choice(free, 25, replace=False):
        corners = clips.template.rest[head.faces[surface.triangle[n]]].double().numpy()
        weights = rng.dirichlet(np.ones(3), 200_000)  # uniform on the triangle
        sampled = np.cov((weights @ corners).T) * float(surface.share[n]) ** 2
        R = rotation[n].numpy()
        flat = scales[0, n].double().numpy() ** 2
        normal = R[:, 2]
        built = (R * flat) @ R.T - flat[2] * np.outer(normal, normal)
        assert np.abs(built - sampled).max() < 0.02 * np.abs(sampled).max() + 2e-10


def test_vertex_normals_of_the_eyeball_are_radial(clips):
    template = clips.template
    ids = template.head.faces[template.head.regions["iris_left"]].unique()
    points = template.rest[ids].double()
    system = torch.cat([2 * points, torch.ones(len(points), 1).double()], 1)
    centre = torch.linalg.lstsq(system, points.square().sum(1, keepdim=True)).solution[:3, 0]
    radial = torch.nn.functional.normalize(points - centre, dim=-1)
    assert ((template.vertex_normals[ids].double() * radial).sum(-1) > 0.98).all()


def test_along_x_turns_the_x_axis():
    direction = Draw(0).direction(500)
    turned = quaternion.to_matrix(along_x(direction))[:, :, 0]
    assert torch.allclose(turned, direction, atol=1e-4)


def test_seen_is_the_near_side_of_a_sphere():
    normals = Draw(0).direction(20_000)
    points = 0.1 * normals
    viewmat, K = orbit(20.0, 5.0, 0.6)[None], intrinsics(30.0, 128)[None]
    camera = torch.linalg.inv(viewmat[0])[:3, 3]
    towards = torch.nn.functional.normalize(camera - points, dim=-1)
    cosine = (normals * towards).sum(-1)
    found = seen(points[None], normals[None], viewmat, K, 128, torch.full((1, 1), 0.1))[0]
    assert torch.equal(found & (cosine < 0.1), torch.zeros_like(found))
    assert found[cosine > 0.25].float().mean() > 0.99
    behind = 0.02 * normals - 0.2 * torch.nn.functional.normalize(camera, dim=0)
    both = seen(torch.cat([points, behind])[None], torch.cat([normals, normals])[None], viewmat, K, 128,
                torch.full((1, 1), 0.1))[0]  # fmt: skip
    assert not both[20_000:].any()


def test_a_ball_sees_half_of_the_world():
    normals = Draw(1).direction(20_000)
    visible = Visibility(0.1 * normals, normals, directions=32)
    assert (visible.ambient - 1.0).abs().mean() < 0.05  # nothing of a convex body hides its own outer half


def test_filling_in_continues_what_is_known(clips):
    points = clips.template.atlas.points
    groups = Neighbourhoods(points, 256)
    known = (points[:, 0] > 0.01)[None]
    constant = torch.full((1, len(points), 1), 0.37)
    assert torch.allclose(groups.fill(constant * known[..., None], known), constant, atol=1e-4)
    height = points[None, :, 1:2]
    guess = groups.fill(height * known[..., None], known)[0, :, 0]
    near = (points[:, 0] < 0.0) & (points[:, 0] > -0.02)
    assert np.corrcoef(guess[near], height[0, near, 0])[0, 1] > 0.9


def test_polyline_finds_place_and_distance():
    chain = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 2.0, 0.0]])
    points = torch.tensor([[1.0, 1.0, 0.0], [3.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [-1.0, 0.0, 2.0]])
    along, distance, _ = polyline(points, chain)
    assert torch.allclose(along[1:], torch.tensor([0.75, 0.0, 0.0]))
    assert torch.allclose(distance, torch.tensor([1.0, 1.0, 1.0, math.sqrt(5.0)]))
    extended, beyond, _ = polyline(points, chain, extend=True)
    assert torch.allclose(extended[2:], torch.tensor([-0.25, -0.25]))
    assert torch.allclose(beyond[2:], torch.tensor([0.0, 2.0]), atol=1e-6)


def test_blur_and_compression_agree_with_scipy():
    picture = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    blurred = blur(picture, torch.tensor([0.0, 1.1]))
    assert torch.allclose(blurred[0], picture[0], atol=1e-6)
    wanted = scipy.ndimage.gaussian_filter(picture[1].numpy(), (1.1, 1.1, 0), mode="nearest", radius=(4, 4, 0))
    assert np.abs(blurred[1].numpy() - wanted).max() < 1e-5
    packed = block_compress(picture, torch.tensor([0.0, 0.1]))
    assert torch.allclose(packed[0], picture[0], atol=1e-5)
    block = scipy.fft.dctn(picture[1, 8:16, 16:24, 1].double().numpy(), norm="ortho")
    q = 0.1 * (1 + 0.5 * np.add.outer(np.arange(8), np.arange(8)))
    wanted = scipy.fft.idctn(np.round(block / q) * q, norm="ortho")
    assert np.abs(packed[1, 8:16, 16:24, 1].numpy() - wanted).max() < 1e-4


def test_colour_spaces():
    assert float(to_linear(torch.tensor(0.5))) == pytest.approx(0.21404, abs=1e-5)
    values = torch.linspace(0, 1, 101)
    assert torch.allclose(to_srgb(to_linear(values)), values, atol=1e-5)


def test_noise_has_unit_variance():
    points = 0.5 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    noise = wave_noise(points, Draw(0), 16, 0.03)
    assert abs(float(noise.mean())) < 0.1
    assert 0.85 < float(noise.std()) < 1.15


def test_no_photo_of_a_person_is_painted_on_skin():
    from zero1toa.evaluation.synthetic import textures

    assert not {"astronaut", "camera", "lfw_subset"} & set(textures._PICTURES)
    assert natural_pictures().shape[1:] == (3, 256, 256)


def _avatars(clips, severity: float, seed: int = 5, count: int = 2, blobs: bool = False):
    draw = Draw(seed)
    subjects = draw_subjects(clips.template, draw, count)
    views = reference_views(draw, clips.template.head, count, 96)
    arkit = coefficients({"mouthSmileLeft": 0.4, "mouthSmileRight": 0.4}).expand(count, 52)
    white = torch.ones(count, 3)
    with torch.no_grad():
        portrait, alpha, _ = subjects.render(arkit[:, None], views.viewmats, views.Ks, 96)
        level = torch.full((count,), severity)
        avatars = clips.degrader.avatars(subjects, portrait[:, 0], alpha[:, 0], arkit, views.viewmats[:, 0],
                                         views.Ks[:, 0], level, draw, blobs)  # fmt: skip
        shown = avatars.render(arkit[:, None], views.viewmats, views.Ks, 96, white)
    error = ((shown - portrait).square() * alpha).sum((1, 2, 3, 4)) / (3 * alpha.sum((1, 2, 3, 4)))
    return -10 * torch.log10(error)


def test_damage_grows_with_severity(clips):
    light, heavy = _avatars(clips, 0.1), _avatars(clips, 1.0)
    assert light.mean() > heavy.mean() + 3.0


def test_an_avatar_without_misfit_shows_its_portrait_again(clips):
    # At severity 0 nothing is damaged: projecting the portrait and rendering it from the same camera gives it back.
    assert _avatars(clips, 0.0).median() > 22.0


def test_blobs_damage_too(clips):
    assert (_avatars(clips, 1.0, blobs=True) < 25.0).all()


def test_degraded_clips_are_worse_but_show_the_same_head(batch):
    mask = batch["mask"]
    error = ((batch["truth"] - batch["degraded"]).square() * mask).sum((1, 2, 3, 4)) / (3 * mask.sum((1, 2, 3, 4)))
    psnr = -10 * torch.log10(error)
    assert ((psnr > 6.0) & (psnr < 40.0)).all()


def test_clothes_cover_the_neck_below_a_collar_and_nothing_else(clips):
    template = clips.template
    atlas, bottom = template.atlas, float(template.rest[:, 1].min())
    skin = torch.full((12, len(atlas.points), 3), 0.4)
    gloss = torch.ones(12, len(atlas.points))
    albedo, _, weight = paint_clothes(skin, gloss, atlas, bottom, Draw(3), dressed=1.0)
    height = atlas.points[:, 1] - bottom
    assert weight.amin() >= 0
    assert weight.amax() <= 1
    assert (weight[:, height > 0.075] == 0).all()
    assert (albedo - skin)[:, height > 0.12].abs().max() < 1e-4  # the collar's shadow has faded out
    assert ((weight == 1).any(1)).all()
    dressed = (weight == 1)[..., None] & ((albedo - skin).abs() > 0.05)
    assert dressed.any(-1).float().sum() > 0.8 * (weight == 1).float().sum()
    bare, same, none = paint_clothes(skin, gloss, atlas, bottom, Draw(3), dressed=0.0)
    assert torch.equal(bare, skin)
    assert torch.equal(same, gloss)
    assert not none.any()


def test_held_out_portrait_and_pictures_agree():
    subject = held_out_subject(0, detail=0)
    photo = subject.portrait(96)
    assert photo.shape == (96, 96, 3)
    assert photo.dtype == np.uint8
    viewmat, K = subject.portrait_camera(96)
    picture, alpha = subject.render(subject.arkit[None], viewmat[None], K[None], 96)
    inside = alpha[0, ..., 0].numpy() > 0.995
    assert inside.mean() > 0.15
    assert np.abs(photo[inside] / 255.0 - picture[0].numpy()[inside]).max() < 0.01
    assert inside[-1].any()  # the neck runs out of the picture
    assert not inside[:4].any()
    assert (photo[:10, :10] < 252).all()  # a wall, no white
    assert np.array_equal(photo, held_out_subject(0, detail=0).portrait(96))
    assert not np.array_equal(photo, held_out_subject(1, detail=0).portrait(96))


def test_mediapipe_finds_our_landmarks_where_we_say_they_are(clips):
    mediapipe = pytest.importorskip("mediapipe")
    draw = Draw(8)
    subjects = draw_subjects(clips.template, draw, 4, odd=0.0)
    head = clips.template.head
    viewmats = orbit(0.0, 0.0, 0.9, head.center).expand(4, 1, 4, 4)
    Ks = intrinsics(24.0, 256).expand(4, 1, 3, 3)
    with torch.no_grad():
        pictures, _, marks = subjects.render(torch.zeros(4, 1, 52), viewmats, Ks, 256)
    camera = marks[:, 0] @ viewmats[:, 0, :3, :3].transpose(-1, -2) + viewmats[:, 0, None, :3, 3]
    pixels = (camera @ Ks[:, 0].transpose(-1, -2))[..., :2] / camera[..., 2:]
    detector = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True)
    errors = []
    for picture, expected in zip(pictures[:, 0], pixels, strict=True):
        found = detector.process((picture.numpy() * 255).astype(np.uint8)).multi_face_landmarks
        if found:
            points = np.array([(p.x * 256, p.y * 256) for p in found[0].landmark])
            height = float((expected[10] - expected[152]).norm())
            errors.append(np.linalg.norm(points - expected.numpy(), axis=1).mean() / height)
    assert len(errors) >= 3
    assert np.median(errors) < 0.04
