"""The fit against heads whose camera, identity and expression are known, and against a real smile."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from zero1toa.errors import PortraitError
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES, coefficients
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.portrait.fitting import SHAPE_LIMIT, fit_head, head_yaw, portrait_intrinsics, similarity
from zero1toa.portrait.landmarks import detect_faces, face_height
from zero1toa.types import Portrait

IDENTITY_SEED, NOISE_SEED = 5, 6


def _view(yaw: float, pitch: float = 0.0) -> np.ndarray:
    """World-to-camera ``[4, 4]`` of a head turned to its left by ``yaw`` and up by ``pitch`` degrees, 0.85 m away."""
    turn = Rotation.from_euler("yx", [yaw, -pitch], degrees=True).as_matrix()
    out = np.eye(4)
    out[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ turn
    out[:3, 3] = [0.01, 0.02, 0.85]
    return out


def _photograph(head: HeadModel, params: HeadParams, viewmat: np.ndarray, noise: float) -> np.ndarray:
    """Landmarks ``[478, 3]`` in pixels as a detector gives them: x, y and a depth about the middle, with noise."""
    with torch.no_grad():
        points = head.landmarks.positions(head.vertices(params), head.faces).double().numpy()
    camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    pixels = 900 * camera[:, :2] / camera[:, 2:] + 256
    depth = 900 * (camera[:, 2:] - camera[:, 2:].mean()) / viewmat[2, 3]
    out = np.concatenate([pixels, 0.8 * depth], 1)  # the detector's depth is not to scale
    out[:, :2] += np.random.default_rng(NOISE_SEED).normal(0, noise * face_height(out), (478, 2))
    return out.astype(np.float32)


def _person(head: HeadModel, values: dict[str, float]) -> HeadParams:
    shape = torch.randn(head.n_shape, generator=torch.Generator().manual_seed(IDENTITY_SEED)) * 0.7
    return head.arkit(coefficients(values), head.neutral().replace(shape=shape))


@pytest.mark.parametrize("yaw", [0.0, -35.0])
def test_known_head_is_recovered(head: HeadModel, yaw: float) -> None:
    truth = {"jawOpen": 0.4, "mouthSmileLeft": 0.7, "mouthSmileRight": 0.6, "eyeBlinkLeft": 0.6}
    params, viewmat = _person(head, truth), _view(yaw, 6.0)
    points = _photograph(head, params, viewmat, noise=0.003)
    fit = fit_head(points, portrait_intrinsics(points, (256.0, 256.0)), head)
    assert fit.residual < 0.006
    assert fit.yaw == pytest.approx(yaw, abs=2.5)
    found = {name: float(fit.arkit[ARKIT_INDEX[name]]) for name in ARKIT_NAMES}
    for name, value in truth.items():
        # The price on every coefficient pulls it down a little.
        assert found[name] == pytest.approx(value, abs=0.25), name
    assert sum(found.values()) - sum(found[name] for name in truth) < 1.0
    assert found["eyeBlinkRight"] < 0.15
    with torch.no_grad():
        seen, wanted = (
            head.landmarks.positions(head.vertices(p), head.faces)[:468].double().numpy() for p in (fit.params, params)
        )
    # A photo does not tell the size: compare after the best similarity.
    rotation, scale, shift = similarity(seen, wanted)
    error = np.linalg.norm(scale * seen @ rotation.T + shift - wanted, axis=1)
    assert error.mean() < 0.003
    neutral = head.arkit(torch.zeros(52), head.neutral().replace(shape=params.shape))
    prior = head.landmarks.positions(head.vertices(head.neutral()), head.faces)[:468].double().numpy()
    with torch.no_grad():
        pair = [
            head.landmarks.positions(head.vertices(p), head.faces)[:468].double().numpy()
            for p in (fit.neutral, neutral)
        ]
    rotation, scale, shift = similarity(pair[0], pair[1])
    after = np.linalg.norm(scale * pair[0] @ rotation.T + shift - pair[1], axis=1).mean()
    rotation, scale, shift = similarity(prior, pair[1])
    before = np.linalg.norm(scale * prior @ rotation.T + shift - pair[1], axis=1).mean()
    assert after < 0.75 * before  # the identity behind the expression is found, depth included


def test_gaze_is_found(head: HeadModel) -> None:
    truth = {"eyeLookOutLeft": 0.6, "eyeLookInRight": 0.6}
    points = _photograph(head, _person(head, truth), _view(0.0), noise=0.002)
    fit = fit_head(points, portrait_intrinsics(points, (256.0, 256.0)), head)
    # Both eyes turn to the subject's left, about +y.
    assert fit.params.eyes[0, 1] == pytest.approx(0.31, abs=0.12)
    assert fit.params.eyes[1, 1] == pytest.approx(0.31, abs=0.12)


def test_far_outline_that_slides_does_not_turn_the_head(head: HeadModel) -> None:
    points = _photograph(head, _person(head, {}), _view(40.0), noise=0.003)
    far = [288, 361, 323, 454, 356, 389, 251, 397, 365]  # the subject's left cheek and temple
    slid = points.copy()
    slid[far, 0] += 0.03 * face_height(points)
    K = portrait_intrinsics(points, (256.0, 256.0))
    assert fit_head(slid, K, head).yaw == pytest.approx(40.0, abs=3.0)


def test_bounds_and_repeatability(head: HeadModel) -> None:
    points = _photograph(head, _person(head, {"jawOpen": 1.0}), _view(10.0), noise=0.01)
    K = portrait_intrinsics(points, (256.0, 256.0))
    first, second = fit_head(points, K, head), fit_head(points, K, head)
    assert torch.equal(first.params.shape, second.params.shape)
    assert torch.equal(first.viewmat, second.viewmat)
    assert first.params.shape.abs().max() <= SHAPE_LIMIT
    assert first.arkit.min() >= 0
    assert first.arkit.max() <= 1
    assert torch.linalg.det(first.viewmat[:3, :3]) == pytest.approx(1, abs=1e-4)


def test_what_is_no_face_is_refused(head: HeadModel) -> None:
    points = _photograph(head, head.neutral(), _view(0.0), noise=0.0)
    scrambled = points[np.random.default_rng(0).permutation(478)]
    scrambled[[10, 152]] = points[[10, 152]]
    with pytest.raises(PortraitError, match="differ from every face"):
        fit_head(scrambled, portrait_intrinsics(points, (256.0, 256.0)), head)
    with pytest.raises(ValueError, match="478"):
        fit_head(points[:468], torch.eye(3), head)


@pytest.mark.parametrize("yaw", [-50.0, 0.0, 20.0])
def test_yaw_of_a_rotation(yaw: float) -> None:
    assert head_yaw(torch.from_numpy(_view(yaw)[:3, :3])) == pytest.approx(yaw, abs=1e-6)


def test_similarity_by_construction() -> None:
    rng = np.random.default_rng(2)
    cloud = rng.normal(size=(30, 3))
    turn = Rotation.from_rotvec([0.3, -1.1, 0.4]).as_matrix()
    rotation, scale, shift = similarity(cloud, 2.5 * cloud @ turn.T + [1.0, 2.0, 3.0])
    np.testing.assert_allclose(rotation, turn, atol=1e-9)
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-9)


def test_small_real_faces(head: HeadModel, small_faces: list[np.ndarray]) -> None:
    residuals = []
    for picture in small_faces[6:8]:
        points = detect_faces(picture)[0]
        fit = fit_head(points, portrait_intrinsics(points, (100.0, 100.0)), head)
        residuals.append(fit.residual)
        assert abs(fit.yaw) < 15
    assert max(residuals) < 0.008


def test_the_smile_is_taken_out_of_the_astronaut(portrait: Portrait, head: HeadModel) -> None:
    """She smiles widely and shows her teeth; the fitted identity must do neither."""
    assert portrait.residual <= 0.008
    assert abs(portrait.yaw) < 5
    smile = [portrait.arkit[ARKIT_INDEX[f"mouthSmile{side}"]] for side in ("Left", "Right")]
    assert min(smile) > 0.5
    assert 0.1 < portrait.arkit[ARKIT_INDEX["jawOpen"]] < 0.5

    def mouth(params: HeadParams) -> tuple[float, float]:
        """Lip gap and mouth width in millimetres."""
        with torch.no_grad():
            points = 1000 * head.landmarks.positions(head.vertices(params), head.faces)
        return float((points[13] - points[14]).norm()), float((points[61] - points[291]).norm())

    fitted = mouth(portrait.params)
    neutral = mouth(head.arkit(torch.zeros(52), portrait.params))
    assert fitted[0] > 5
    assert neutral[0] < 1
    assert neutral[1] < 0.88 * fitted[1]


def test_portrait_camera_and_parameters_explain_its_landmarks(portrait: Portrait, head: HeadModel) -> None:
    """What is stored, projected by the plain pinhole formula, gives the reported residual."""
    with torch.no_grad():
        points = head.landmarks.positions(head.vertices(portrait.params), head.faces).double().numpy()
    camera = points @ portrait.viewmat[:3, :3].T + portrait.viewmat[:3, 3]
    pixels = camera @ portrait.K.T
    error = np.linalg.norm(pixels[:, :2] / pixels[:, 2:] - portrait.landmarks, axis=1)
    assert error.mean() / face_height(portrait.landmarks) == pytest.approx(portrait.residual, rel=1e-3)
    assert 0.7 <= portrait.viewmat[2, 3] <= 1.1
    assert portrait.K[0, 0] == portrait.K[1, 1]
    assert portrait.K[0, 2] == portrait.size / 2
    assert math.isclose(portrait.K[2, 2], 1.0)
