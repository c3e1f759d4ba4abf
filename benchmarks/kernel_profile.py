"""Where the time of an evaluation goes: its costliest kernels, and sums by part of the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zero1toa.diffusion.animator.attention import FeedForward, PromptAttention, SelfAttention, SpatialTransformer
from zero1toa.diffusion.animator.blocks import Downsample, ResnetBlock, Upsample
from zero1toa.diffusion.animator.motion import MotionModule, TemporalAttention

_ROWS = 40
_OWN = {"group_sums", "group_normalise", "gate", "add", "interleave", *(f"add_and_normalise_{n}" for n in (8, 16, 32))}
_PARTS: dict[type[nn.Module], str] = {
    ResnetBlock: "residual block",
    Downsample: "resampling",
    Upsample: "resampling",
    SpatialTransformer: "spatial transformer",
    SelfAttention: "self-attention",
    PromptAttention: "cross-attention",
    FeedForward: "feed-forward",
    MotionModule: "motion module",
    TemporalAttention: "temporal attention",
    nn.GroupNorm: "normalisation",
    nn.LayerNorm: "normalisation",
    nn.Conv2d: "convolution",
}


def _label(network: nn.Module) -> list[Any]:
    """Hooks that give the profiler a name for every part of a network; compiled layers show only as a whole."""
    handles = []
    inside = {part for layer in network.modules() if "forward" in vars(layer) for part in layer.modules()}
    for module in network.modules():
        if module in inside and "forward" not in vars(module):
            continue  # a hook in there would have the layer compiled anew
        for kind in type(module).__mro__:
            if kind not in _PARTS:
                continue
            opened: list[torch.profiler.record_function] = []

            def before(_: nn.Module, inputs: Any, opened: list[Any] = opened, title: str = _PARTS[kind]) -> None:
                tokens = "x".join(map(str, inputs[0].shape[1:])) if inputs else ""
                opened.append(torch.profiler.record_function(f"part: {title} {tokens}"))
                opened[-1].__enter__()

            def after(*_: Any, opened: list[Any] = opened) -> None:
                opened.pop().__exit__(None, None, None)

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
            break
    return handles


def _device_time(event: Any) -> float:
    return float(getattr(event, "self_device_time_total", 0.0))


def _kind(kernel: str) -> str:
    """What a kernel does, by its name."""
    name = kernel.lower()
    if name in ("attend", "arrange"):
        return "attention"
    if name in _OWN:
        return "own kernels"
    for kind, marks in (
        ("attention", ("flash", "fmha", "sdpa", "attention")),
        ("convolution", ("conv", "fprop", "implicit", "dgrad", "wgrad", "nchw", "nhwc")),
        ("generated", ("triton",)),
        ("matrix product", ("gated_product", "gemm", "cutlass", "nvjet", "cublas", "splitk")),
        ("copy or fill", ("memcpy", "memset", "copy", "fill", "cat")),
    ):
        if any(mark in name for mark in marks):
            return kind
    return "other"


def kernel_times(call: Callable[[], object], repeats: int = 6) -> tuple[int, float, float]:
    """The last of several calls on a CUDA device: number of kernels and copies, milliseconds in and between them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    events = [event.time_range for event in found.events() if str(event.device_type).endswith("CUDA")]
    spans = sorted((span.start, span.end) for span in events)
    last = spans[-(len(spans) // repeats) :]
    busy = sum(end - start for start, end in last)
    return len(last), busy / 1000, (last[-1][1] - last[0][0] - busy) / 1000


def profile_text(call: Callable[[], object], network: nn.Module, cuda: bool, variant: str) -> str:
    """Tables of one call.

    Args:
        call: one evaluation, warmed up.
        network: the network that it runs.
        cuda: whether it runs on a CUDA device.
        variant: how it is computed; a network compiled as a whole cannot be split into parts.
    """
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as plain:
        call()
        if cuda:
            torch.cuda.synchronize()
    sort = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    parts = [f"one guided evaluation, {variant}", plain.key_averages().table(sort_by=sort, row_limit=_ROWS)]

    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    kernels = [event for event in plain.key_averages() if str(event.device_type).endswith("CUDA")]
    for event in kernels:
        kinds[_kind(event.key)][0] += _device_time(event)
        kinds[_kind(event.key)][1] += event.count
    lines = [f"{'kernels by kind':<24} {'ms':>10} {'launches':>10}"]
    lines += [f"{kind:<24} {spent / 1000:10.3f} {count:10.0f}" for kind, (spent, count) in sorted(
        kinds.items(), key=lambda item: -item[1][0])]  # fmt: skip
    lines.append("")
    for event in sorted(kernels, key=_device_time, reverse=True)[:_ROWS]:
        lines.append(f"{_device_time(event) / 1000:10.3f} ms {event.count:6d} x  {event.key}")
    parts.append("\n".join(lines))

    if variant == "whole":
        return "\n\n".join(parts) + "\n"
    handles = _label(network)
    try:
        with profile(activities=activities, record_shapes=False) as named:
            call()
            if cuda:
                torch.cuda.synchronize()
    finally:
        for handle in handles:
            handle.remove()
    table = [f"{'parts, each with what is inside it':<60} {'ms':>10} {'calls':>8}"]
    events = [event for event in named.key_averages() if event.key.startswith("part: ") and event.cpu_time_total > 0]
    attribute = "device_time_total" if cuda else "cpu_time_total"
    for event in sorted(events, key=lambda event: event.key):
        table.append(f"{event.key[6:]:<60} {getattr(event, attribute) / 1000:10.3f} {event.count:8d}")
    parts.append("\n".join(table))
    return "\n\n".join(parts) + "\n"
