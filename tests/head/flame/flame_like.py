"""A mesh with FLAME's sizes and structure that holds nothing of FLAME: the canonical head's skin, remeshed.

5023 vertices and 9976 triangles: a skin (3931, 7800) with closed eye sockets, a mouth hole of 28 edges behind the lips
and a neck loop of 34 edges, then two closed eyeballs (546, 1088 each), left one first. The expression basis is a random
mixture of smooth fields, so that no coefficient has a meaning of its own, as in FLAME.
"""

from __future__ import annotations

import dataclasses
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch

from zero1toa.head.canonical import CanonicalHead
from zero1toa.head.sculpt.topology import boundary_loops

MOUTH_EDGES, NECK_EDGES = 28, 34
SKIN, EYE = 3931, 546
JAW_OPEN = 0.35
ORIGIN = np.array([0.001, -0.012, 0.031])
"""Where the canonical head's origin lies here, so that nothing can rely on it."""


@dataclasses.dataclass
class FlameLike:
    """The arrays of a FLAME-like file, and what the construction knows about it.

    Attributes:
        entries: what the pickle holds.
        landmarks: where MediaPipe's 468 points truly are ``[468, 3]``.
        eye_centres: ``[2, 3]``, left first.
        eye_radius: metres.
        ears: truly ear vertices of the skin ``[3931]`` bool.
    """

    entries: dict[str, Any]
    landmarks: np.ndarray
    eye_centres: np.ndarray
    eye_radius: float
    ears: np.ndarray


def build(seed: int = 0, jaw: bool = True) -> FlameLike:
    """Make one; without a jaw its opening is a field of the expression basis, as in the edition without jaw."""
    rng = np.random.default_rng(seed)
    head = CanonicalHead.load()
    person = head.neutral().replace(shape=torch.from_numpy(rng.normal(0, 0.5, head.n_shape)).float())
    rest = head.vertices(person).double().numpy() + ORIGIN
    fields = _fields(head)
    skin_faces = (head.regions["face"] | head.regions["scalp"] | head.regions["neck"]).numpy()
    mesh = _Mesh(rest, head.faces.numpy()[skin_faces], head.weights.double().numpy(), fields)
    eyes = [rest[head.faces[head.regions[f"eye_{side}"]].unique().numpy()] for side in ("left", "right")]
    centres = np.stack([0.5 * (e.min(0) + e.max(0)) for e in eyes])
    radius = float(np.ptp(eyes[0][:, 0]) / 2)
    landmarks = rest[:468].copy()
    mesh.open_neck()
    mesh.close_sockets(centres)
    mesh.line_the_lips(landmarks)
    ears = mesh.raise_ears(landmarks)
    mesh.coarsen(rng)
    mesh.slide()

    points, faces, keep = mesh.compact()
    assert (len(points), len(faces)) == (SKIN, 7800), (len(points), len(faces))
    weights, fields = mesh.weights[keep], mesh.fields[keep]
    ball, ball_faces = _ball()
    for i in range(2):
        start = len(points)
        points = np.concatenate([points, centres[i] + radius * ball])
        faces = np.concatenate([faces, ball_faces + start])
        weights = np.concatenate([weights, np.tile(np.eye(5)[3 + i], (EYE, 1))])
        ids = head.faces[head.regions["eye_left" if i == 0 else "eye_right"]].unique().numpy()
        fields = np.concatenate([fields, np.tile(_fields(head)[ids].mean(0), (EYE, 1, 1))])
    n_shape = head.n_shape
    basis = np.zeros((len(points), 3, 400))
    basis[:, :, :n_shape] = fields[:, :, :n_shape]
    middle = np.concatenate([points[:SKIN], np.repeat(centres, EYE, 0)])  # eyeballs move as one
    for k in range(n_shape, 300):
        basis[:, :, k] = _smooth_field(middle, rng, 0.0006 * np.exp(-k / 150), (0.04, 0.08))
    expression = fields[:, :, n_shape:]
    if not jaw:
        opened = head.vertices(person.replace(jaw=torch.tensor([JAW_OPEN, 0.0, 0.0]))).double().numpy()
        move = np.concatenate([opened - (rest - ORIGIN), np.zeros((len(mesh.points) - len(rest), 3))])
        move[len(rest) :] = mesh.follow(move)[len(rest) :]
        move = np.concatenate([move[keep], np.zeros((2 * EYE, 3))])
        expression = np.concatenate([expression, 0.5 * move[:, :, None]], axis=2)
        weights = weights.copy()
        weights[:, 1] += weights[:, 2]
        weights[:, 2] = 0
    mixing = np.linalg.qr(rng.normal(size=(100, expression.shape[2])))[0].T  # orthonormal rows: [fields, 100]
    basis[:, :, 300:] = 0.45 * expression @ mixing
    for k in range(300, 400):
        basis[:, :, k] += _smooth_field(middle, rng, 0.0001, (0.02, 0.05))
    joints = np.concatenate([head._joints.double().numpy()[:3] + ORIGIN, centres])
    poses = np.stack([_smooth_field(points, rng, 0.0004, (0.03, 0.06)) for _ in range(36)], -1)
    poses[SKIN:] = 0
    regressor = _regressor(points, joints, rng)
    entries = {
        "v_template": points,
        "f": faces.astype(np.uint32),
        "shapedirs": basis,
        "posedirs": poses,
        "J_regressor": sp.csc_matrix(regressor),
        "J": regressor @ points,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], range(5)], np.uint32),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    return FlameLike(entries, landmarks, centres, radius, ears[keep])


class _Mesh:
    def __init__(self, points: np.ndarray, faces: np.ndarray, weights: np.ndarray, fields: np.ndarray) -> None:
        self.points, self.weights, self.fields = points.copy(), weights.copy(), fields.copy()
        self.faces = [tuple(int(v) for v in f) for f in faces]
        self.parents: list[list[int]] = [[i] for i in range(len(points))]

    def follow(self, values: np.ndarray) -> np.ndarray:
        return np.stack([values[p].mean(0) for p in self.parents])

    def add(self, point: np.ndarray, parents: list[int]) -> int:
        """A new vertex that moves as the mean of others."""
        self.points = np.concatenate([self.points, point[None]])
        self.weights = np.concatenate([self.weights, self.weights[parents].mean(0, keepdims=True)])
        self.fields = np.concatenate([self.fields, self.fields[parents].mean(0, keepdims=True)])
        self.parents.append([q for p in parents for q in self.parents[p]])
        return len(self.points) - 1

    def stitch(self, loop: np.ndarray, points: np.ndarray) -> np.ndarray:
        """A ring of new vertices inside of a boundary loop."""
        ring = np.array([self.add(p, [int(v)]) for p, v in zip(points, loop, strict=True)])
        for i in range(len(loop)):
            a, b, c, d = loop[i], loop[(i + 1) % len(loop)], ring[i], ring[(i + 1) % len(loop)]
            self.faces += [(int(b), int(a), int(c)), (int(b), int(c), int(d))]
        return ring

    def open_neck(self) -> None:
        """Take away the cap under the neck: two rings around its lowest vertex."""
        used = np.unique(self.faces)
        cap = {int(used[self.points[used, 1].argmin()])}
        for _ in range(2):
            near = [f for f in self.faces if cap & set(f)]
            self.faces = [f for f in self.faces if not cap & set(f)]
            cap = {v for f in near for v in f}

    def close_sockets(self, centres: np.ndarray) -> None:
        for centre in centres:
            loops = boundary_loops(np.array(self.faces))
            loop = min(loops, key=lambda x: np.linalg.norm(self.points[x].mean(0) - centre))
            # From the rim behind the lids to a cup behind the pupil, inside of the eyeball.
            ring = self.stitch(loop, centre + 0.6 * (self.points[loop] - centre) - [0, 0, 0.004])
            tip = self.add(centre - [0, 0, 0.004], [int(v) for v in ring])
            for i in range(len(ring)):
                self.faces.append((int(ring[(i + 1) % len(ring)]), int(ring[i]), tip))

    def line_the_lips(self, landmarks: np.ndarray) -> None:
        middle = 0.5 * (landmarks[13] + landmarks[14])
        loops = boundary_loops(np.array(self.faces))
        loop = min(loops, key=lambda x: np.linalg.norm(self.points[x].mean(0) - middle))
        low = {78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308}
        corners = [int(np.flatnonzero(loop == c)[0]) for c in (78, 308)]
        a, b = sorted(corners)
        inside = np.zeros(len(loop), bool)
        inside[a : b + 1] = True
        below = inside if set(loop[inside]) & (low - {78, 308}) else ~inside
        share = 1 - (np.abs(self.points[loop, 0] - middle[0]) / np.ptp(self.points[loop, 0]) * 2) ** 2
        up = np.where(below, -1.0, 1.0) * np.clip(share, 0, 1)
        for back, apart in ((0.0025, 0.0006), (0.0035, 0.003)):
            loop = self.stitch(loop, self.points[loop] + np.stack([0 * up, apart * up, 0 * up - back], -1))

    def raise_ears(self, landmarks: np.ndarray) -> np.ndarray:
        """Push the skin outwards where ears are."""
        truth = np.zeros(len(self.points), bool)
        for mark, side in ((454, 1.0), (234, -1.0)):
            at = landmarks[mark] + [0, 0.005, -0.022]
            away = (self.points - at) / [0.06, 0.033, 0.018]
            reach = np.linalg.norm(away, axis=1)
            outer = (reach < 1) & (side * self.points[:, 0] > 0.03)
            lift = 0.016 * np.clip(1.5 * (1 - reach), 0, 1)
            self.points[outer] += np.stack([side * lift, 0 * lift, -0.5 * lift], -1)[outer]
            truth |= outer & (lift > 0.010)
        return truth

    def coarsen(self, rng: np.random.Generator) -> None:
        """Collapse edges: first on the two loops, then short ones away from the face, to FLAME's sizes."""
        loops = sorted(boundary_loops(np.array(self.faces)), key=lambda x: self.points[x, 1].mean())
        assert len(loops) == 2
        work = _Collapser(self.faces)
        for loop, size in zip(loops, (NECK_EDGES, MOUTH_EDGES), strict=True):
            ring = [int(v) for v in loop]
            step = 0
            while len(ring) > size:
                at = step % (len(ring) - 1)
                step += 2
                if work.collapse(ring[at], ring[at + 1]):
                    del ring[at + 1]
                assert step < 4000
        alive = len({v for f in work.faces for v in f})
        border = {int(v) for loop in loops for v in loop}
        far = np.flatnonzero(self.points[:, 2] < self.points[:, 2].max() - 0.10)
        order = rng.permutation(far)
        for v in order:
            if alive == SKIN:
                break
            if int(v) not in work.around or int(v) in border:
                continue
            others = [u for u in work.neighbours(int(v)) if u not in border]
            others.sort(key=lambda u: float(np.linalg.norm(self.points[u] - self.points[v])))
            for u in others[:2]:
                if work.collapse(u, int(v)):
                    alive -= 1
                    break
        assert alive == SKIN, alive
        self.faces = work.result()

    def slide(self) -> None:
        """Move vertices along the surface towards their neighbours' mean, so that no landmark is a vertex any more."""
        faces = np.array(self.faces)
        n = len(self.points)
        a = sp.coo_matrix(
            (
                np.ones(6 * len(faces)),
                (
                    np.concatenate([faces.ravel(), faces.ravel()]),
                    np.concatenate([np.roll(faces, 1, 1).ravel(), np.roll(faces, -1, 1).ravel()]),
                ),
            ),
            (n, n),
        ).tocsr()
        a.data[:] = 1
        degree = np.maximum(np.asarray(a.sum(1)).ravel(), 1)
        step = 0.35 * (a @ self.points / degree[:, None] - self.points)
        corner = self.points[faces]
        normal = np.zeros_like(self.points)
        for i in range(3):
            np.add.at(normal, faces[:, i], np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        step -= (step * normal).sum(1, keepdims=True) * normal
        loops = np.concatenate(boundary_loops(faces))
        step[loops] = 0
        lid_or_lip = np.zeros(n, bool)
        lid_or_lip[_EDGES] = True
        step[lid_or_lip] *= 0.1
        step[degree < 2] = 0
        self.points = self.points + step

    def compact(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        faces = np.array(self.faces)
        keep, own = np.unique(faces, return_inverse=True)
        return self.points[keep], own.reshape(-1, 3), keep


_EDGES = [
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 95, 88, 178, 87, 14, 317, 402, 318, 324,
    33, 246, 161, 160, 159, 158, 157, 173, 133, 7, 163, 144, 145, 153, 154, 155,
    263, 466, 388, 387, 386, 385, 384, 398, 362, 249, 390, 373, 374, 380, 381, 382,
]  # fmt: skip


class _Collapser:
    """Edge collapses that keep a manifold."""

    def __init__(self, faces: list[tuple[int, int, int]]) -> None:
        self.faces = set(faces)
        self.around: dict[int, set[tuple[int, int, int]]] = {}
        for f in faces:
            for v in f:
                self.around.setdefault(v, set()).add(f)

    def neighbours(self, v: int) -> set[int]:
        return {u for f in self.around.get(v, ()) for u in f} - {v}

    def collapse(self, stay: int, go: int) -> bool:
        shared = {f for f in self.around[go] if stay in f}
        common = self.neighbours(stay) & self.neighbours(go)
        if not shared or len(common) != len(shared) or len(self.neighbours(stay) | self.neighbours(go)) > 12:
            return False
        moved = {f: tuple(stay if v == go else v for v in f) for f in self.around[go] - shared}
        if any(len(self.neighbours(u)) <= 3 for u in common):
            return False
        for f in shared:
            self._drop(f)
        for old, new in moved.items():
            self._drop(old)
            self.faces.add(new)  # type: ignore[arg-type]
            for v in new:
                self.around.setdefault(v, set()).add(new)  # type: ignore[arg-type]
        del self.around[go]
        return True

    def _drop(self, face: tuple[int, int, int]) -> None:
        self.faces.discard(face)
        for v in face:
            self.around[v].discard(face)

    def result(self) -> list[tuple[int, int, int]]:
        return sorted(self.faces)


def _fields(head: CanonicalHead) -> np.ndarray:
    """Displacement of every vertex per identity and expression coefficient of the canonical head ``[V, 3, S + E]``."""
    neutral = head.neutral()
    base = head.vertices(neutral).double()
    out = []
    for name, count in (("shape", head.n_shape), ("expression", head.n_expression)):
        moved = head.vertices(neutral.replace(**{name: torch.eye(count)})).double() - base
        out.append(moved.permute(1, 2, 0).numpy())
    return np.concatenate(out, -1)


def _smooth_field(points: np.ndarray, rng: np.random.Generator, size: float, widths: tuple[float, float]) -> np.ndarray:
    out = np.zeros((len(points), 3))
    for _ in range(6):
        at = points[rng.integers(len(points))]
        width = rng.uniform(*widths)
        out += np.exp(-0.5 * ((points - at) ** 2).sum(1) / width**2)[:, None] * rng.normal(size=3)
    return size * out


def _ball() -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere with its poles on z: 546 vertices, 1088 triangles."""
    rows, columns = 17, 34
    theta = np.linspace(0, np.pi, rows + 1)[1:-1]
    phi = np.arange(columns) * 2 * np.pi / columns
    t, p = np.meshgrid(theta, phi, indexing="ij")
    ring = np.stack([np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)], -1).reshape(-1, 3)
    points = np.concatenate([ring, [[0, 0, 1.0], [0, 0, -1.0]]])
    faces = []
    for j in range(columns):
        k = (j + 1) % columns
        faces += [(len(ring), j, k), (len(ring) + 1, (rows - 2) * columns + k, (rows - 2) * columns + j)]
        for i in range(rows - 2):
            a, b, c, d = i * columns + j, i * columns + k, (i + 1) * columns + j, (i + 1) * columns + k
            faces += [(a, c, b), (b, c, d)]
    return points, np.array(faces)


def _regressor(points: np.ndarray, joints: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights of few vertices that sum to one and give the joints."""
    out = np.zeros((5, len(points)))
    for j, joint in enumerate(joints):
        if j >= 3:
            out[j, SKIN + (j - 3) * EYE : SKIN + (j - 2) * EYE] = 1 / EYE
            continue
        ids = rng.choice(SKIN, 80, replace=False)
        system = np.concatenate([points[ids].T, np.ones((1, len(ids)))])
        out[j, ids] = np.linalg.lstsq(system, np.append(joint, 1.0), rcond=None)[0]
    return out


def write_pickle(path: Path, entries: dict[str, Any], *, old_scipy: bool = True, python2: bool = True) -> Path:
    """Write entries as MPI's files are: chumpy arrays, a scipy matrix, protocol 2, byte strings of Python 2."""
    stand_ins = _stand_ins("scipy.sparse.csc" if old_scipy else "scipy.sparse._csc")
    chumpy, matrix = (
        stand_ins["chumpy.ch"].Ch,
        next(m for n, m in stand_ins.items() if n.startswith("scipy")).csc_matrix,
    )
    disguised = {}
    for key, value in entries.items():
        if sp.issparse(value):
            fake = matrix()
            fake.__dict__.update(
                data=value.data, indices=value.indices, indptr=value.indptr, _shape=value.shape, maxprint=50
            )
            disguised[key] = fake
        elif key in ("v_template", "shapedirs", "posedirs", "weights", "J"):
            fake = chumpy()
            fake.__dict__.update(x=value, _dirty_vars=set(), _itr=None, _cache={"drs": {}}, dterms=("x",))
            disguised[key] = fake
        else:
            disguised[key] = value
    saved = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        with path.open("wb") as stream:
            (_Python2Pickler if python2 else pickle._Pickler)(stream, protocol=2).dump(disguised)  # type: ignore[attr-defined]
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return path


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes bytes and text as Python 2's ``str``, which has to be read as latin-1."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes

    def save_str(self, value: str) -> None:
        self.save_bytes_as(value.encode("latin1"), value)

    def save_bytes_as(self, raw: bytes, value: str) -> None:
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = save_str


def _stand_ins(scipy_path: str) -> dict[str, types.ModuleType]:
    out = {}
    for module, cls in (("chumpy.ch", "Ch"), (scipy_path, "csc_matrix")):
        made = types.ModuleType(module)
        setattr(made, cls, type(cls, (), {"__module__": module}))
        out[module] = made
    out["chumpy"] = types.ModuleType("chumpy")
    return out
