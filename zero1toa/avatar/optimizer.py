"""Adam over an avatar's tensors (paper sec. 8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zero1toa.avatar.gaussians import PARAMETERS, SH_C0, GaussianAvatar
from zero1toa.config import OptimConfig


class AvatarOptimizer:
    """One Adam group per tensor, with the positions' learning rate decaying exponentially.

    Attributes:
        adam: the torch optimiser; its groups carry the tensor's ``name``.
    """

    def __init__(self, avatar: GaussianAvatar, config: OptimConfig, iterations: int) -> None:
        """Set up the groups.

        Args:
            avatar: the avatar to train; density control replaces its parameters and keeps this optimiser in step.
            config: learning rates, betas and epsilon.
            iterations: length of the positions' decay.
        """
        self.avatar = avatar
        self.config = config
        self.iterations = max(iterations, 1)
        rates = {
            "means": config.position,
            "log_scales": config.scaling,
            "quats": config.rotation,
            "opacity_logits": config.opacity,
            "sh0": config.color,
        }
        groups = [{"params": [getattr(avatar, name)], "lr": rate, "name": name} for name, rate in rates.items()]
        # The fused kernel exists on CUDA and CPU only.
        fused = avatar.means.device.type in ("cuda", "cpu")
        self.adam = torch.optim.Adam(groups, betas=(config.betas[0], config.betas[1]), eps=config.eps, fused=fused)

    def position_rate(self, step: int) -> float:
        """Learning rate of the positions at iteration ``step``: log-linear from the first to the final rate."""
        done = min(max(step / self.iterations, 0.0), 1.0)
        return float(self.config.position ** (1 - done) * self.config.position_final**done)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.adam.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, step: int, share: Tensor | None = None) -> None:
        """One Adam step with the learning rates of iteration ``step`` (from 0), then project colours into [0, 1].

        Args:
            step: training iteration.
            share: how much of its step each Gaussian takes ``[N]`` in [0, 1]; all of it when None. Scaling gradients
                instead would change nothing, because Adam divides by their size, and a Gaussian without a gradient
                would go on with its momentum.
        """
        for group in self.adam.param_groups:
            if group["name"] == "means":
                group["lr"] = self.position_rate(step)
        if share is None:
            self.adam.step()
        else:
            self._partial_step(share)
        self.avatar.sh0.clamp_(-0.5 / SH_C0, 0.5 / SH_C0)

    def _partial_step(self, share: Tensor) -> None:
        moving = share > 0
        before = {}
        for name in PARAMETERS:
            parameter = getattr(self.avatar, name)
            before[name] = parameter.detach().clone()
            if parameter.grad is not None:
                parameter.grad[~moving] = 0
        self.adam.step()
        for name, old in before.items():
            parameter = getattr(self.avatar, name)
            parameter.copy_(old.lerp(parameter, share.view(-1, *[1] * (old.ndim - 1))))

    def state_dict(self) -> dict[str, Any]:
        """Adam's state, for checkpoints."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` of an optimiser whose avatar has the same number of Gaussians."""
        self.adam.load_state_dict(state)
