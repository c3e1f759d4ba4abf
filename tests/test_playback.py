"""Playing an avatar, against projected vertices of the head it is made on."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zero1toa.avatar.bundle import Bundle, fingerprint, read_bundle, write_bundle
from zero1toa.avatar.initialisation import initialise
from zero1toa.config import AvatarConfig
from zero1toa.evaluation.live import LivePlayer
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.head.arkit import coefficients
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import project

SIZE = 96


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> AvatarPlayer:
    """An avatar whose left half is red and right half blue, read back from its bundle."""
    head = load_head("canonical")
    rest = head.neutral()
    vertices = head.vertices(rest)
    avatar = initialise(head, vertices, AvatarConfig(gaussians_per_triangle=1, opacity=0.95))
    left = vertices[head.faces].mean(1)[avatar.binding][:, 0] > 0
    colors = torch.where(left[:, None], torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    with torch.no_grad():
        avatar.sh0.copy_((colors - 0.5) / 0.28209479177387814)
    smile = head.arkit(coefficients({"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0}), rest)
    path = tmp_path_factory.mktemp("bundle") / "avatar"
    camera = AvatarPlayer(Bundle(avatar, rest, head.name, fingerprint(head), np.eye(4), np.eye(3), 64), head).cameras(
        0.0, 0.0, 64, 1
    )
    viewmat, K = (matrix[0].numpy() for matrix in camera)
    write_bundle(path, Bundle(avatar, smile, head.name, fingerprint(head), viewmat, K, 64))
    return AvatarPlayer(read_bundle(path, head), head)


def _rest(count: int = 1) -> np.ndarray:
    return np.zeros((count, 52), np.float32)


def _share(picture: np.ndarray) -> tuple[float, float]:
    """Red and blue pixels as shares of the picture."""
    red, _, blue = (picture[..., i].astype(int) for i in range(3))
    return float((red - blue > 100).mean()), float((blue - red > 100).mean())


def test_the_camera_turns_as_documented(player: AvatarPlayer):
    front, left, right = (_share(player.render(_rest(), azimuth, size=SIZE)[0]) for azimuth in (0, 60, -60))
    assert front[0] == pytest.approx(front[1], rel=0.1)
    assert left[0] > 2 * left[1]  # positive azimuth moves the camera to the subject's left, which is red
    assert right[1] > 2 * right[0]


def test_a_pose_in_the_head_s_own_coefficients_is_seen_as_through_arkit(player: AvatarPlayer):
    weights = np.stack([coefficients({"jawOpen": 0.2 * i, "eyeBlinkLeft": 0.1 * i}).numpy() for i in range(6)])
    necks = np.linspace(0, 0.5, 18, dtype=np.float32).reshape(6, 3)
    params = player.head.arkit(torch.from_numpy(weights), player.identity.replace(neck=torch.from_numpy(necks)))
    posed = np.stack(list(player.posed_frames(params, 20.0, 5.0, SIZE)))
    np.testing.assert_array_equal(posed, player.render(weights, 20.0, 5.0, SIZE, neck=necks))


def test_larger_pictures_show_what_training_saw(player: AvatarPlayer):
    """Colours that change from one Gaussian to the next are as smooth in a large picture as in the one of training."""
    bundle = dataclasses.replace(player.bundle, avatar=copy.deepcopy(player.bundle.avatar))
    with torch.no_grad():
        bundle.avatar.sh0.copy_(torch.randn(bundle.avatar.sh0.shape, generator=torch.Generator().manual_seed(0)))
    trained = dataclasses.replace(bundle, config={"avatar": {"keep_margins": True}, "render": {"size": 64}})
    plain, smooth = AvatarPlayer(bundle, player.head), AvatarPlayer(trained, player.head)
    small = smooth.portrait_view(64).astype(float)
    np.testing.assert_array_equal(small, plain.portrait_view(64))

    def roughness(one: AvatarPlayer) -> float:
        large = one.portrait_view(256).astype(float).reshape(64, 4, 64, 4, 3)
        return float(large.std((1, 3)).mean())

    enlarged = np.asarray(Image.fromarray(small.astype(np.uint8)).resize((256, 256), Image.Resampling.BICUBIC))
    expected = float(enlarged.astype(float).reshape(64, 4, 64, 4, 3).std((1, 3)).mean())
    assert expected < roughness(smooth) < (expected + roughness(plain)) / 2

    eyes = torch.stack([player.head.regions[f"eye_{side}"] for side in ("left", "right")]).any(0)[bundle.avatar.binding]
    pose = torch.zeros(1, 52), torch.zeros(1, 3), *smooth.cameras(0.0, 0.0, 256, 1)
    shown, own = (one.place(*pose).scales[0] for one in (smooth, plain))
    assert torch.equal(shown[eyes], own[eyes])
    assert (shown > own).all(-1).sum() > 0.9 * (~eyes).sum()


def test_the_neck_turns_as_documented(player: AvatarPlayer):
    to_the_left = np.array([[0, np.radians(50), 0]], np.float32)
    red, blue = _share(player.render(_rest(), size=SIZE, neck=to_the_left)[0])
    assert blue > 1.5 * red  # the head turns to its left and shows its right side


def test_the_silhouette_is_the_projected_head(player: AvatarPlayer):
    picture = player.render(_rest(), 35.0, 10.0, SIZE, background=None)[0]
    viewmats, Ks = player.cameras(35.0, 10.0, SIZE, 1)
    pixels, _ = project(player.head.vertices(player.pose(torch.zeros(1, 52))), viewmats, Ks)
    rows, columns = np.nonzero(picture[..., 3] > 127)
    low, high = pixels[0].min(0).values, pixels[0].max(0).values
    np.testing.assert_allclose([columns.min(), rows.min()], low.numpy(), atol=2.5)
    assert columns.max() == pytest.approx(float(high[0]), abs=2.5)
    assert high[1] - 8 < rows.max() < high[1] + 2.5  # the neck fades out towards its end
    assert rows.min() > 2
    assert rows.max() < SIZE - 2  # the whole head is in the picture


def test_one_pose_with_many_cameras_is_many_poses(player: AvatarPlayer):
    azimuth = np.array([-40.0, 0.0, 40.0])
    together = player.render(_rest(3), azimuth, size=SIZE)
    for i, angle in enumerate(azimuth):
        np.testing.assert_array_equal(together[i], player.render(_rest(), angle, size=SIZE)[0])
    moving = _rest(3)
    moving[1] = coefficients({"jawOpen": 1.0}).numpy()
    mixed = player.render(moving, azimuth, size=SIZE)
    assert np.abs(mixed[0].astype(int) - together[0]).max() <= 1
    assert (mixed[1] != together[1]).any()


def test_transparent_pictures_composite_to_opaque_ones(player: AvatarPlayer):
    from zero1toa import media

    clear = player.render(_rest(), 20.0, size=SIZE, background=None)[0]
    white = player.render(_rest(), 20.0, size=SIZE)[0]
    assert np.abs(media.over(clear).astype(int) - white).max() <= 2


def test_the_portrait_view_has_the_portraits_expression(player: AvatarPlayer):
    rest = player.render(_rest(), size=64)[0]
    smile = coefficients({"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0}).numpy()[None]
    smiling = player.render(smile, size=64)[0].astype(int)
    own = player.portrait_view(64).astype(int)
    assert np.abs(own - smiling).mean() < 0.25 * np.abs(own - rest).mean()


def test_bundles_are_found_by_either_folder(player: AvatarPlayer, tmp_path: Path):
    from zero1toa.commands.player import open_player

    write_bundle(tmp_path / "avatar", player.bundle)
    for path in (tmp_path, tmp_path / "avatar"):
        assert len(open_player(path, "cpu").bundle.avatar) == len(player.bundle.avatar)


def test_live_playing_needs_cuda(player: AvatarPlayer):
    with pytest.raises(ValueError, match="needs a CUDA device, and the player is on cpu"):
        LivePlayer(player)


@pytest.mark.gpu
def test_live_pictures_equal_the_cpu_kernels(player: AvatarPlayer):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # A player moves its avatar to its device: the other one keeps its own.
    bundle = dataclasses.replace(player.bundle, avatar=copy.deepcopy(player.bundle.avatar))
    live = LivePlayer(AvatarPlayer(bundle, player.head, "cuda"), SIZE)
    live._places[2] = 10  # too few at first
    for jaw, azimuth in ((0.0, 20.0), (0.8, -30.0)):
        arkit = torch.stack([coefficients({"jawOpen": jaw}), coefficients({"eyeBlinkLeft": 1.0})])
        viewmats, Ks = live.player.cameras(azimuth, 5.0, SIZE, 2)
        found = live(arkit, viewmats, Ks).cpu().numpy() * 255
        wanted = player.render(arkit.numpy(), azimuth, 5.0, SIZE).astype(np.float64)
        assert np.abs(found - wanted).max() < 6  # TF32 and rounding move an edge by a little
        assert np.abs(found - wanted).mean() < 0.1
