"""Loose hair on an ellipsoid head, against mattes drawn by formula."""

from __future__ import annotations

import numpy as np
import torch
from drawn_portrait import HAIR, SIZE, plane, portrait, skull
from sphere_head import SphereHead

from zero1toa.avatar import hair_behind
from zero1toa.avatar.creation import create_avatar
from zero1toa.avatar.loose_hair import _opacities
from zero1toa.config import AvatarConfig
from zero1toa.render.cameras import orbit
from zero1toa.types import Portrait

CONFIG = AvatarConfig(gaussians_per_triangle=3, landmark_offset=False)


def _portrait(head: SphereHead, alpha: np.ndarray) -> Portrait:
    """A head with hair from its forehead up."""
    return portrait(head, alpha, skin=skull() & (plane()[1] < 0.05))


def _seen(head: SphereHead, drawn: Portrait) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Colours over black and alpha of the new avatar in the portrait's camera, and how many Gaussians it has."""
    made = create_avatar(head, drawn, CONFIG)
    camera = torch.from_numpy(drawn.viewmat)[None, None], torch.from_numpy(drawn.K)[None, None]
    with torch.no_grad():
        picture, alpha, _ = made.avatar.render(head.vertices(made.params)[None], *camera, SIZE, (0.0, 0.0, 0.0))
    assert len(made.seen) == len(made.kept) == len(made.avatar)
    return picture[0, 0], alpha[0, 0, ..., 0], len(made.avatar)


def test_strands_beyond_the_outline_are_drawn_in_their_colour() -> None:
    head = SphereHead(rows=28, columns=40)
    x, y = plane()
    closed = (x / 0.085) ** 2 + (y / 0.120) ** 2 <= 1
    angle = np.arctan2(y, x)
    reach = (x / 0.105) ** 2 + (y / 0.140) ** 2
    strands = (reach <= 1) & (y > 0.03) & (np.abs(np.sin(9 * angle)) < 0.25) & ~closed
    without, with_strands = (_seen(head, _portrait(head, (m).astype(float))) for m in (closed, closed | strands))
    away = torch.from_numpy(strands & (reach > 0.75))
    assert without[1][away].mean() < 0.15
    assert with_strands[1][away].mean() > 0.6
    assert with_strands[2] > without[2]
    colour = with_strands[0][away].sum(0) / with_strands[1][away].sum()
    torch.testing.assert_close(colour, torch.tensor(HAIR) / 255, atol=0.05, rtol=0)
    # Nothing grows where the matte is empty.
    empty = torch.from_numpy(reach > 1.25)
    assert with_strands[1][empty].max() < 0.05


def test_loose_hair_goes_on_around_the_back_where_the_portrait_does_not_see_it(monkeypatch) -> None:
    head = SphereHead(rows=28, columns=40)
    x, y = plane()
    reach = (x / 0.105) ** 2 + (y / 0.140) ** 2
    closed = (x / 0.085) ** 2 + (y / 0.120) ** 2 <= 1
    strands = (reach <= 1) & (y > 0.0) & (np.abs(np.sin(9 * np.arctan2(y, x))) < 0.5) & ~closed
    drawn = _portrait(head, (closed | strands).astype(float))
    made = create_avatar(head, drawn, CONFIG)
    monkeypatch.setattr(hair_behind, "COPIES", 0)
    bare = create_avatar(head, drawn, CONFIG)
    assert len(made.avatar) > len(bare.avatar) + 500
    vertices, K = head.vertices(made.params)[None], torch.from_numpy(drawn.K)[None, None]
    pictures = []
    for avatar in (made.avatar, bare.avatar):
        views = [torch.from_numpy(drawn.viewmat), *(orbit(azimuth, 0.0, 1.0) for azimuth in (90.0, 180.0))]
        with torch.no_grad():
            seen = [avatar.render(vertices, view[None, None], K, SIZE, (0.0, 0.0, 0.0))[:2] for view in views]
        pictures.append([(picture[0, 0], alpha[0, 0, ..., 0]) for picture, alpha in seen])
    with_copies, without = pictures
    # The portrait looks the same; the outline of the head's back is loose from the side.
    assert (with_copies[0][0] - without[0][0]).abs().max() < 0.02
    behind = torch.from_numpy((x > 0.02) | (x < -0.02)) & (without[1][1] < 0.1)
    added = (with_copies[1][1] - without[1][1])[behind & torch.from_numpy(y > 0.02)]
    assert (added > 0.2).sum() > 100
    inside = without[2][1] > 0.99
    colour = with_copies[2][0][inside & torch.from_numpy(y > 0.06)].mean(0)
    torch.testing.assert_close(colour, torch.tensor(HAIR) / 255, atol=0.1, rtol=0)


def test_a_collar_of_the_hairs_colour_is_no_loose_hair() -> None:
    """Strands hang from the scalp; the same colour beside the neck, with nothing in between, does not."""
    head = SphereHead(rows=28, columns=40)
    x, y = plane()
    closed = (x / 0.085) ** 2 + (y / 0.120) ** 2 <= 1
    collar = (np.abs(np.abs(x) - 0.066) < 0.008) & (y > -0.115) & (y < -0.1)
    drawn = portrait(head, (closed | collar).astype(float), skin=skull() & ~collar & (y < 0.05))
    _, alpha, _ = _seen(head, drawn)
    assert alpha[torch.from_numpy(collar)].mean() < 0.2


def test_a_lock_below_a_hat_is_loose_hair_whatever_its_colour_and_a_collar_is_not() -> None:
    """White masses beside a face under dark hair: one ends above the chin, one goes on below, one is a thin rim."""
    head = SphereHead(rows=28, columns=40)
    x, y = plane()
    closed = (x / 0.085) ** 2 + (y / 0.120) ** 2 <= 1
    chin = head.landmarks.positions(head.vertices(head.neutral()), head.faces)[152, 1].item()
    masses = {
        "lock": (np.abs(x - 0.09) < 0.008) & (y > -0.06) & (y < -0.03),
        "collar": (np.abs(x - 0.09) < 0.008) & (y > chin - 0.02) & (y < -0.03),
        "rim": (np.abs(x - 0.09) < 0.001) & (y > -0.06) & (y < -0.03),
    }
    for name, mass in masses.items():
        mass &= (x / 0.081) ** 2 + (y / 0.112) ** 2 > 1
        drawn = portrait(head, ((closed & (y > 0.02)) | skull() | mass).astype(float), skin=skull() & (y < 0.05))
        drawn.image[mass, :3] = 240
        picture, alpha, _ = _seen(head, drawn)
        covered = alpha[torch.from_numpy(mass)].mean()
        if name == "lock":
            assert covered > 0.6
            assert (picture[torch.from_numpy(mass)].mean(0) / covered).min() > 0.85
        else:
            assert covered < 0.35


def test_the_dark_rim_of_a_bare_head_is_no_loose_hair() -> None:
    """What a photo's sharpening draws around a head; with a cap of hair the same rim is taken for strands."""
    head = SphereHead(rows=28, columns=40)
    x, y = plane()
    rim = ((x / 0.081) ** 2 + (y / 0.101) ** 2 <= 1) & ~skull()
    alpha = np.where(skull(), 1.0, np.where(rim, 0.4, 0.0))
    _, _, bare = _seen(head, portrait(head, alpha, skin=skull()))
    _, _, haired = _seen(head, portrait(head, alpha, skin=skull() & (y < 0.05)))
    _, _, without = _seen(head, portrait(head, skull().astype(float), skin=skull()))
    assert bare == without < haired


def test_opacities_of_a_mass_and_of_a_strand_cover_as_the_matte_wants() -> None:
    matte = np.zeros((48, 48))
    matte[8:24, 8:24] = 0.7
    matte[32, 6:42] = 0.7
    opacity = _opacities(matte)
    y, x = np.mgrid[0:48, 0:48]
    for row, column in ((16, 16), (32, 20)):
        # What passes all Gaussians around a pixel's centre, multiplied one by one.
        weight = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 0.55**2))
        passes = np.prod(1 - np.where(matte > 0, opacity, 0) * weight)
        assert abs((1 - passes) - 0.7) < 0.04
