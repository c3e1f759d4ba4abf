"""From a photo to a portrait: what comes out of a good photo, and what a bad one is told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import data

from zero1toa.config import PortraitConfig
from zero1toa.errors import AssetError, PortraitError
from zero1toa.head.protocol import HeadModel
from zero1toa.portrait.carving import neck_guide
from zero1toa.portrait.landmarks import face_height
from zero1toa.portrait.pipeline import load_portrait
from zero1toa.types import Portrait

QUICK = PortraitConfig(size=128, matting="mediapipe", min_face=48)


def _save(image: np.ndarray, path: Path) -> Path:
    Image.fromarray(image).save(path)
    return path


def _to_crop(portrait: Portrait, x: float, y: float) -> tuple[int, int]:
    """Crop pixel of a point of the astronaut photo, from her landmarks there, measured by hand."""
    by_hand = np.array([[203.5, 101], [246, 103.5], [224, 178]])  # pupils, chin
    landmarks = portrait.landmarks[[468, 473, 152]]
    scale = np.linalg.norm(landmarks[2] - landmarks[:2].mean(0)) / np.linalg.norm(by_hand[2] - by_hand[:2].mean(0))
    place = landmarks.mean(0) + (np.array([x, y]) - by_hand.mean(0)) * scale
    return int(place[0]), int(place[1])


def test_what_a_portrait_holds(portrait: Portrait) -> None:
    assert portrait.image.shape == (384, 384, 4)
    assert portrait.image.dtype == np.uint8
    assert portrait.landmarks.shape == (478, 2)
    assert portrait.viewmat.dtype == portrait.K.dtype == portrait.arkit.dtype == portrait.landmarks.dtype == np.float32
    assert portrait.params.shape.dim() == 1
    assert not portrait.params.neck.any()
    # Head and hair fill the crop, with a border.
    rows = np.flatnonzero((portrait.image[..., 3] > 128).any(1))
    assert 0.02 * 384 < rows[0] < 0.1 * 384
    assert face_height(portrait.landmarks) > 0.3 * 384
    assert any("clothes cover the neck" in note for note in portrait.notes)  # she wears a polo neck


def test_matte_keeps_her_head_and_drops_the_rest(portrait: Portrait) -> None:
    alpha = portrait.image[..., 3]
    kept = {"hair": (190, 40), "fringe": (225, 70), "cheek": (200, 125), "chin": (224, 170), "hair left": (170, 90)}
    dropped = {"wall": (120, 40), "collar ring": (160, 160), "suit": (150, 195), "ring right": (285, 190)}
    for name, place in kept.items():
        x, y = _to_crop(portrait, *place)
        assert alpha[y, x] == 255, name
    for name, place in dropped.items():
        x, y = _to_crop(portrait, *place)
        assert not (0 <= x < 384 and 0 <= y < 384) or alpha[y, x] < 8, name


def test_no_background_in_the_colours(portrait: Portrait) -> None:
    """In the soft border of her brown hair the stored colour is hair, not a mixture with the light wall."""
    alpha, colors = portrait.image[..., 3] / 255.0, portrait.image[..., :3].astype(float).mean(-1)
    above_eyes = np.arange(384)[:, None] < portrait.landmarks[468, 1]
    border = (alpha > 0.2) & (alpha < 0.8) & above_eyes
    hair = (alpha == 1) & (ndimage.distance_transform_edt(alpha == 1) < 12) & above_eyes
    assert border.sum() > 100
    x, y = 130, 30  # the wall beside her
    wall = data.astronaut()[y, x].mean()
    share = (colors[border].mean() - colors[hair].mean()) / (wall - colors[hair].mean())
    assert share < 0.15


def test_neck_ends_softly(portrait: Portrait) -> None:
    """Down the middle of the neck alpha falls from one to zero over centimetres, and never rises again."""
    alpha = portrait.image[..., 3] / 255.0
    chin = portrait.landmarks[152]
    column = alpha[int(chin[1]) :, int(chin[0]) - 2 : int(chin[0]) + 3].mean(1)
    millimetre = portrait.K[0, 0] / portrait.viewmat[2, 3] / 1000
    assert (np.diff(column) < 1e-3).all()
    band = int((column < 0.95).argmax()), int((column < 0.05).argmax())
    assert band[1] > band[0]
    assert (band[1] - band[0]) / millimetre > 12
    # No step between neighbouring rows over the whole width of the neck either.
    lower = alpha[int(chin[1]) + int(15 * millimetre) :]
    assert np.abs(np.diff(lower, axis=0)).max() < 0.2


def test_neck_guide_measures_the_rest_frame(portrait: Portrait, head: HeadModel) -> None:
    import torch

    from zero1toa.portrait.fitting import HeadFit

    fit = HeadFit(
        params=portrait.params,
        neutral=portrait.params,
        arkit=torch.from_numpy(portrait.arkit),
        viewmat=torch.from_numpy(portrait.viewmat),
        K=torch.from_numpy(portrait.K),
        projected=torch.from_numpy(portrait.landmarks),
        residuals=torch.zeros(478),
        yaw=portrait.yaw,
    )
    guide = neck_guide(head, fit, portrait.size)
    with torch.no_grad():
        vertices = head.vertices(portrait.params).double()
        landmarks = head.landmarks.positions(vertices, head.faces)
    neck = vertices[torch.unique(head.faces[head.regions["neck"]])]
    truth = float(landmarks[152, 1] - neck[:, 1].min())
    assert guide.chin == pytest.approx(truth, abs=0.02)
    assert 0 < guide.chin < guide.jaw < guide.ear < 0.3
    # Where the neck covers a pixel it is inside both outlines, up to their smoothing.
    middle = guide.tube & (guide.height < guide.chin) & (guide.height > 0.02)
    assert (np.minimum(guide.left, guide.right)[middle] > -0.006).mean() > 0.99
    wide = (guide.left + guide.right)[middle]
    assert 0.08 < wide.mean() < 0.16


def test_same_photo_same_portrait(photo_file: Path, head: HeadModel) -> None:
    first, second = load_portrait(photo_file, QUICK, head), load_portrait(photo_file, QUICK, head)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.arkit, second.arkit)
    assert first.residual == second.residual


def test_no_face(tmp_path: Path, head: HeadModel) -> None:
    path = _save(data.coffee(), tmp_path / "coffee.png")
    with pytest.raises(PortraitError, match=r"no face in coffee\.png"):
        load_portrait(path, QUICK, head)


def test_small_face(tmp_path: Path, head: HeadModel) -> None:
    small = np.asarray(Image.fromarray(data.astronaut()).resize((200, 200)))
    path = _save(small, tmp_path / "small.png")
    with pytest.raises(PortraitError, match=r"4\d pixels high; at least 64"):
        load_portrait(path, PortraitConfig(), head)


def test_turned_too_far(tmp_path: Path, head: HeadModel, small_faces: list[np.ndarray]) -> None:
    path = _save(small_faces[21], tmp_path / "turned.png")  # about 23 degrees
    config = PortraitConfig(size=128, max_yaw=15.0, matting="mediapipe")
    with pytest.raises(PortraitError, match=r"turned by 2\d degrees; at most 15"):
        load_portrait(path, config, head)


def test_several_faces(tmp_path: Path, head: HeadModel) -> None:
    half = np.asarray(Image.fromarray(data.astronaut()[:, ::-1]).resize((400, 400)))
    both = np.full((512, 912, 3), 255, np.uint8)
    both[:400, :400], both[:, 400:] = half, data.astronaut()
    path = _save(both, tmp_path / "two.png")
    largest = load_portrait(path, QUICK, head)
    assert any("2 faces; the largest is used" in note for note in largest.notes)
    other = load_portrait(path, PortraitConfig(size=128, matting="mediapipe", face=1), head)
    assert not any("faces" in note for note in other.notes)
    assert not np.array_equal(largest.image, other.image)
    with pytest.raises(PortraitError, match=r"portrait\.face=2 .* 2 face"):
        load_portrait(path, PortraitConfig(face=2), head)


def test_border_of_the_photo_is_announced_and_soft(tmp_path: Path, head: HeadModel) -> None:
    path = _save(data.astronaut()[40:200, 120:330], tmp_path / "tight.png")  # hair and neck are cut off
    portrait = load_portrait(path, QUICK, head)
    assert any("cuts off" in note for note in portrait.notes)
    assert portrait.residual < 0.01
    alpha = portrait.image[..., 3] / 255.0
    chin = int(portrait.landmarks[152, 1])
    assert np.abs(np.diff(alpha[chin + 6 :], axis=0)).max() < 0.35


def test_a_segmentation_that_sees_nobody_is_replaced_by_the_heads_outline(
    portrait: Portrait, photo_file: Path, head: HeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = lambda image, method: np.zeros(image.shape[:2], np.float32)  # noqa: E731
    monkeypatch.setattr("zero1toa.portrait.pipeline.segment_person", nobody)
    monkeypatch.setattr("zero1toa.portrait.crop.segment_person", nobody)
    found = load_portrait(photo_file, PortraitConfig(size=384, matting="mediapipe"), head)
    assert any("cannot be told from the background" in note for note in found.notes)
    covered = np.asarray(Image.fromarray(found.image).resize((96, 96)))[..., 3] > 128
    # The crops differ, because hair beyond the head's outline is not seen; both hold the same head.
    points = (found.landmarks[:468] / 4).astype(int)
    assert covered[points[:, 1], points[:, 0]].mean() > 0.98  # but for the rim of the face
    assert 0.4 < covered.sum() / (portrait.image[::4, ::4, 3] > 128).sum() < 1.2


def test_missing_matting_model(photo_file: Path, head: HeadModel, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for variable in ("ZERO1TOA_HOME", "U2NET_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(AssetError, match="rembg"):
        load_portrait(photo_file, PortraitConfig(matting="rembg"), head)
    portrait = load_portrait(photo_file, PortraitConfig(size=128), head)
    assert any("rembg's model u2net is not installed" in note for note in portrait.notes)
