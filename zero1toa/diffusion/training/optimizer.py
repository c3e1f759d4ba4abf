"""Mixed precision, averaged weights and learning rate by the clock."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class MasterWeights:
    """float32 weights, their Adam state and their running average, for a network that computes in another type.

    The network runs wholly in ``dtype``: under autocast every normalisation would put out float32 and a small network
    spends more time on that traffic than on products. On top of it the float32 copy keeps updates that are smaller
    than half precision can add.
    """

    def __init__(self, network: nn.Module, rate: float, weight_decay: float, ema: float, dtype: torch.dtype) -> None:
        self.network = network
        self.ema_decay = ema
        self.steps = 0
        parameters = list(network.parameters())
        self.master = [p.detach().float().clone() for p in parameters]
        self._grads = [torch.zeros_like(m) for m in self.master]
        for tensor, grad in zip(self.master, self._grads, strict=True):
            tensor.grad = grad
        self.average = [m.clone() for m in self.master]
        for parameter in parameters:
            parameter.data = parameter.data.to(dtype)
        self.parameters = parameters
        decay = [m for m in self.master if m.ndim > 1]
        rest = [m for m in self.master if m.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decay, "weight_decay": weight_decay}]
        groups.append({"params": rest, "weight_decay": 0.0})
        fused = parameters[0].is_cuda
        self.adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), eps=1e-8, fused=fused)

    @torch.no_grad()
    def step(self, rate: float, clip: float = 1.0) -> Tensor:
        """Apply the network's gradients, refresh its weights, and return the gradient norm (on the device)."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        torch._foreach_copy_(self._grads, grads)
        norm = nn.utils.clip_grad_norm_(self.master, clip, foreach=True)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.steps += 1
        # The average forgets its start quickly while it is young.
        decay = min(self.ema_decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, self.master, 1 - decay)
        torch._foreach_copy_([p.data for p in self.parameters], self.master)
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    @torch.no_grad()
    def copy_average(self, network: nn.Module) -> None:
        """Write the averaged weights into another instance of the network."""
        for target, value in zip(network.parameters(), self.average, strict=True):
            target.data.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        return {
            "master": self.master,
            "average": self.average,
            "adam": self.adam.state_dict(),
            "steps": self.steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        for name in ("master", "average"):
            for target, value in zip(getattr(self, name), state[name], strict=True):
                target.copy_(value)
        self.adam.load_state_dict(state["adam"])
        self.steps = state["steps"]
        torch._foreach_copy_([p.data for p in self.parameters], self.master)


def rate_at(progress: float, peak: float, warmup: float) -> float:
    """Learning rate at a share ``progress`` of a stage's time: linear rise, then half a cosine to 1 % of the peak."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * (progress + 0.02 * warmup) / (1.02 * warmup)
    fall = (progress - warmup) / (1 - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fall)))
