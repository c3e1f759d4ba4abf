"""A head model whose expression space is ARKit itself: the curriculum's output can be read off its clips."""

import torch

from zero1toa.head.protocol import HeadParams, LandmarkEmbedding


class PlainHead:
    name = "plain"
    n_shape = 2
    n_expression = 52
    n_vertices = 3
    joints = ("root", "neck", "jaw", "left_eye", "right_eye")
    height = 0.3

    def __init__(self):
        self.faces = torch.tensor([[0, 1, 2]])
        self.regions = {}
        self.landmarks = LandmarkEmbedding(torch.zeros(478, dtype=torch.int64), torch.full((478, 3), 1 / 3))
        self.center = torch.tensor([0.01, 0.05, -0.02])

    def neutral(self, *batch):
        return HeadParams(
            shape=torch.zeros(*batch, 2),
            expression=torch.zeros(*batch, 52),
            jaw=torch.zeros(*batch, 3),
            neck=torch.zeros(*batch, 3),
            eyes=torch.zeros(*batch, 2, 3),
            lids=torch.zeros(*batch, 2),
        )

    def vertices(self, params):
        raise NotImplementedError

    def arkit(self, coefficients, identity):
        jaw = torch.zeros(*coefficients.shape[:-1], 3)
        jaw[..., 0] = 0.35 * coefficients[..., 24]
        lids = coefficients[..., [8, 9]]
        return identity.replace(expression=coefficients, jaw=jaw, lids=lids)

    def to(self, device):
        return self
