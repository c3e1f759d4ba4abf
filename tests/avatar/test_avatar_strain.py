"""Strain of triangles whose deformation is known."""

import torch

from zero1toa.avatar.strain import strain


def _rotation(generator: torch.Generator) -> torch.Tensor:
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)


def test_strain_is_the_singular_value_that_is_furthest_from_one():
    generator = torch.Generator().manual_seed(0)
    before, after, expected = [], [], []
    for _ in range(200):
        flat = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        gradient = torch.eye(2, dtype=torch.float64) + 0.4 * torch.randn(2, 2, generator=generator, dtype=torch.float64)
        values = torch.linalg.svdvals(gradient)
        expected.append(float(torch.minimum(values.min(), 1 / values.max())))
        for corners, out in ((flat, before), (flat @ gradient.T, after)):
            solid = torch.cat([corners, torch.zeros(3, 1, dtype=torch.float64)], 1)
            out.append(solid @ _rotation(generator).T + torch.randn(3, generator=generator, dtype=torch.float64))
    faces = torch.arange(600).view(200, 3)
    found = strain(faces, torch.cat(before), torch.cat(after))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)


def test_a_triangle_without_area_counts_as_strained():
    before = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    after = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    assert strain(torch.tensor([[0, 1, 2]]), before, after).item() == 0.0
