"""The line of a portrait's jaw: where the picture has an edge along the landmarks of the jaw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
"""MediaPipe's landmarks along the jaw, from the corner on the subject's right to that on the left."""
FOREHEAD, TIP = 10, 152
"""Landmarks whose distance is the face height."""
CHIN = slice(3, 12)
"""Those of the jaw below which its edge is looked for; at the corners an edge is hair's or an ear's as often."""
INWARD, OUTWARD, STEP = -0.005, 0.06, 0.005
"""Where an edge is looked for, beyond the landmarks and over the face height."""
WIDTH = 0.02
"""Distance over which an edge is measured, over the face height."""
CONTRAST = 16 / 255
"""Least mean step of the colours across an edge, norm of sRGB."""
RIM = 0.02
"""How far Gaussians reach beyond the mesh on which they lie, over the face height."""
_DENSE = 12  # points between two landmarks


class JawLine:
    """The landmarks' line, and how far beyond it the picture shows the jaw's edge.

    Attributes:
        edge: where a mesh's outline has to be for the picture's edge, pixels outwards from the landmarks; None where
            the picture shows no edge.
    """

    def __init__(self, landmarks: NDArray[np.floating], image: NDArray[np.uint8]) -> None:
        """Find the edge.

        Args:
            landmarks: ``[478, 2]`` in pixels of ``image``.
            image: carved portrait ``[H, W, 4]``, straight alpha.
        """
        corners = landmarks[list(JAW)].astype(np.float64)
        middle = landmarks[:468].mean(0)
        at = np.linspace(0, len(corners) - 1, _DENSE * (len(corners) - 1) + 1)
        self.points = np.stack([np.interp(at, range(len(corners)), column) for column in corners.T], 1)
        self.points = ndimage.gaussian_filter1d(self.points, _DENSE / 4, axis=0, mode="nearest")
        along = np.gradient(self.points, axis=0)
        length = np.linalg.norm(along, axis=1).clip(1e-9)[:, None]  # landmarks may coincide
        normals = np.stack([along[:, 1], -along[:, 0]], 1) / length
        outward = np.sign(((self.points - middle) * normals).sum(1).mean())
        self.normals = outward * normals
        self.edge = self._edge(image, float(np.linalg.norm(landmarks[FOREHEAD] - landmarks[TIP])))

    def _edge(self, image: NDArray[np.uint8], height: float) -> float | None:
        alpha = image[..., 3:].astype(np.float64) / 255
        picture = image[..., :3] / 255 * alpha + 1 - alpha
        picture = ndimage.gaussian_filter(picture, (0.25 * WIDTH * height, 0.25 * WIDTH * height, 0))
        along = slice(CHIN.start * _DENSE, (CHIN.stop - 1) * _DENSE + 1)
        points, normals = self.points[along], self.normals[along]

        def colors(distance: float) -> Array:
            x, y = (points + distance * height * normals).T - 0.5
            return np.stack(
                [ndimage.map_coordinates(c, (y, x), order=1, mode="nearest") for c in picture.T.swapaxes(1, 2)]
            )

        distances = np.arange(INWARD, OUTWARD + STEP / 2, STEP)
        steps = [float(np.linalg.norm(colors(d + WIDTH / 2) - colors(d - WIDTH / 2), axis=0).mean()) for d in distances]
        best = int(np.argmax(steps))
        return float((distances[best] - RIM) * height) if steps[best] >= CONTRAST else None

    def beyond(self, points: Array) -> Array:
        """By how much points ``[P, 2]`` lie beyond the edge, pixels ``[P, 2]``; zero where there is no edge or where
        a point lies inside, or beside the jaw.
        """
        if self.edge is None:
            return np.zeros_like(points)
        _, nearest = cKDTree(self.points).query(points)
        normal = self.normals[nearest]
        distance = ((points - self.points[nearest]) * normal).sum(1) - self.edge
        beside = (nearest == 0) | (nearest == len(self.points) - 1)
        return np.where(beside, 0.0, distance.clip(0))[:, None] * normal
