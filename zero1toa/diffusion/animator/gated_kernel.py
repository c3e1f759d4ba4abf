"""The first product of a feed-forward layer together with its gate, in one CUDA kernel.

Apart, the product writes eight values for each channel of each token, and the gate reads them to write four: at the
finest resolution that takes as long as the product. Here values and gates meet in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BAND = 8  # blocks of rows that share the columns' weights while these are in the cache
_TILES = (  # rows, columns, depth, warps, stages: the fastest is found at the first call for each width
    (128, 128, 64, 8, 3),
    (128, 64, 64, 4, 3),
    (128, 64, 64, 4, 4),
    (128, 64, 32, 4, 4),
    (64, 128, 64, 4, 3),
)


@triton.autotune(
    configs=[
        triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps, num_stages=stages)
        for rows, columns, depth, warps, stages in _TILES
    ],
    key=["OUT", "INNER"],
)
@triton.jit
def _product_and_gate(  # type: ignore[no-untyped-def]
    x, weight, bias, out, rows, OUT: tl.constexpr, INNER: tl.constexpr,
    BAND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``x`` ``[rows, INNER]``, ``weight`` ``[2 * OUT, INNER]`` to ``out`` ``[rows, OUT]``; one block of it."""
    across: tl.constexpr = OUT // COLUMNS
    program = tl.program_id(0)
    band = program // (BAND * across)
    height = tl.minimum(tl.cdiv(rows, ROWS) - band * BAND, BAND)
    inside = program % (BAND * across)
    row = (band * BAND + inside % height) * ROWS + tl.arange(0, ROWS)
    column = (inside // height) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    known = (row < rows)[:, None]
    left = x + row.to(tl.int64)[:, None] * INNER + depth[None, :]
    right = weight + column[None, :] * INNER + depth[:, None]
    values = tl.zeros((ROWS, COLUMNS), tl.float32)
    gates = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, INNER, DEPTH):
        tokens = tl.load(left + start, mask=known, other=0.0)
        values = tl.dot(tokens, tl.load(right + start), values)
        gates = tl.dot(tokens, tl.load(right + OUT * INNER + start), gates)
    values += tl.load(bias + column).to(tl.float32)[None, :]
    gates += tl.load(bias + OUT + column).to(tl.float32)[None, :]
    gates = 0.5 * gates * (1.0 + tl.erf(gates * 0.7071067811865476))
    result = (values * gates).to(x.dtype.element_ty)
    tl.store(out + row.to(tl.int64)[:, None] * OUT + column[None, :], result, mask=known)


@torch.library.custom_op("zero1toa::gated_product", mutates_args=())
def gated_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``value * gelu(gate)`` of a linear layer's two halves.

    Args:
        x: ``[..., C]``, bfloat16 or float16, C divisible by 64.
        weight: ``[2 * D, C]``, values first; D divisible by 128.
        bias: ``[2 * D]``.

    Returns:
        ``[..., D]``.
    """
    tokens = x.reshape(-1, x.shape[-1]).contiguous()
    width = len(weight) // 2
    out = x.new_empty(*x.shape[:-1], width)
    _product_and_gate[lambda tile: (triton.cdiv(len(tokens), tile["ROWS"]) * (width // tile["COLUMNS"]),)](
        tokens, weight, bias, out, len(tokens), OUT=width, INNER=tokens.shape[1], BAND=_BAND
    )
    return out


@gated_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight) // 2)
