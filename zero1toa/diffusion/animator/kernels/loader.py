"""CUDA kernels from source, compiled in a fraction of a second by the compiler library that torch brings along."""

from __future__ import annotations

import ctypes
import functools
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zero1toa.errors import BackboneError

_STATIC_SHARED = 48 * 1024  # bytes that a block may use without asking
_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class Kernel:
    """A function of a loaded module.

    Args:
        handle: the driver's handle.
        shared: bytes of dynamic shared memory that each block may use.
    """

    def __init__(self, handle: ctypes.c_void_p, shared: int) -> None:
        self._handle = handle
        self._shared = shared

    def __call__(self, grid: tuple[int, int], block: tuple[int, int], *arguments: Tensor | int | float | None) -> None:
        """Launch on the current stream of the current device.

        Args:
            grid: blocks.
            block: threads of each.
            arguments: tensors are passed as the addresses of their values, None as a null pointer, the others as 32-bit
                integers and floats.

        Raises:
            RuntimeError: if a gradient is asked for: there is none.
        """
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            raise RuntimeError("this package's CUDA kernels have no gradients; run the plain layers")
        values = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        _check(_driver().cuLaunchKernel(self._handle, *grid, 1, *block, 1, self._shared, stream, pointers, None))


def _value(argument: Tensor | int | float | None) -> Any:
    if argument is None:
        return ctypes.c_void_p()
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int(argument)


@functools.cache
def kernel(file: str, name: str, dtype: torch.dtype, device: int, shared: int = 0, **constants: int) -> Kernel:
    """A kernel of this package, compiled at the first call.

    Args:
        file: source file beside this module.
        name: of the function.
        dtype: bfloat16 or float16, in which maps are held.
        device: index of the GPU, which is the current one.
        shared: bytes of dynamic shared memory of each block.
        constants: of the source.

    Raises:
        RuntimeError: with what the compiler or the driver says.
    """
    function = ctypes.c_void_p()
    _check(
        _driver().cuModuleGetFunction(ctypes.byref(function), _module(file, dtype, device, **constants), name.encode())
    )
    if shared > _STATIC_SHARED:
        _check(_driver().cuFuncSetAttribute(function, _DYNAMIC_SHARED, shared))
    return Kernel(function, shared)


@functools.cache
def _module(file: str, dtype: torch.dtype, device: int, **constants: int) -> ctypes.c_void_p:
    major, minor = torch.cuda.get_device_capability(device)
    # The matrix instructions for groups of four warps belong to this one architecture and no later one.
    architecture = f"sm_{major}{minor}{'a' if major == 9 else ''}"
    defined = {"BFLOAT16": int(dtype == torch.bfloat16), **constants}
    torch.cuda.current_stream().synchronize()  # makes sure that the device has a context
    module = ctypes.c_void_p()
    _check(_driver().cuModuleLoadData(ctypes.byref(module), compile_source(file, architecture, defined)))
    return module


def compile_source(file: str, architecture: str, constants: dict[str, int]) -> bytes:
    """A source file of this package as machine code; needs no GPU.

    Args:
        file: source file beside this module.
        architecture: for instance ``sm_90a``.
        constants: of the source.

    Raises:
        RuntimeError: with the compiler's messages.
    """
    folder = resources.files(__package__)
    source = "".join((folder / name).read_text() for name in ("half.cuh", "hopper.cuh", file))
    compiler, program = _compiler(), ctypes.c_void_p()
    compiler.nvrtcCreateProgram(ctypes.byref(program), source.encode(), file.encode(), 0, None, None)
    options = [f"--gpu-architecture={architecture}", "--std=c++17", *(f"-D{k}={v}" for k, v in constants.items())]
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = compiler.nvrtcCompileProgram(program, len(options), encoded)
    what = "ProgramLog" if failed else "CUBIN"
    size = ctypes.c_size_t()
    getattr(compiler, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    result = ctypes.create_string_buffer(size.value)
    getattr(compiler, f"nvrtcGet{what}")(program, result)
    compiler.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"{file} does not compile for {architecture}: {result.value.decode()}")
    return result.raw


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@functools.cache
def _compiler() -> ctypes.CDLL:
    version = (torch.version.cuda or "").split(".")[0]
    try:
        return ctypes.CDLL(f"libnvrtc.so.{version}")
    except OSError:
        # torch finds the library in a wheel beside itself; it finds its own other half only where that is loaded.
        beside = Path(torch.__file__).parents[1] / "nvidia"
        for library in ("libnvrtc-builtins.so.*", f"libnvrtc.so.{version}"):
            found = sorted(beside.glob(f"*/lib/{library}"))
            if not found:
                raise BackboneError(
                    f"CUDA's run-time compiler libnvrtc.so.{version} is not installed; install torch's own CUDA "
                    "packages, or run the plain layers with diffusion.options.compiled=false"
                ) from None
            loaded = ctypes.CDLL(str(found[0]))
        return loaded


def _check(result: int) -> None:
    if result:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(result, ctypes.byref(text))
        raise RuntimeError(f"CUDA: {(text.value or b'unknown error').decode()}")
