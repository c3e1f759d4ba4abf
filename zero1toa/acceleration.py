"""What makes torch fast on CUDA: a compiler whose results are kept, replayed CUDA graphs, copies without waiting."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils import _pytree as pytree

from zero1toa import assets

_SHAPES = 128  # of one function: sizes of pictures and avatars, numbers of frames
_KEPT = 6  # graphs at once; each holds copies of its inputs, up to 0.3 GB


def keep_compiled() -> None:
    """Settings of torch's compiler: enough shapes, and a folder that outlives a restart of the machine."""
    # Beyond its limit of 8 shapes for a function dynamo would silently fall back to running it eagerly.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _SHAPES)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * _SHAPES)
    folder = assets.home() / "compiled"
    with contextlib.suppress(OSError):  # without it the compiler uses the machine's temporary folder
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def send(values: ArrayLike, device: torch.device) -> Tensor:
    """Numbers of the host as a tensor on a device, without waiting until the device has come to them."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class _Recording(NamedTuple):
    """A graph with the memory that it reads and writes, and the tensors last copied there, with their versions."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Any]
    sources: list[tuple[Any, int | None]]
    output: Any


class Replay:
    """A function of tensors whose launches are recorded at the first call with some shapes, and replayed after.

    Launching many small kernels takes the host as long as running them takes a fast device, or longer.

    Args:
        function: reads only its arguments and tensors that stay where they are, launches the same work for the same
            shapes and constants, and returns a tensor or a tuple of tensors.
        device: where its tensors are.
        recording: makes the context in which the function is recorded, for instance one that chooses its kernels.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        recording: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._function = function
        self._device = device
        self._context = recording
        self._recordings: dict[Hashable, _Recording] = {}
        self._pool: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Call the function.

        Args:
            arguments: nested tuples of tensors and of constants.

        Returns:
            What the function returns, in tensors of their own, not overwritten by later calls.
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
            return pytree.tree_map(torch.clone, recording.output)

    def _record(self, leaves: list[Any], structure: pytree.TreeSpec) -> _Recording:
        inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        arguments = pytree.tree_unflatten(inputs, structure)
        with self._context():
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
