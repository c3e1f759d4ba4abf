"""Synthetic people in batches: identity, albedo, hair and light, and their exact pictures from any camera."""

from __future__ import annotations

import dataclasses

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from zero1toa.avatar import quaternion
from zero1toa.evaluation.synthetic.atlas import BROW_UPPER, Atlas, measure
from zero1toa.evaluation.synthetic.clothes import paint_clothes
from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.hair import Haircut, Strands, draw_haircuts, grow_strands, lift_cap, paint_cap
from zero1toa.evaluation.synthetic.inside import paint_eyes, paint_mouth
from zero1toa.evaluation.synthetic.light import Lamps, Visibility, draw_lamps, shade
from zero1toa.evaluation.synthetic.noise import smoothstep
from zero1toa.evaluation.synthetic.skin import draw_looks, paint_beard, paint_brows, paint_lids, paint_lips, paint_skin
from zero1toa.evaluation.synthetic.surface import Surface
from zero1toa.evaluation.synthetic.textures import odd_skin
from zero1toa.head.protocol import HeadModel, HeadParams
from zero1toa.render.cameras import camera_centers
from zero1toa.render.rasterize import rasterize

_INSIDE = ("eye_left", "eye_right", "iris_left", "iris_right", "mouth", "teeth", "tongue")
_LEAST_LIGHT = {
    "teeth": 0.65, "mouth": 0.45, "tongue": 0.5, "lids_left": 0.6, "lids_right": 0.6, "eye_left": 0.6, "eye_right": 0.6,
    "lips": 0.6,
}  # fmt: skip


class Template:
    """What all subjects of one head model share: its Gaussians, the atlas of its face, and who sees whom.

    Args:
        head: the head model, on the device to work on.
        detail: rows added to the Gaussians' lattice: 0 for pictures of 128 pixels, 2 for 512.
        strands: candidate roots of hair strands.
    """

    def __init__(self, head: HeadModel, detail: int = 0, strands: int = 1200) -> None:
        self.head = head
        self.surface = Surface(head, detail)
        regions = self.surface.regions
        device = head.faces.device
        with torch.no_grad():
            self.rest = head.vertices(head.neutral())
        self.landmarks = head.landmarks.positions(self.rest, head.faces)
        self.vertex_normals = self.surface.vertex_normals(self.rest)
        points = self.surface.place(self.rest)
        self.normals = torch.nn.functional.normalize(self.surface.place(self.vertex_normals), dim=-1)
        below = (self.normals[:, 1] < -0.9) & (points[:, 1] < self.rest[:, 1].min() + 0.004)
        self.surface.share[below] *= 0.4  # the neck's cut is a fan of long triangles, whose Gaussians would stick out
        eyes = tuple(self.rest[head.faces[head.regions[f"eye_{side}"]].unique()] for side in ("right", "left"))
        self.centre = head.center.to(device)
        self.atlas = measure(points, self.landmarks, self.centre, (eyes[0], eyes[1]))
        self.vertex_atlas = measure(self.rest, self.landmarks, self.centre, (eyes[0], eyes[1]))
        self.visibility = Visibility(points, self.normals)
        self._light_the_inside()

        self.skin = ~torch.stack([regions[name] for name in _INSIDE if name in regions]).any(0)
        self.inside = torch.stack([regions[name] for name in ("mouth", "teeth", "tongue") if name in regions]).any(0)
        bare = self.skin & ~regions["ears"] & ~regions["lips"] & ~regions["lids_left"] & ~regions["lids_right"]
        self.scalp = bare.float()
        outer = head.faces[(head.regions["face"] | head.regions["scalp"] | head.regions["neck"]).to(device)].unique()
        self.movable = torch.zeros(head.n_vertices, device=device)
        self.movable[outer] = 1.0
        self.hardness = torch.full((len(points),), 14.0, device=device)
        self.hardness[regions["lips"]] = 24.0
        self.hardness[regions["teeth"]] = 40.0
        self.hardness[regions["eye_left"] | regions["eye_right"]] = 90.0

        scalp = torch.nonzero(bare & (self.atlas.elevation > -60.0) & (self.atlas.azimuth > 0.0))[:, 0]
        area = (
            torch.linalg.cross(
                self.rest[head.faces[:, 1]] - self.rest[head.faces[:, 0]],
                self.rest[head.faces[:, 2]] - self.rest[head.faces[:, 0]],
            ).norm(dim=-1)[self.surface.triangle[scalp]]
            * self.surface.share[scalp] ** 2
        )
        high = self.atlas.elevation[scalp] - self.atlas.hairline[scalp] @ self.atlas.base_hairline > -12.0
        order = torch.Generator().manual_seed(0)
        self.roots = scalp[torch.multinomial((area * high).cpu(), strands, generator=order).to(device)]
        self.root_atlas = select(self.atlas, self.roots)
        skull = self.rest[head.faces[head.regions["scalp"].to(device)].unique()]
        self.radii = torch.stack([(skull[:, 0] - self.centre[0]).abs().quantile(0.98),
                                  (skull[:, 1] - self.centre[1]).amax(),
                                  (self.centre[2] - skull[:, 2]).amax()])  # fmt: skip
        self.brow_height = float(self.landmarks[list(BROW_UPPER[0] + BROW_UPPER[1]), 1].mean())
        reference = self.centre + torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [0.8, 0.2, -0.6]],
                                               device=device) * self.radii  # fmt: skip
        scalp_vertices = head.faces[head.regions["scalp"].to(device)].unique()
        nearest = torch.cdist(reference, self.rest[scalp_vertices]).argmin(1)
        self.skull = scalp_vertices[nearest]

        mirrored = (points * torch.tensor([-1.0, 1.0, 1.0], device=device)).cpu().numpy()
        self.mirror = torch.from_numpy(cKDTree(points.cpu().numpy()).query(mirrored)[1]).to(device)

    def skull_rotation(self, rest: Tensor, posed: Tensor) -> Tensor:
        """Rotation of the skull from ``rest`` to ``posed`` vertices ``[..., V, 3]``: ``[..., 3, 3]``."""
        return _frame(posed[..., self.skull, :]) @ _frame(rest[..., self.skull, :]).transpose(-1, -2)

    def _light_the_inside(self) -> None:
        """Light cavities that open later and lids that unfold by a guess: on the neutral template they are dark."""
        regions, visible = self.surface.regions, self.visibility
        for name, least in _LEAST_LIGHT.items():
            if name not in regions:
                continue
            mask = regions[name]
            visible.ambient[mask] = visible.ambient[mask].clamp_min(least)
            visible.visible[:, mask] = visible.visible[:, mask].clamp_min(least)


@dataclasses.dataclass(frozen=True)
class Splats:
    """Gaussians of M pictures.

    Attributes:
        means: ``[M, N, 3]`` in metres.
        quats: ``[M, N, 4]`` (w, x, y, z).
        scales: ``[M, N, 3]`` in metres.
        opacities: ``[M, N]``.
        colours: sRGB ``[M, N, 3]``.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colours: Tensor

    def draw(self, viewmats: Tensor, Ks: Tensor, size: int, background: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``[M, H, W, 3]`` on ``background`` ``[M, 3]`` and alphas ``[M, H, W, 1]``, from one camera each."""
        pictures, alphas, _ = rasterize(
            self.means, self.quats, self.scales, self.opacities, self.colours, viewmats[:, None], Ks[:, None],
            size, size, backgrounds=background[:, None].contiguous(),
        )  # fmt: skip
        return pictures[:, 0].clamp(0.0, 1.0), alphas[:, 0].clamp(0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class SyntheticSubjects:
    """B people: everything about them that does not move.

    Attributes:
        template: what they share.
        identity: shape ``[B, S]`` and hair offset ``[B, V, 3]`` at rest.
        albedo: linear light ``[B, N, 3]``.
        gloss: strength of highlights ``[B, N]``.
        cover: opacity of the skin's Gaussians ``[B, N]``; necks of carved portraits fade out downwards.
        haircut: hair style.
        strands: strands of hair.
        lamps: light.
        shadows: visibility of the lamps ``[B, L, N]``.
        rest: posed vertices without expression ``[B, V, 3]``.
    """

    template: Template
    identity: HeadParams
    albedo: Tensor
    gloss: Tensor
    cover: Tensor
    haircut: Haircut
    strands: Strands
    lamps: Lamps
    shadows: Tensor
    rest: Tensor

    def __len__(self) -> int:
        return int(self.albedo.shape[0])

    def pose(self, arkit: Tensor, neck: Tensor | None = None, identity: HeadParams | None = None) -> Tensor:
        """Posed vertices ``[B, T, V, 3]`` of ARKit coefficients ``[B, T, 52]`` and neck rotations ``[B, T, 3]``."""
        who = self.identity if identity is None else identity
        each = who.map(lambda tensor: tensor[:, None])
        if neck is not None:
            each = each.replace(neck=neck)
        return self.template.head.vertices(self.template.head.arkit(arkit, each))

    def landmarks(self, vertices: Tensor) -> Tensor:
        """MediaPipe's landmarks ``[B, T, 478, 3]`` of posed vertices ``[B, T, V, 3]``: on the skin, under the hair."""
        head, offset = self.template.head, self.identity.offset
        assert offset is not None
        lift = head.landmarks.positions(offset, head.faces)[:, None]
        turn = self.template.skull_rotation(self.rest[:, None], vertices)
        return head.landmarks.positions(vertices, head.faces) - lift @ turn.transpose(-1, -2)

    def splats(self, vertices: Tensor, owner: Tensor, cameras: Tensor) -> Splats:
        """The Gaussians of M pictures, lit.

        Args:
            vertices: ``[M, V, 3]``.
            owner: which subject each picture shows ``[M]`` int64.
            cameras: camera centres ``[M, 3]``, for highlights.
        """
        surface, template = self.template.surface, self.template
        means, quats, scales = surface.splats(vertices)
        normals = torch.nn.functional.normalize(surface.place(surface.vertex_normals(vertices)), dim=-1)
        towards = torch.nn.functional.normalize(cameras[:, None] - means, dim=-1)
        lamps = Lamps(**{f.name: getattr(self.lamps, f.name)[owner] for f in dataclasses.fields(Lamps)})
        colours = shade(self.albedo[owner], normals, towards, self.gloss[owner], template.hardness,
                        template.visibility.ambient, self.shadows[owner], lamps)  # fmt: skip
        skin = Splats(means, quats, scales, 0.97 * self.cover[owner], colours)
        return join(skin, self._strand_splats(vertices, owner, cameras, lamps))

    def _strand_splats(self, vertices: Tensor, owner: Tensor, cameras: Tensor, lamps: Lamps) -> Splats:
        means, rotation = self.strand_means(vertices, owner, self.rest)
        count = means.shape[1]
        directions = (self.strands.direction[owner].flatten(1, 2) @ rotation.transpose(-1, -2)).contiguous()
        normals = self.strands.normal[owner].flatten(1, 2) @ rotation.transpose(-1, -2)
        towards = torch.nn.functional.normalize(cameras[:, None] - means, dim=-1)
        roots = self.template.roots.repeat_interleave(self.strands.offset.shape[2])
        ambient = self.template.visibility.ambient[roots].clamp_min(0.7)
        shadows = self.shadows[owner][:, :, roots].clamp_min(0.35)
        hardness = torch.full((count,), 8.0, device=means.device)
        gloss = torch.full(means.shape[:2], 0.03, device=means.device)
        albedo = self.strands.albedo[owner].flatten(1, 2)
        colours = shade(albedo, normals, towards, gloss, hardness, ambient, shadows, lamps)
        sizes = self.strands.scale[owner].flatten(1, 2)
        scales = torch.cat([sizes, sizes[..., 1:]], dim=-1)
        return Splats(means, along_x(directions), scales, self.strands.opacity[owner].flatten(1, 2), colours)

    def strand_means(self, vertices: Tensor, owner: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Middles of the strands' pieces ``[M, R K, 3]`` and the skull's rotation ``[M, 3, 3]``."""
        assert self.identity.offset is not None
        surface, roots = self.template.surface, self.template.roots
        corners = self.template.head.faces[surface.triangle[roots]]
        weights = surface.barycentric[roots][..., None]
        posed = (vertices[:, corners] * weights).sum(-2)
        lift = (self.identity.offset[:, corners] * weights).sum(-2)[owner]
        rotation = self.template.skull_rotation(rest[owner], vertices)
        offset = self.strands.offset[owner] - lift[:, :, None]
        turned = torch.einsum("mij,mrkj->mrki", rotation, offset)
        return (posed[:, :, None] + turned).flatten(1, 2), rotation

    def render(
        self, arkit: Tensor, viewmats: Tensor, Ks: Tensor, size: int, background: Tensor | None = None,
        neck: Tensor | None = None, chunk: int = 64,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Exact pictures.

        Args:
            arkit: ``[B, T, 52]``.
            viewmats: OpenCV world-to-camera ``[B, T, 4, 4]``.
            Ks: ``[B, T, 3, 3]`` in pixels.
            size: side of the pictures in pixels.
            background: colour ``[B, 3]``; white when left out.
            neck: neck rotations ``[B, T, 3]``.
            chunk: pictures drawn at once.

        Returns:
            Pictures ``[B, T, H, W, 3]``, alphas ``[B, T, H, W, 1]`` and landmarks in the world ``[B, T, 478, 3]``.
        """
        batch, frames = arkit.shape[:2]
        vertices = self.pose(arkit, neck)
        marks = self.landmarks(vertices)
        flat, owner = vertices.flatten(0, 1), owners(batch, frames, vertices.device)
        behind = torch.ones(batch, 3, device=flat.device) if background is None else background
        views, cameras = viewmats.flatten(0, 1), Ks.flatten(0, 1)
        positions = camera_centers(views)
        pictures, alphas = [], []
        for part in torch.arange(len(flat), device=flat.device).split(chunk):
            splats = self.splats(flat[part], owner[part], positions[part])
            picture, alpha = splats.draw(views[part], cameras[part], size, behind[owner[part]])
            pictures.append(picture)
            alphas.append(alpha)
        return (torch.cat(pictures).unflatten(0, (batch, frames)), torch.cat(alphas).unflatten(0, (batch, frames)),
                marks)  # fmt: skip


def draw_subjects(
    template: Template, draw: Draw, batch: int, odd: float = 0.12, faded: float = 0.6
) -> SyntheticSubjects:
    """Draw B random people.

    Args:
        template: what they share.
        draw: random stream.
        batch: B.
        odd: share with a natural picture for a skin.
        faded: share whose neck fades out downwards, as in carved portraits.
    """
    head, atlas, regions = template.head, template.atlas, template.surface.regions
    looks = draw_looks(draw, batch)
    strength = draw.uniform(0.4, 1.0, batch, 1)
    shape = (draw.normal(batch, head.n_shape) * strength).clamp(-2.0, 2.0)
    shape = shape * draw.chance(0.7, batch, head.n_shape)
    cut = draw_haircuts(draw, atlas, looks.hair, looks.age, looks.beard)

    albedo, gloss = paint_skin(atlas, looks, draw)
    albedo = odd_skin(albedo, atlas.points, draw, odd)
    albedo, gloss = paint_lips(albedo, gloss, regions["lips"], atlas, looks, draw)
    albedo, beard = paint_beard(albedo, regions["lips"], atlas, looks, draw)
    albedo = paint_brows(albedo, atlas, looks, draw)
    albedo = paint_lids(albedo, atlas, looks, draw)
    albedo = paint_cap(albedo, template.scalp, atlas, template.centre, cut, draw)
    bottom = float(template.rest[:, 1].min())
    albedo, gloss, cloth = paint_clothes(albedo, gloss, atlas, bottom, draw)
    albedo = paint_eyes(albedo, regions, atlas, looks, draw)
    albedo = paint_mouth(albedo, regions, atlas, looks, draw)
    gloss = 0.05 * gloss
    gloss = torch.where(regions["eye_left"] | regions["eye_right"], torch.full_like(gloss, 0.55), gloss)
    gloss = torch.where(regions["teeth"], torch.full_like(gloss, 0.2), gloss)

    bare = head.neutral(batch).to(shape.device).replace(shape=shape)
    with torch.no_grad():
        bare_rest = head.vertices(bare)
    lift = lift_cap(template.vertex_atlas, template.vertex_normals, template.movable, cut, draw)
    lift = lift + _raise(template, beard, draw.uniform(0.0, 0.009, batch, 1))  # a full beard stands off the skin
    identity = bare.replace(offset=lift + _raise(template, cloth, draw.uniform(0.001, 0.007, batch, 1)))
    with torch.no_grad():
        rest = head.vertices(identity)
    root_points = template.surface.place(bare_rest)[:, template.roots]
    extent = (bare_rest[:, template.skull] - template.centre).norm(dim=-1)
    grown = extent / (template.rest[template.skull] - template.centre).norm(dim=-1)
    radii = template.radii * grown[:, [2, 0, 1]]
    strands = grow_strands(template.root_atlas, root_points, template.normals[template.roots], cut, template.centre,
                           radii, template.brow_height, draw)  # fmt: skip
    lamps, cover = draw_lamps(draw, batch), _fade(template, draw, batch, faded)
    return SyntheticSubjects(
        template=template, identity=identity, albedo=albedo, gloss=gloss, cover=cover, haircut=cut,
        strands=strands, lamps=lamps, shadows=template.visibility.lamps(lamps), rest=rest,
    )  # fmt: skip


def owners(batch: int, frames: int, device: torch.device) -> Tensor:
    """Index of the subject of each of ``batch * frames`` pictures."""
    return torch.arange(batch, device=device).repeat_interleave(frames)


def join(first: Splats, second: Splats) -> Splats:
    """Both sets of Gaussians in one."""
    return Splats(**{f.name: torch.cat([getattr(first, f.name), getattr(second, f.name)], dim=1)
                     for f in dataclasses.fields(Splats)})  # fmt: skip


def along_x(direction: Tensor) -> Tensor:
    """Quaternions ``[..., 4]`` that turn the x axis to unit vectors ``[..., 3]`` by the shortest way."""
    x, y, z = direction.unbind(-1)
    return quaternion.normalize(torch.stack([1.0 + x + 1e-6, torch.zeros_like(x), -z, y], dim=-1))


def select(atlas: Atlas, index: Tensor) -> Atlas:
    """The atlas of some of its points."""
    fields = {}
    for field in dataclasses.fields(Atlas):
        value = getattr(atlas, field.name)
        if isinstance(value, Tensor) and field.name != "base_hairline":
            value = value[index]
        elif field.name == "spots":
            value = {name: spot[index] for name, spot in value.items()}
        elif field.name == "eyes":
            value = tuple(type(eye)(eye.angle[index], eye.around[index], eye.height[index]) for eye in value)
        fields[field.name] = value
    return Atlas(**fields)


def _fade(template: Template, draw: Draw, batch: int, faded: float) -> Tensor:
    """Opacity factors ``[B, N]``: a share ``faded`` of the necks is cut off softly within their lowest centimetres."""
    height = template.atlas.points[None, :, 1] - template.rest[:, 1].min()
    low, width = draw.uniform(0.0, 0.03, batch, 1), draw.uniform(0.01, 0.05, batch, 1)
    return torch.lerp(torch.ones(batch, 1, device=height.device), smoothstep(low, low + width, height),
                      draw.chance(faded, batch, 1))  # fmt: skip


def _raise(template: Template, weight: Tensor, height: Tensor) -> Tensor:
    """Displacement of the vertices ``[B, V, 3]`` along their normals: ``height`` ``[B, 1]`` times a weight of the
    Gaussians ``[B, N]``."""
    corners = template.head.faces[template.surface.triangle]
    total = torch.zeros(len(weight), template.head.n_vertices, device=weight.device)
    count = torch.zeros(template.head.n_vertices, device=weight.device)
    for i in range(3):
        total.index_add_(1, corners[:, i], weight)
        count.index_add_(0, corners[:, i], torch.ones_like(weight[0]))
    return (height * total / count.clamp_min(1.0) * template.movable)[..., None] * template.vertex_normals


def _frame(corners: Tensor) -> Tensor:
    """Orthonormal frame ``[..., 3, 3]`` of three points ``[..., 3, 3]``."""
    a = torch.nn.functional.normalize(corners[..., 1, :] - corners[..., 0, :], dim=-1)
    normal = torch.linalg.cross(a, corners[..., 2, :] - corners[..., 0, :])
    n = torch.nn.functional.normalize(normal, dim=-1)
    return torch.stack([a, n, torch.linalg.cross(a, n)], dim=-1)
