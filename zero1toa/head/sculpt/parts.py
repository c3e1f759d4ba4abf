"""The pieces beside the skin: eyeballs, lid skirts, mouth lining, teeth, tongue and ears. Millimetres.

Each piece is a :class:`Part`; pieces on the two sides are built on the left and mirrored.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]

EYE_RADIUS = 12.2
IRIS_RADIUS = 5.9
PUPIL_RADIUS = 2.0
#: Polar angles of the eyeball's rings in degrees: dense over pupil and iris, so that they can be painted per vertex.
EYE_RINGS = (4.7, 9.4, 12.0, 17.0, 22.0, 26.5, 28.9, 31.0, 37.0, 47.0, 64.0, 90.0)
EYE_SEGMENTS = 24
IRIS_RING = 6  # index into EYE_RINGS of the limbus
LID_CLEARANCE = 0.4
SKIRT_DEPTH = 1.0  # how far the inner rims of the lids reach into the eyeball

#: Widths of the crowns from the midline back, upper and lower, and their visible heights.
UPPER_WIDTHS = (8.5, 6.6, 7.6, 7.0, 6.8, 10.0)
LOWER_WIDTHS = (5.4, 5.9, 6.8, 7.0, 7.2, 10.5)
TOOTH_HEIGHT = 9.5
GUM_HEIGHT = 5.0


@dataclasses.dataclass(frozen=True)
class Part:
    """Vertices ``[V, 3]`` and outward triangles ``[F, 3]`` of one piece."""

    points: Array
    faces: Index

    def mirrored(self) -> Part:
        """The same piece on the other side of the head."""
        return Part(self.points * np.array([-1.0, 1.0, 1.0]), self.faces[:, [0, 2, 1]])


def grid_triangles(rows: int, columns: int, wrap: bool, first: int = 0) -> Index:
    """Triangles of a grid of vertices numbered row by row; ``wrap`` joins the last column to the first.

    They face the side from which (row direction) x (column direction) points at the viewer.
    """
    out = []
    for r in range(rows - 1):
        for c in range(columns if wrap else columns - 1):
            d = (c + 1) % columns
            a, b = first + r * columns + c, first + r * columns + d
            e, f = a + columns, b + columns
            out += [(a, e, b), (b, e, f)]
    return np.array(out, dtype=np.int64)


def eye_centre(loop: Array, iris: Array) -> Array:
    """Place the eyeball behind its lids: centred on the iris, as far forward as the lids' clearance lets it.

    Args:
        loop: lid edge ``[N, 3]``.
        iris: detector's iris centre ``[3]``.
    """
    offset = loop[:, :2] - iris[:2]
    reach = (EYE_RADIUS + LID_CLEARANCE) ** 2 - (offset**2).sum(1)
    limits = loop[reach > 0, 2] - np.sqrt(reach[reach > 0])
    return np.array([iris[0], iris[1], limits.min()])


def eyeball(centre: Array) -> Part:
    """A sphere whose pole looks along +z; vertex 0 is the pole, then ring by ring from the subject's left upwards."""
    polar = np.radians(EYE_RINGS)[:, None]
    around = 2 * np.pi * np.arange(EYE_SEGMENTS)[None] / EYE_SEGMENTS
    x = np.sin(polar) * np.cos(around)
    y = np.sin(polar) * np.sin(around)
    z = np.broadcast_to(np.cos(polar), x.shape)
    rings = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    directions = np.concatenate([[[0.0, 0.0, 1.0]], rings, [[0.0, 0.0, -1.0]]])
    n, last = EYE_SEGMENTS, len(directions) - 1
    cap = [(0, 1 + c, 1 + (c + 1) % n) for c in range(n)]
    back = [(last, last - n + (c + 1) % n, last - n + c) for c in range(n)]
    body = grid_triangles(len(EYE_RINGS), n, True, 1)
    return Part(centre + EYE_RADIUS * directions, np.concatenate([np.array(cap), body, np.array(back)]))


def arch_depth(x: Array, front: float) -> Array:
    """z of the dental arch at ``x`` millimetres from the midline."""
    return front - 40.0 * (np.abs(x) / 27.0) ** 2.2


def teeth(mouth: Array, upper: bool) -> Part:
    """One dental arch: gum, crown, biting edge and back, six teeth a side.

    Args:
        mouth: middle of the closed lips ``[3]``.
        upper: upper arch (bites in front of the lower one).
    """
    widths = UPPER_WIDTHS if upper else LOWER_WIDTHS
    marks = np.concatenate([[0.0], np.cumsum(widths)])
    halves = np.concatenate([marks, 0.5 * (marks[1:] + marks[:-1])])
    along = np.unique(np.concatenate([-halves, halves]))
    front = mouth[2] - (5.5 if upper else 7.8)
    dense = np.linspace(0, 30, 600)
    curve = np.stack([dense, arch_depth(dense, front)], axis=1)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    x = np.sign(along) * np.interp(np.abs(along), length, dense)
    z = arch_depth(x, front)
    slope = np.gradient(z, x)
    out = np.stack([-slope, np.zeros_like(x), np.ones_like(x)], axis=1)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    base = np.stack([x, np.zeros_like(x), z], axis=1)
    gap = np.isin(np.abs(along), marks) * 1.0  # between two teeth
    sign = 1.0 if upper else -1.0
    edge_y = mouth[1] + (-1.5 if upper else -2.2)
    canine = np.exp(-((np.abs(along) - (marks[2] + marks[3]) / 2) ** 2) / 9.0)
    # Rows: height above the edge, distance outwards, extra recess between teeth. The lower roots lean back under the
    # furrow between lip and chin.
    lean = 0.0 if upper else 3.0
    rows = [
        (TOOTH_HEIGHT + GUM_HEIGHT, -0.6 - lean, 0.0),
        (TOOTH_HEIGHT, 0.25 - 0.4 * lean, -0.3),
        (0.55 * TOOTH_HEIGHT, 0.35, -0.7),
        (0.6, 0.0, -0.8),
        (0.0, -0.9, -0.4),
        (0.5 * TOOTH_HEIGHT, -4.0, 0.3),
        (TOOTH_HEIGHT + 2, -6.0, 0.0),
    ]
    grid = []
    for height, outwards, recess in rows:
        edge = height < 1.0
        lift = gap * (0.5 if edge else 0.0) - (0.6 * canine if edge and upper else 0.0)
        y = edge_y + sign * (height + lift)
        row = base + out * (outwards + recess * gap)[:, None]
        row[:, 1] = y
        grid.append(row)
    faces = grid_triangles(len(rows), len(along), False)
    return Part(np.concatenate(grid), faces if upper else faces[:, [0, 2, 1]])


def mouth_lining(loop: Array, mouth: Array) -> tuple[Part, Array]:
    """The inside of the mouth, from the lips' inner edge over the vestibule to the throat.

    Args:
        loop: inner lip loop ``[N, 3]``, from the middle of the upper lip to the subject's left first.
        mouth: middle of the closed lips ``[3]``.

    Returns:
        The part, whose first ring coincides with ``loop``, and how much each vertex follows its lip vertex ``[V]``.
    """
    n = len(loop)
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    cos, sin = np.cos(angle), np.sin(angle)
    rings = [loop]
    rings.append(loop + np.stack([0.5 * cos, 2.2 * sin, np.full(n, -3.5)], axis=1))
    # The lower half stays further back and shallower: the furrow under the lip is close behind the skin's surface.
    front = mouth[2] - np.where(sin > 0, 3.8, 7.0)
    for a, upper, lower, z in (
        (23.0, 13.0, 10.0, arch_depth(23.0 * cos, front)),
        (30.0, 17.5, 17.5, np.minimum(arch_depth(30.0 * cos, front - 6), mouth[2] - 34.0)),
        (22.0, 13.0, 13.0, np.full(n, mouth[2] - 58.0)),
    ):
        rings.append(np.stack([a * cos, mouth[1] + np.where(sin > 0, upper, lower) * sin, z], axis=1))
    points = np.concatenate([*rings, [[0.0, mouth[1], mouth[2] - 68.0]]])
    last = len(points) - 1
    back = [(last - n + c, last, last - n + (c + 1) % n) for c in range(n)]
    faces = np.concatenate([grid_triangles(len(rings), n, True), np.array(back)])
    follow = np.repeat([1.0, 0.85, 0.25, 0.0, 0.0], n)
    return Part(points, faces), np.concatenate([follow, [0.0]])


def tongue(mouth: Array) -> Part:
    """A flat tongue behind the lower teeth."""
    rows, columns = 9, 14
    s = np.linspace(0, 1, rows)[1:-1, None] ** 1.6  # from tip to root, denser at the round tip
    around = 2 * np.pi * np.arange(columns)[None] / columns
    half_width = 15.0 * np.sqrt(np.clip(1 - (1 - np.clip(3.2 * s, 0, 1)) ** 2, 0, 1))
    x = half_width * np.cos(around)
    thickness = 4.5 + 3.5 * s
    y = mouth[1] - 8.5 + 1.5 * np.sin(np.pi * s) + thickness * np.sin(around) * np.minimum(1, 6 * s) ** 0.5
    y = y - 1.2 * (np.sin(around) > 0.3) * np.exp(-((x / 3.0) ** 2))
    z = np.broadcast_to(mouth[2] - 15.0 - 42.0 * s, x.shape)
    body = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    tip = np.array([[0.0, mouth[1] - 8.5, mouth[2] - 14.0]])
    root = np.array([[0.0, mouth[1] - 8.5, mouth[2] - 58.0]])
    points = np.concatenate([tip, body, root])
    last = len(points) - 1
    fan = [(0, 1 + c, 1 + (c + 1) % columns) for c in range(columns)]
    end = [(last, last - columns + (c + 1) % columns, last - columns + c) for c in range(columns)]
    return Part(points, np.concatenate([np.array(fan), grid_triangles(rows - 2, columns, True, 1), np.array(end)]))


def ear(base: Array) -> Part:
    """The left ear, sculpted in polar rings about its middle.

    Args:
        base: point of the head's side at the ear's middle ``[3]``.
    """
    columns = 26
    around = 2 * np.pi * np.arange(columns) / columns  # 0 points backwards, a quarter turn points up
    front = np.array([0.18, 0.36, 0.52, 0.65, 0.77, 0.86, 0.94, 1.0])
    back = np.array([0.95, 0.78, 0.55])
    up, behind = np.sin(around), np.cos(around)
    # Egg outline: wide at the top and back, drawn in above the lobe and along the attached front.
    outline_v = 31.0 * up
    outline_u = 17.5 * behind * (1 + 0.22 * up) * np.where(behind < 0, 0.86, 1.0)
    outline_u -= 4.0 * np.exp(-(((up + 0.62) / 0.22) ** 2)) * np.clip(behind, 0, 1)

    def height(r: Array, u: Array, v: Array) -> Array:
        h = 3.0 + 13.5 * np.clip((u + 17) / 34, 0, 1) ** 0.9
        upper = np.clip((up + 0.75) / 0.4, 0, 1) * np.clip((behind + 0.75) / 0.5 + np.clip(up, 0, 1), 0, 1)
        h += 3.2 * upper * np.exp(-(((r - 0.93) / 0.07) ** 2))  # helix
        h -= 2.6 * upper * np.exp(-(((r - 0.78) / 0.08) ** 2)) * np.clip(behind + 0.6, 0, 1)  # scapha
        antihelix = np.exp(-(((r - 0.56) / 0.10) ** 2)) * np.clip(behind + 0.35, 0, 1) * np.clip(1.2 + up, 0, 1)
        h += 2.6 * antihelix
        h -= 8.0 * np.exp(-(((u + 1.5) / 7.0) ** 2) - ((v + 4.0) / 9.5) ** 2)  # concha
        h -= 3.5 * np.exp(-(((u + 3.0) / 7.0) ** 2) - ((v - 13.0) / 5.0) ** 2)  # triangular fossa
        h += 5.5 * np.exp(-(((u + 12.5) / 3.2) ** 2) - ((v + 4.0) / 5.5) ** 2)  # tragus
        h += 3.0 * np.exp(-(((u - 1.0) / 4.5) ** 2) - ((v + 16.0) / 3.5) ** 2)  # antitragus
        h -= 2.0 * np.exp(-(((v + 27) / 7.0) ** 2))  # the lobe hangs closer to the head
        return h

    def ring(r: float) -> tuple[Array, Array, Array]:
        u, v = r * outline_u - 2.0 * (1 - r), r * outline_v - 3.0 * (1 - r)
        return u, v, height(np.full(columns, r), u, v)

    rings = []
    for r in front:
        u, v, h = ring(float(r))
        attached = np.clip((-behind - 0.45) / 0.35, 0, 1) * np.clip((r - 0.8) / 0.2, 0, 1)
        rings.append(np.stack([u, v, h * (1 - attached) - 5.0 * attached], axis=1))
    for k, r in enumerate(back):
        u, v, h = ring(float(front[-1]))
        u, v = u * r - 2.0 * (1 - r), v * r - 3.0 * (1 - r)
        sink = (k + 1) / len(back)
        attached = np.clip((-behind - 0.45) / 0.35, 0, 1)
        low = (h - 2.0) * (1 - sink) - 6.0 * sink
        rings.append(np.stack([u, v, np.minimum(low, low * (1 - attached) - 7.0 * attached)], axis=1))
    middle = rings[0].mean(0, keepdims=True)
    local = np.concatenate([middle, *rings])
    tilt, turn = np.radians(14.0), np.radians(-4.0)
    u = local[:, 0] * np.cos(tilt) + local[:, 1] * np.sin(tilt)
    v = -local[:, 0] * np.sin(tilt) + local[:, 1] * np.cos(tilt)
    h = local[:, 2]
    z, x = -u * np.cos(turn) + h * np.sin(turn), h * np.cos(turn) + u * np.sin(turn)
    points = base + np.stack([x, v, z], axis=1)
    fan = [(0, 1 + (c + 1) % columns, 1 + c) for c in range(columns)]
    body = grid_triangles(len(rings), columns, True, 1)
    faces = np.concatenate([np.array(fan), body[:, [0, 2, 1]]])
    # Looking at the left ear from +x, backwards is to the left: the local frame is left-handed.
    return Part(points, faces[:, [0, 2, 1]] if _looks_inwards(points, faces, columns) else faces)


def _looks_inwards(points: Array, faces: Index, count: int) -> bool:
    a, b, c = (points[faces[:count, i]] for i in range(3))
    return bool(np.cross(b - a, c - a)[:, 0].sum() < 0)
