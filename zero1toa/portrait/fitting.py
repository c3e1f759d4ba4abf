"""Fit camera, identity and expression of a head model to the landmarks of one photo.

Robust least squares over the 478 landmarks with a Gaussian prior on the identity and a weighted L1 on non-negative
ARKit coefficients: the few shapes that portraits really show are cheap, the others six times dearer, because they would
otherwise explain identity and noise a little each. The head stays in its rest frame; the camera absorbs the pose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from zero1toa.errors import PortraitError
from zero1toa.head.arkit import ARKIT_INDEX, ARKIT_NAMES
from zero1toa.head.protocol import N_LANDMARKS, HeadModel, HeadParams
from zero1toa.portrait.landmarks import face_height
from zero1toa.render.cameras import project

DISTANCE = 0.9
"""Camera distance in metres that the focal length is chosen for: a portrait's usual perspective. A photo does not tell
its focal length once it is cropped; 0.7 to 1.0 m fit equally well, less is clearly worse."""
FACE_METRES = 0.161
"""Mean face height from landmark 10 to 152 in metres, for the first guess of the scale."""
SHAPE_LIMIT = 2.5
"""Bound on identity coefficients in standard deviations; beyond it meshes fold."""
MAX_RESIDUAL = 0.03
"""Mean residual over the face height above which the landmarks are taken for no face."""

_SIGMA = 0.006  # scale of the robust loss: the detector's own jitter over the face height
_DATA_WEIGHT = 120.0  # landmarks are correlated: 478 of them count as this many
_EXPRESSION_WEIGHT = 4.0  # price of a full core expression, in the units of the Gaussian prior
_OTHER_PRICE = 6.0
_EXPRESSION_LIMIT = 1.0
_CORE = (
    "jawOpen", "mouthSmileLeft", "mouthSmileRight", "mouthPucker", "mouthFrownLeft", "mouthFrownRight",
    "browInnerUp", "browDownLeft", "browDownRight", "browOuterUpLeft", "browOuterUpRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeWideLeft", "eyeWideRight",
    "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight",
    "eyeLookUpLeft", "eyeLookUpRight",
)  # fmt: skip
_EXCLUDED = ("tongueOut",)  # no landmark shows it

_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
_IRIS = slice(468, 478)


@dataclasses.dataclass(frozen=True)
class HeadFit:
    """A head that explains the landmarks of a photo.

    Attributes:
        params: head with the photo's identity and expression, no batch dimension; the neck is straight.
        neutral: the same identity without expression.
        arkit: ARKit coefficients ``[52]`` in [0, 1].
        viewmat: world-to-camera ``[4, 4]``, OpenCV, metres.
        K: intrinsics ``[3, 3]`` in pixels, as given.
        projected: the fitted landmarks in pixels ``[478, 2]``.
        residuals: distance of each landmark over the face height ``[478]``.
        yaw: head yaw towards the subject's left in degrees, seen from the camera.
    """

    params: HeadParams
    neutral: HeadParams
    arkit: Tensor
    viewmat: Tensor
    K: Tensor
    projected: Tensor
    residuals: Tensor
    yaw: float

    @property
    def residual(self) -> float:
        """Mean residual of all landmarks over the face height."""
        return float(self.residuals.mean())


def portrait_intrinsics(points: NDArray[np.floating], center: tuple[float, float]) -> Tensor:
    """Intrinsics that put a face of ``points`` ``[478, >=2]`` at :data:`DISTANCE`, the principal point at ``center``.

    Returns:
        K ``[3, 3]`` float32 in the pixels of ``points``.
    """
    width = float(np.ptp(points[:468, 0])) * FACE_METRES / 0.141  # a face turned up or down is shorter, not narrower
    focal = DISTANCE * max(face_height(points), width) / FACE_METRES
    return torch.tensor([[focal, 0.0, center[0]], [0.0, focal, center[1]], [0.0, 0.0, 1.0]])


def fit_head(
    points: NDArray[np.floating],
    K: Tensor,
    head: HeadModel,
    start: HeadFit | None = None,
    max_residual: float = MAX_RESIDUAL,
) -> HeadFit:
    """Fit ``head`` to landmarks.

    Args:
        points: detected landmarks ``[478, 3]``, x and y in pixels, z in pixels (MediaPipe's, only for the first pose).
        K: intrinsics ``[3, 3]`` in pixels, kept fixed.
        head: the head model, on CPU.
        start: an earlier fit of the same face, for example under other intrinsics.
        max_residual: refuse a mean residual above this share of the face height.

    Returns:
        The fit; deterministic.

    Raises:
        PortraitError: the landmarks do not look like a face of this head model.
        ValueError: ``points`` has another shape.
    """
    if points.shape != (N_LANDMARKS, 3):
        raise ValueError(f"points must be [{N_LANDMARKS}, 3], got {list(points.shape)}")
    problem = _Problem(torch.as_tensor(points[:, :2], dtype=torch.float32), K, head, face_height(points))
    if start is None:
        problem.rotation, problem.translation = _first_pose(points, K, head)
        problem.solve(shape=False, expression=False, iterations=40)
        problem.solve(shape=True, expression=False, iterations=40)
    else:
        problem.rotation, problem.translation = start.viewmat[:3, :3], start.viewmat[:3, 3].clone()
        problem.shape, problem.arkit = start.params.shape.clone(), start.arkit.clone()
    for _ in range(2):  # twice, because the weights follow the pose
        problem.solve(shape=True, expression=True, iterations=120)
    fit = problem.result()
    if not math.isfinite(fit.residual) or fit.residual > max_residual:
        raise PortraitError(
            f"the landmarks differ from every face that the head model can make by {fit.residual:.1%} of the face "
            f"height on average (at most {max_residual:.1%} is accepted); give a clear photo of one uncovered face"
        )
    return fit


def head_yaw(rotation: Tensor) -> float:
    """Yaw of the head towards the subject's left in degrees, seen from a camera with ``rotation`` ``[3, 3]``.

    It is the angle of the face's direction (+z) about the camera's vertical: 0 towards the camera, positive when the
    face turns to the subject's left, which is the picture's right.
    """
    forward = rotation[:, 2]
    return math.degrees(math.atan2(float(forward[0]), -float(forward[2])))


class _Problem:
    """The unknowns, their scaling and the objective."""

    def __init__(self, target: Tensor, K: Tensor, head: HeadModel, height: float) -> None:
        self.target, self.K, self.head, self.height = target, K.float(), head, height
        self.identity = head.neutral()
        self.rotation, self.translation = torch.eye(3), torch.zeros(3)
        self.shape = torch.zeros(head.n_shape)
        self.arkit = torch.zeros(len(ARKIT_NAMES))
        price = torch.full((len(ARKIT_NAMES),), _OTHER_PRICE)
        price[[ARKIT_INDEX[name] for name in _CORE]] = 1.0
        self.price = price * _EXPRESSION_WEIGHT

    def solve(self, *, shape: bool, expression: bool, iterations: int) -> None:
        """Minimise over the pose and, if wanted, identity and expression, starting from the present values."""
        n_shape, n_arkit = self.head.n_shape if shape else 0, len(ARKIT_NAMES) if expression else 0
        weights = self._weights()
        base = self.rotation, self.translation

        def unpack(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            # One unit of x moves the face by about one centimetre, whatever the variable.
            rotation = _exponential(0.1 * x[:3]) @ base[0]
            translation = base[1] + x[3:6] * torch.tensor([0.01, 0.01, 0.1])
            beta = x[6 : 6 + n_shape] if shape else self.shape
            weights52 = x[6 + n_shape :] if expression else self.arkit
            return rotation, translation, beta, weights52

        def objective(x: Tensor) -> Tensor:
            rotation, translation, beta, arkit = unpack(x)
            offset = (self._project(rotation, translation, beta, arkit) - self.target) / (self.height * _SIGMA)
            # Pseudo-Huber: quadratic within the detector's jitter, linear beyond.
            loss = _DATA_WEIGHT * (weights * (torch.sqrt(1 + offset.square().sum(-1)) - 1)).mean()
            return loss + 0.5 * beta.square().sum() + (self.price * arkit).sum()

        parts = [torch.zeros(6), self.shape if shape else torch.zeros(0), self.arkit if expression else torch.zeros(0)]
        low = [-10.0] * 6 + [-SHAPE_LIMIT] * n_shape + [0.0] * n_arkit
        high = [10.0] * 6 + [SHAPE_LIMIT] * n_shape + [_EXPRESSION_LIMIT] * n_arkit
        if expression:
            for name in _EXCLUDED:
                high[6 + n_shape + ARKIT_INDEX[name]] = 0.0
        best = _minimize(objective, torch.cat(parts), low, high, iterations)
        with torch.no_grad():
            self.rotation, self.translation, self.shape, self.arkit = (t.clone() for t in unpack(best))

    def result(self) -> HeadFit:
        with torch.no_grad():
            projected = self._project(self.rotation, self.translation, self.shape, self.arkit)
            neutral = self.identity.replace(shape=self.shape)
            viewmat = torch.eye(4)
            viewmat[:3, :3], viewmat[:3, 3] = self.rotation, self.translation
            return HeadFit(
                params=self.head.arkit(self.arkit, neutral),
                neutral=neutral,
                arkit=self.arkit,
                viewmat=viewmat,
                K=self.K,
                projected=projected,
                residuals=(projected - self.target).norm(dim=-1) / self.height,
                yaw=head_yaw(self.rotation),
            )

    def _project(self, rotation: Tensor, translation: Tensor, shape: Tensor, arkit: Tensor) -> Tensor:
        params = self.head.arkit(arkit, self.identity.replace(shape=shape))
        landmarks = self.head.landmarks.positions(self.head.vertices(params), self.head.faces)
        viewmat = torch.cat([torch.cat([rotation, translation[:, None]], 1), torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
        return project(landmarks, viewmat, self.K)[0]

    def _weights(self) -> Tensor:
        """Weight of each landmark ``[478]``, mean 1.

        In a turned face the far oval is not the mesh's oval: the detector slides it along the visible outline.
        """
        weights = torch.ones(N_LANDMARKS)
        weights[_IRIS] = 3.0  # ten landmarks alone carry the gaze
        yaw = head_yaw(self.rotation)
        hidden = min(abs(yaw) / 30.0, 1.0)
        x = self.head.landmarks.positions(self.head.vertices(self.identity), self.head.faces)[list(_OVAL), 0]
        # Turned to its left (positive yaw) the subject's left side is the far one.
        far = torch.sigmoid(math.copysign(1.0, yaw) * x / 0.01)
        weights[list(_OVAL)] = 1.0 - 0.85 * hidden * far
        return weights / weights.mean()


def _first_pose(points: NDArray[np.floating], K: Tensor, head: HeadModel) -> tuple[Tensor, Tensor]:
    """Camera rotation and translation from MediaPipe's own depth, by the similarity between both landmark clouds."""
    with torch.no_grad():
        model = head.landmarks.positions(head.vertices(head.neutral()), head.faces)[:468].double().numpy()
    seen = points[:468].astype(np.float64)
    rotation, scale, _ = similarity(model, seen)
    focal, center = float(K[0, 0]), K[:2, 2].double().numpy()
    depth = focal / scale
    middle = (seen[:, :2].mean(0) - center) * depth / focal
    translation = np.array([middle[0], middle[1], depth]) - rotation @ model.mean(0)
    return torch.tensor(rotation, dtype=torch.float32), torch.tensor(translation, dtype=torch.float32)


def similarity(
    source: NDArray[np.floating], target: NDArray[np.floating]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Least-squares similarity ``target = scale * rotation @ source + shift`` (Umeyama 1991) of clouds ``[N, 3]``.

    Returns:
        Rotation ``[3, 3]`` (proper), scale, shift ``[3]``.
    """
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((s * sign).sum() / (a * a).sum())
    return rotation, scale, target.mean(0) - scale * rotation @ source.mean(0)


def _exponential(vector: Tensor) -> Tensor:
    """Rotation matrix ``[3, 3]`` of an axis-angle vector ``[3]``, differentiable at zero."""
    x, y, z = vector
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return torch.linalg.matrix_exp(skew)


def _minimize(
    objective: Callable[[Tensor], Tensor], start: Tensor, low: list[float], high: list[float], iterations: int
) -> Tensor:
    """L-BFGS-B: the bounds make coefficients exactly zero, which a penalty alone would not."""

    def value_and_gradient(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        variable = torch.tensor(x, dtype=torch.float32, requires_grad=True)
        loss = objective(variable)
        (gradient,) = torch.autograd.grad(loss, variable)
        return float(loss), gradient.double().numpy()

    found = minimize(
        value_and_gradient,
        start.double().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"maxiter": iterations, "maxcor": 20, "ftol": 1e-7, "gtol": 1e-4},
    )
    return torch.tensor(found.x, dtype=torch.float32)
