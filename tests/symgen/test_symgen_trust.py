"""What a portrait is believed of cheeks that turn aside."""

from __future__ import annotations

import numpy as np
import torch
from tiny import tiny_config, tiny_portrait

from zero1toa.avatar.zbuffer import depth_map
from zero1toa.head.registry import load_head
from zero1toa.render.cameras import camera_centers, project
from zero1toa.symgen.portrait_target import PORTRAIT
from zero1toa.symgen.portrait_trust import evened
from zero1toa.symgen.reconstruct import Reconstruction

SIZE = 160


def _none(*_):
    raise AssertionError("nothing is fetched here")


def test_cheeks_that_turn_aside_keep_the_first_avatars_colours_and_all_else_the_portraits():
    head = load_head("canonical")
    config = tiny_config("avatar.gaussians_per_triangle=3", f"render.size={SIZE}")
    trainer = Reconstruction(tiny_portrait(), config, head, avatar_id="a", fetch=_none)
    posed, avatar = trainer._posed, trainer.gaussians
    white, black = (
        evened(posed, PORTRAIT, avatar, trainer.params, colors, posed.background)
        for colors in (torch.ones(1, SIZE, SIZE, 3), torch.zeros(1, SIZE, SIZE, 3))
    )
    assert white.shape == (1, SIZE, SIZE, 3)
    share = (white - black)[0].mean(-1).numpy()  # of the portrait's colours; the rest is the first avatar's

    # Triangles that the camera sees, with normals and eye lines by cross products in float64.
    vertices = posed.vertices(PORTRAIT)[0].double()
    viewmat, K = (t[0] for t in posed.cameras(PORTRAIT, [0]))
    corners = vertices[head.faces]
    middle = corners.mean(1)
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    towards = camera_centers(viewmat[None].double())[0] - middle
    cosine = (normal * towards).sum(-1) / (normal.norm(dim=-1) * towards.norm(dim=-1)).clamp_min(1e-12)
    pixels, depth = project(middle[None].float(), viewmat[None], K[None])
    column, row = pixels[0].numpy().astype(int).clip(0, SIZE - 1).T
    surface = depth_map(vertices[None].float(), head.faces, viewmat[None], K[None], (SIZE, SIZE))[0].numpy()
    shown = np.abs(surface[row, column] - depth[0].numpy()) < 0.003

    rest = head.vertices(head.neutral())[head.faces].mean(1)
    face, neck = (head.regions[name].numpy() for name in ("face", "neck"))
    below_eyes = (rest[:, 1] < rest[head.regions["eye_left"]][:, 1].mean()).numpy()
    aside = rest[:, 0].abs().numpy() / float(rest[head.regions["face"]][:, 0].abs().max())
    cosine = cosine.numpy()
    squarely = shown & face & below_eyes & (aside > 0.55) & (cosine > 0.9)
    turned = shown & face & below_eyes & (aside > 0.6) & (cosine < 0.35) & (cosine > 0.1)
    throat = shown & neck & (cosine > 0.5)
    middle_of_face = shown & face & (aside < 0.3)
    scalp = shown & head.regions["scalp"].numpy() & (rest[:, 1] > rest[:, 1].max() - 0.05).numpy()
    for triangles in (squarely, middle_of_face, scalp, throat):
        assert triangles.sum() > 20
        assert np.median(share[row[triangles], column[triangles]]) > 0.9
    assert turned.sum() > 20
    assert np.median(share[row[turned], column[turned]]) < 0.2
