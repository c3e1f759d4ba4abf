"""Half-trained avatars: what refinement is given. Most start as the real loop starts, coloured by one projected photo.

An avatar's geometry is a slightly wrong fit with hair of the wrong volume; its colours are right where the portrait
shows them, and guessed elsewhere; its Gaussians are ragged in size, place and opacity. Training then heals it in
patches, so some of the surface is blended towards the truth.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from zero1toa.evaluation.synthetic.draw import Draw
from zero1toa.evaluation.synthetic.noise import layered_noise, smoothstep, wave_noise
from zero1toa.evaluation.synthetic.projection import Neighbourhoods, sample, seen
from zero1toa.evaluation.synthetic.subject import (
    Splats,
    SyntheticSubjects,
    Template,
    along_x,
    join,
    owners,
)
from zero1toa.head.protocol import HeadParams
from zero1toa.render.cameras import camera_centers, project


class Degrader:
    """Makes half-trained avatars of subjects.

    Args:
        template: what the subjects share.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        points = template.surface.place(template.rest)
        self.fine = Neighbourhoods(points, 2048)
        self.coarse = Neighbourhoods(points, 320)

    def avatars(
        self, subjects: SyntheticSubjects, portrait: Tensor, alpha: Tensor, arkit: Tensor, viewmats: Tensor, Ks: Tensor,
        severity: Tensor, draw: Draw, blobs: bool = False,
    ) -> HalfTrained:  # fmt: skip
        """Half-trained avatars of all subjects.

        Args:
            subjects: the people.
            portrait: reference picture ``[B, H, W, 3]``.
            alpha: its matte ``[B, H, W, 1]``.
            arkit: expression in the portrait ``[B, 52]``.
            viewmats: the portrait's cameras ``[B, 4, 4]``.
            Ks: ``[B, 3, 3]`` in pixels.
            severity: 0 (nearly trained) to 1 (just started) ``[B]``.
            draw: random stream.
            blobs: colour the avatars with random blobs instead; a kind of damage kept for tests.
        """
        batch = len(subjects)
        started = draw.chance(0.45, batch)  # avatars straight from the projection
        bare = started * draw.chance(0.75, batch)
        identity = self._misfit(subjects, severity, bare, draw)
        posed = subjects.pose(arkit[:, None], identity=identity)[:, 0]
        rest = subjects.template.head.vertices(identity)
        truth = self._baked(subjects, posed, viewmats)
        if blobs:
            colours = self._blobs(truth, severity, draw)
        else:
            projected = self._projected(subjects, posed, portrait, alpha, viewmats, Ks, severity, draw, truth)
            colours = self._heal(projected, truth, severity, started, draw)
        colours = self._damage_colours(colours, severity, draw)
        s = severity[:, None]
        count = colours.shape[1]
        skin = len(self.template.surface)
        opacity = self._opacity(count, severity, draw, batch)
        strands = (1.0 - bare[:, None]) * (1.0 - s * draw.uniform(0.0, 0.8, batch, 1))
        opacity[:, :skin] *= subjects.cover
        opacity[:, skin:] *= strands * subjects.strands.opacity.flatten(1)
        spread = draw.uniform(0.0, 0.45, batch, 1) * s * draw.normal(batch, count)
        size = torch.exp(spread + draw.uniform(-0.35, 0.5, batch, 1) * s)
        jitter = draw.chance(0.6, batch, 1, 1) * draw.uniform(0.0, 0.0022, batch, 1, 1) * s[..., None]
        return HalfTrained(
            subjects=subjects, identity=identity, rest=rest, colours=colours.clamp(0.0, 1.0), opacity=opacity,
            size=size, jitter=jitter * draw.normal(batch, count, 3),
        )  # fmt: skip

    def _misfit(self, subjects: SyntheticSubjects, severity: Tensor, bare: Tensor, draw: Draw) -> HeadParams:
        """The subject's shape with fitting errors, and hair of the wrong volume.

        Avatars without strands (``bare`` is 1) have their scalp lifted to the hair's outline instead, as the real loop
        lifts it to the portrait's.
        """
        batch = len(subjects)
        true = subjects.identity
        assert true.offset is not None
        error = draw.normal(*true.shape.shape) * draw.uniform(0.05, 0.4, batch, 1) * severity[:, None]
        volume = torch.where(
            draw.uniform(0.0, 1.0, batch) < 0.08,
            torch.zeros(batch, device=severity.device),
            1.0 + severity * draw.uniform(-0.5, 0.6, batch),
        )
        lump = 1.0 + 0.3 * severity[:, None] * layered_noise(self.template.rest, draw, batch, 0.10, octaves=2)
        outline = self._outline(subjects, draw.uniform(0.85, 1.0, batch, 1)) * bare[:, None, None]
        offset = (true.offset + outline) * (volume[:, None] * lump)[..., None]
        return true.replace(shape=(true.shape + error).clamp(-2.5, 2.5), offset=offset)

    def _outline(self, subjects: SyntheticSubjects, reach: Tensor, columns: int = 24, rows: int = 16) -> Tensor:
        """Lift of the vertices ``[B, V, 3]`` to the extent of the strands, seen from the middle of the skull.

        The extent is a power mean of the strands' distances in cells of direction, which leaves out single hairs.

        Args:
            subjects: the people.
            reach: share of the extent to lift to ``[B, 1]``.
            columns: cells around.
            rows: cells from below to above.
        """
        template, batch = self.template, len(subjects)
        everyone = owners(batch, 1, reach.device)
        middles, _ = subjects.strand_means(subjects.rest, everyone, subjects.rest)
        around, height, distance = _directions(middles - template.centre)
        column = ((around + 1.0) / 2.0 * columns).long().clamp(0, columns - 1)
        cell = ((height + 1.0) / 2.0 * rows).long().clamp(0, rows - 1) * columns + column
        there = (subjects.strands.opacity.flatten(1) > 0.35).float()
        total = torch.zeros(batch, rows * columns, device=reach.device)
        number = total.scatter_add(1, cell, there)
        total = total.scatter_add(1, cell, there * (distance / 0.1) ** 8)
        extent = 0.1 * (total / number.clamp_min(1.0)) ** 0.125 * (number >= 3.0)
        extent = extent.view(batch, 1, rows, columns)
        extent = torch.cat([extent[..., -1:], extent, extent[..., :1]], dim=-1)  # the back is where it wraps round

        relative = subjects.rest - template.centre
        around, height, distance = _directions(relative)
        place = torch.stack([around * columns / (columns + 2), height], dim=-1)
        wanted = torch.nn.functional.grid_sample(extent, place[:, None], padding_mode="border", align_corners=False)
        atlas = template.vertex_atlas
        above = atlas.elevation[None] - subjects.haircut.anchors @ atlas.hairline.T
        beside = smoothstep(70.0, 95.0, atlas.azimuth) * smoothstep(-70.0, -50.0, atlas.elevation)
        hairy = torch.maximum(smoothstep(-3.0, 8.0, above), beside) * template.movable
        rise = (wanted[:, 0, 0] * reach - distance).clamp(0.0, 0.12) * hairy
        level = torch.tensor([1.0, 0.0, 1.0], device=reach.device)
        outwards = torch.where(relative[..., 1:2] < 0.0, relative * level, relative)
        return torch.nn.functional.normalize(outwards, dim=-1) * rise[..., None]

    def _baked(self, subjects: SyntheticSubjects, posed: Tensor, viewmats: Tensor) -> Tensor:
        """The true colours, lit as in the portrait and then fixed, as Gaussians without view dependence hold them."""
        splats = subjects.splats(posed, owners(len(subjects), 1, posed.device), camera_centers(viewmats))
        return splats.colours

    def _projected(
        self, subjects: SyntheticSubjects, posed: Tensor, portrait: Tensor, alpha: Tensor, viewmats: Tensor, Ks: Tensor,
        severity: Tensor, draw: Draw, truth: Tensor,
    ) -> Tensor:  # fmt: skip
        """Colours ``[B, N', 3]`` from the portrait where it shows the Gaussian, and a guess elsewhere."""
        template, batch, size = self.template, len(subjects), portrait.shape[1]
        surface, regions = template.surface, template.surface.regions
        points = surface.place(posed)
        normals = torch.nn.functional.normalize(surface.place(surface.vertex_normals(posed)), dim=-1)
        visible = seen(points, normals, viewmats, Ks, size, draw.uniform(0.05, 0.45, batch, 1))
        pixels, _ = project(points, viewmats, Ks)
        pixels = pixels + 0.006 * size * severity[:, None, None] * draw.normal(batch, 1, 2)
        eroded = -torch.nn.functional.max_pool2d(-alpha.permute(0, 3, 1, 2), 3, stride=1, padding=1).permute(0, 2, 3, 1)
        matte = torch.where((draw.uniform(0.0, 1.0, batch) < 0.75)[:, None, None, None], eroded, alpha)
        found = sample(torch.cat([portrait, matte], dim=-1), pixels)
        colour, known = found[..., :3], visible & (found[..., 3] > 0.6)

        inside = self.template.inside
        known_skin = known & ~inside
        near = self.fine.fill(colour, known_skin)
        mirrored, known_there = colour[:, template.mirror], known_skin[:, template.mirror]
        use_mirror = (draw.uniform(0.0, 1.0, batch) < 0.5)[:, None] & known_there
        guess = torch.where(use_mirror[..., None], mirrored, near)
        mean = (colour * known_skin[..., None]).sum(1, keepdim=True) / known_skin.sum(1)[:, None, None].clamp_min(1)
        plain = torch.where((draw.uniform(0.0, 1.0, batch) < 0.3)[:, None, None], torch.full_like(mean, 0.5), mean)
        choice = draw.uniform(0.0, 1.0, batch)[:, None, None]
        guess = torch.where(choice < 0.18, plain, guess)
        guess = torch.where((choice >= 0.18) & (choice < 0.4), self.coarse.blur(guess), guess)
        out = torch.where(known[..., None], colour, guess)

        # Mouth and eyes that the photo does not show: left as guessed, grey, a generic paint, or nearly right.
        paint = torch.where(regions["teeth"][None, :, None], draw.uniform(0.5, 0.95, batch, 1, 1).expand(-1, 1, 3),
                            torch.tensor([0.32, 0.12, 0.11], device=out.device))  # fmt: skip
        kind = draw.uniform(0.0, 1.0, batch)[:, None, None]
        mouth = torch.where(kind < 0.35, out, torch.where(kind < 0.55, torch.full_like(out, 0.5), paint))
        mouth = torch.where(kind > 0.85, torch.lerp(paint, truth[:, : len(surface)], 0.5), mouth)
        out = torch.where((inside & ~known)[..., None], mouth, out)
        eyes = regions["eye_left"] | regions["eye_right"]
        trusted = draw.chance(0.5, batch, 1, 1)
        out = torch.where((eyes & ~known)[..., None], torch.lerp(out, truth[:, : len(surface)], trusted), out)
        return torch.cat([out, self._strand_colours(subjects, posed, portrait, alpha, viewmats, Ks, out)], dim=1)

    def _strand_colours(
        self, subjects: SyntheticSubjects, posed: Tensor, portrait: Tensor, alpha: Tensor, viewmats: Tensor, Ks: Tensor,
        skin: Tensor,
    ) -> Tensor:  # fmt: skip
        """Strands take the portrait's colour where they lie on it, else their root's."""
        owner = owners(len(subjects), 1, posed.device)
        means, _ = subjects.strand_means(posed, owner, subjects.rest)
        pixels, _ = project(means, viewmats, Ks)
        found = sample(torch.cat([portrait, alpha], dim=-1), pixels)
        pieces = subjects.strands.offset.shape[2]
        root = skin[:, self.template.roots].repeat_interleave(pieces, 1)
        front = means[..., 2:] > self.template.centre[2]
        return torch.where((found[..., 3:] > 0.8) & front, found[..., :3], root)

    def _heal(self, colours: Tensor, truth: Tensor, severity: Tensor, started: Tensor, draw: Draw) -> Tensor:
        """Blend patches towards a blurred truth: the parts of the surface that training has already reached."""
        batch, skin = len(colours), len(self.template.surface)
        blurred = torch.lerp(self.fine.blur(truth[:, :skin]), self.coarse.blur(truth[:, :skin]),
                             draw.uniform(0.0, 0.6, batch, 1, 1) * severity[:, None, None])  # fmt: skip
        sharp = torch.lerp(truth[:, :skin], blurred, draw.uniform(0.2, 1.0, batch, 1, 1))
        patches = smoothstep(-0.8, 0.8, layered_noise(self.template.atlas.points, draw, batch, 0.12, octaves=2)
                             + draw.uniform(-1.0, 1.0, batch, 1))  # fmt: skip
        amount = patches * (1.0 - started[:, None]) * (1.15 - severity[:, None]) * draw.uniform(0.3, 1.0, batch, 1)
        healed = torch.lerp(colours[:, :skin], sharp, amount.clamp(0.0, 1.0)[..., None])
        strands = torch.lerp(colours[:, skin:], truth[:, skin:], (1.0 - severity)[:, None, None])
        return torch.cat([healed, strands], dim=1)

    def _blobs(self, truth: Tensor, severity: Tensor, draw: Draw, count: int = 24) -> Tensor:
        """Soft blobs of random colours over a blurred truth."""
        points, batch, skin = self.template.atlas.points, len(truth), len(self.template.surface)
        where = points[draw.integers(len(points), batch, count)]
        radius, colour = draw.uniform(0.012, 0.04, batch, count), draw.uniform(0.0, 1.0, batch, count, 3)
        out = torch.lerp(truth[:, :skin], self.fine.blur(truth[:, :skin]), severity[:, None, None])
        for i in range(count):
            weight = torch.exp(-((torch.cdist(points[None], where[:, i : i + 1])[..., 0] / radius[:, i, None]) ** 2))
            out = torch.lerp(out, colour[:, i, None].expand_as(out), (0.6 * severity[:, None] * weight)[..., None])
        return torch.cat([out, truth[:, skin:]], dim=1)

    def _damage_colours(self, colours: Tensor, severity: Tensor, draw: Draw) -> Tensor:
        """Blur over the surface, wrong sides, smeared lids, and noise."""
        batch, skin = len(colours), len(self.template.surface)
        atlas, regions = self.template.atlas, self.template.surface.regions
        s = severity[:, None]
        surface = colours[:, :skin]
        blurred = self.fine.blur(surface)
        amount = draw.chance(0.6, batch, 1, 1) * draw.uniform(0.2, 1.0, batch, 1, 1) * s[..., None]
        surface = torch.lerp(surface, blurred, amount)

        azimuth = draw.uniform(40.0, 110.0, batch, 1) * draw.chance(0.35, batch, 1)
        sign = torch.where(draw.uniform(0.0, 1.0, batch, 1) < 0.5, -1.0, 1.0)
        here = smoothstep(azimuth - 15.0, azimuth + 15.0, atlas.azimuth[None]) * (atlas.points[:, 0] * sign > 0)
        here = here * (azimuth > 0)
        wrong = surface.mean(1, keepdim=True) * torch.exp(0.35 * draw.normal(batch, 1, 3))
        wrong = wrong * torch.exp(0.25 * layered_noise(atlas.points, draw, batch, 0.05))[..., None]
        surface = torch.lerp(surface, wrong, (here * draw.uniform(0.3, 1.0, batch, 1) * s)[..., None])

        lids = (regions["lids_left"] | regions["lids_right"])[None, :, None].float()
        smear = draw.chance(0.4, batch, 1, 1) * draw.uniform(0.3, 1.0, batch, 1, 1) * s[..., None]
        stain = surface[:, regions["eye_left"] | regions["eye_right"]].mean(1, keepdim=True)
        stain = stain * torch.exp(0.4 * draw.normal(batch, 1, 3))
        surface = torch.lerp(surface, stain.expand_as(surface), lids * smear)

        out = torch.cat([surface, colours[:, skin:]], dim=1)
        grain = draw.chance(0.6, batch, 1, 1) * draw.uniform(0.0, 0.08, batch, 1, 1) * s[..., None]
        out = out + grain * draw.normal(*out.shape)
        stains = torch.stack([wave_noise(atlas.points, draw, batch, 0.03, waves=6) for _ in range(3)], dim=-1)
        stains = stains * draw.chance(0.5, batch, 1, 1) * draw.uniform(0.0, 0.05, batch, 1, 1) * s[..., None]
        cast = 0.05 * draw.chance(0.4, batch, 1, 1) * draw.normal(batch, 1, 3) * s[..., None]
        return torch.cat([out[:, :skin] + stains, out[:, skin:]], dim=1) + cast

    def _opacity(self, count: int, severity: Tensor, draw: Draw, batch: int) -> Tensor:
        skin = len(self.template.surface)
        s = severity[:, None]
        base = 1.0 - s * draw.chance(0.5, batch, 1) * draw.uniform(0.0, 0.6, batch, 1)
        opacity = 0.97 * base.expand(batch, count).clone()
        dropped = draw.chance(0.4, batch, 1) * draw.uniform(0.0, 0.5, batch, 1) * s
        opacity = opacity * (draw.uniform(0.0, 1.0, batch, count) >= dropped).float()
        holes = layered_noise(self.template.atlas.points, draw, batch, 0.05, octaves=2)
        limit = draw.uniform(1.2, 2.2, batch, 1) + 3.0 * (1.0 - draw.chance(0.3, batch, 1) * s)
        opacity[:, :skin] *= 1.0 - 0.95 * smoothstep(limit, limit + 0.4, holes)
        return opacity


@dataclasses.dataclass(frozen=True)
class HalfTrained:
    """Half-trained avatars of B subjects, ready to be posed.

    Attributes:
        subjects: whom they show.
        identity: their own, wrong shape and hair.
        rest: vertices without expression ``[B, V, 3]``.
        colours: sRGB ``[B, N', 3]``; N' counts the surface's Gaussians and then the strands'.
        opacity: ``[B, N']``.
        size: factor on the Gaussians' standard deviations ``[B, N']``.
        jitter: displacement in metres ``[B, N', 3]``.
    """

    subjects: SyntheticSubjects
    identity: HeadParams
    rest: Tensor
    colours: Tensor
    opacity: Tensor
    size: Tensor
    jitter: Tensor

    def splats(self, vertices: Tensor, owner: Tensor) -> Splats:
        """The Gaussians of M pictures from posed vertices ``[M, V, 3]`` of subjects ``owner`` ``[M]``."""
        surface, strands = self.subjects.template.surface, self.subjects.strands
        means, quats, scales = surface.splats(vertices)
        middles, rotation = self.subjects.strand_means(vertices, owner, self.rest)
        directions = strands.direction[owner].flatten(1, 2) @ rotation.transpose(-1, -2)
        sizes = strands.scale[owner].flatten(1, 2)
        empty = torch.zeros_like(middles)
        skin = Splats(means, quats, scales, torch.zeros_like(means[..., 0]), torch.zeros_like(means))
        hair = Splats(middles, along_x(directions), torch.cat([sizes, sizes[..., 1:]], -1), empty[..., 0], empty)
        both = join(skin, hair)
        return Splats(
            means=both.means + self.jitter[owner], quats=both.quats, scales=both.scales * self.size[owner][..., None],
            opacities=self.opacity[owner], colours=self.colours[owner],
        )  # fmt: skip

    def render(
        self, arkit: Tensor, viewmats: Tensor, Ks: Tensor, size: int, background: Tensor, neck: Tensor | None = None,
        chunk: int = 64,
    ) -> Tensor:  # fmt: skip
        """Pictures ``[B, T, H, W, 3]``; arguments as :meth:`SyntheticSubjects.render`."""
        batch, frames = arkit.shape[:2]
        flat = self.subjects.pose(arkit, neck, self.identity).flatten(0, 1)
        owner = owners(batch, frames, flat.device)
        views, cameras = viewmats.flatten(0, 1), Ks.flatten(0, 1)
        pictures = []
        for part in torch.arange(len(flat), device=flat.device).split(chunk):
            splats = self.splats(flat[part], owner[part])
            pictures.append(splats.draw(views[part], cameras[part], size, background[owner[part]])[0])
        return torch.cat(pictures).unflatten(0, (batch, frames))


def _directions(relative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Azimuth and elevation scaled to [-1, 1], and distance, of vectors ``[..., 3]``."""
    around = torch.atan2(relative[..., 0], relative[..., 2]) / math.pi
    height = torch.atan2(relative[..., 1], relative[..., [0, 2]].norm(dim=-1)) / (math.pi / 2.0)
    return around, height, relative.norm(dim=-1)
