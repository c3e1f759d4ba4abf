"""Compiling the layers of denoiser and autoencoder for CUDA, and replaying an evaluation as one CUDA graph."""

from __future__ import annotations

import contextlib
import os
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zero1toa import assets
from zero1toa.diffusion.animator.attention import SpatialTransformer
from zero1toa.diffusion.animator.blocks import Downsample, ResnetBlock, Upsample
from zero1toa.diffusion.animator.denoiser import Denoiser
from zero1toa.diffusion.animator.motion import MotionModule, TemporalAttention
from zero1toa.diffusion.animator.networks import AnimatorNetworks
from zero1toa.diffusion.animator.normalisation import GroupNorm

_SHAPES = 128  # of one kind of layer: about 15 in a network, and again for each number of clips and frames
_KEPT = 6  # graphs at once; each holds copies of its inputs, 0.1 to 0.3 GB


def compile_networks(networks: AnimatorNetworks, dtype: torch.dtype) -> None:
    """Have the layers of denoiser and autoencoder compiled when they first run, each shape of a kind once.

    A denoiser holds dozens of equal layers: compiling it as a whole takes several times as long and fuses little more,
    since layers begin with a normalisation, whose statistics need all that came before.

    Args:
        networks: already where and in which type they compute; changed in place.
        dtype: that type.
    """
    from diffusers.models.resnet import ResnetBlock2D

    _keep_compiled()
    half = dtype in (torch.bfloat16, torch.float16)
    if half:
        from zero1toa.diffusion.animator import temporal_kernel  # noqa: F401  registers the operator
    for module in networks.denoiser.modules():
        if isinstance(module, TemporalAttention):
            module.fused = half  # type: ignore[assignment]
    _compile(networks.denoiser, (ResnetBlock, SpatialTransformer, MotionModule, Downsample, Upsample))
    networks.denoiser.conv_norm_out.by_rows = True
    finish = torch.compile(Denoiser.finish, dynamic=False, fullgraph=True)
    networks.denoiser.finish = types.MethodType(finish, networks.denoiser)  # type: ignore[method-assign]
    _compile(networks.autoencoder, (ResnetBlock2D,))


def _keep_compiled() -> None:
    """Settings of the compiler: enough shapes, and a folder that outlives a restart of the machine."""
    # Beyond its limit of 8 shapes for a function dynamo would silently fall back to running it eagerly.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _SHAPES)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * _SHAPES)
    folder = assets.home() / "compiled"
    with contextlib.suppress(OSError):  # without it the compiler uses the machine's temporary folder
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _compile(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    compiled = {kind: torch.compile(kind.forward, dynamic=False, fullgraph=True) for kind in kinds}
    for layer in network.modules():
        if type(layer) not in compiled:
            continue
        for norm in layer.modules():
            if isinstance(norm, nn.GroupNorm):
                norm.__class__ = GroupNorm  # of diffusers' layers; it adds no state
                norm.by_rows = True  # type: ignore[assignment]
        layer.forward = types.MethodType(compiled[type(layer)], layer)  # type: ignore[method-assign]


@contextlib.contextmanager
def attention_kernels(device: torch.device) -> Iterator[None]:
    """On Hopper and later, prefer cuDNN's attention, which uses their matrix units in full; before, torch's choice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if torch.cuda.get_device_capability(device)[0] < 9:
        yield
        return
    order = (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    )
    with sdpa_kernel(list(order), set_priority=True):
        yield


class _Recording(NamedTuple):
    """A graph with the memory that it reads and writes, and the tensors last copied there, with their versions."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Any]
    sources: list[tuple[Any, int | None]]
    output: Tensor


class Replay:
    """A function of tensors whose launches are recorded at the first call with some shapes, and replayed after.

    Launching an evaluation takes the host about as long as running it takes a fast device.

    Args:
        function: reads only its arguments and launches the same work for the same shapes and key.
        device: where its tensors are.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._recordings: dict[Hashable, _Recording] = {}
        self._pool: Any = None

    def __call__(self, *arguments: Any) -> Tensor:
        """Call the function.

        Args:
            arguments: nested tuples of tensors and of constants.

        Returns:
            A tensor of its own, not overwritten by later calls.
        """
        leaves, structure = pytree.tree_flatten(arguments)
        key = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        with torch.cuda.device(self._device):
            if key not in self._recordings:
                while len(self._recordings) >= _KEPT:
                    del self._recordings[next(iter(self._recordings))]
                self._recordings[key] = self._record(leaves, structure)
            recording = self._recordings[key]
            for place, leaf in enumerate(leaves):
                if isinstance(leaf, Tensor) and not _same(leaf, recording.sources[place]):
                    recording.inputs[place].copy_(leaf)
                    recording.sources[place] = (leaf, _version(leaf))
            recording.graph.replay()
            return recording.output.clone()

    def _record(self, leaves: list[Any], structure: pytree.TreeSpec) -> _Recording:
        inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        arguments = pytree.tree_unflatten(inputs, structure)
        with attention_kernels(self._device):
            # Compiling, choosing among kernels and creating library handles must be over before recording begins.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(2):
                    self._function(*arguments)
            torch.cuda.current_stream().wait_stream(aside)
            # One pool for all graphs: each is replayed alone and its output copied out, so that they may share memory.
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._function(*arguments)
        return _Recording(graph, inputs, [(leaf, _version(leaf)) for leaf in leaves], output)


def _version(value: Any) -> int | None:
    """Number of changes in place of a tensor, None where nobody counts."""
    return None if not isinstance(value, Tensor) or value.is_inference() else value._version


def _same(tensor: Tensor, source: tuple[Any, int | None]) -> bool:
    """Whether a tensor still holds what was copied of it."""
    return tensor is source[0] and source[1] is not None and tensor._version == source[1]
