"""Strain of triangles whose deformation is known."""

import pytest
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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_triangle_without_area_counts_as_strained(device):
    """So do those whose area is a rounding error of either sign, as ears under hair have them."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    faces = torch.tensor([[0, 1, 2]], device=device)
    sliver = torch.tensor([
        [0.0698634684085846, 0.004982794169336557, -0.08552323281764984],
        [0.0689551830291748, -0.0008379730861634016, -0.08143617957830429],
        [0.0689551830291748, -0.0008379731443710625, -0.08143617957830429],
    ])  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        turned = (sliver.double() @ _rotation(generator).T).float().to(device)
        # What is left of the height is a few rounding errors of a coordinate.
        moved = turned + 1e-9 * torch.randn(3, 3, generator=generator).to(device)
        assert torch.isfinite(strain(faces, turned, moved)).all()
        flat = torch.stack([turned[0], turned[1], turned[1]])
        assert strain(faces, flat, turned).item() == 0.0
    before = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]], device=device)
    after = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], device=device)
    assert strain(faces, before, after).item() == 0.0
