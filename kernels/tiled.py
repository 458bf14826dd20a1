"""The path that runs anywhere: torch operations on tiles whose size follows the budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .call import Call
from .engine import Engine, Tiling
from .geometry import Dense, Grid
from .recompute import Backward

SMALLEST = 16
"""Rows of a tile below which it isn't cut further."""


class Limits(NamedTuple):
    """What a device likes: most queries and keys of a tile, most scores of a step over all heads, and how many scores
    could be computed in the time that starting a step's operations takes."""

    queries: int
    keys: int
    scores: int
    start: int


CPU = Limits(512, 1024, 2**19, 10**5)
GPU = Limits(2048, 4096, 2**25, 2 * 10**7)


def limits(device: torch.device) -> Limits:
    return CPU if device.type == "cpu" else GPU


def workspace_bytes(call: Call, tiling: Tiling) -> int:
    """Bytes beyond inputs and output, and gradients if some are needed."""
    forward = Engine(call, tiling).workspace_bytes()
    return max(forward, Backward(call, tiling).workspace_bytes()) if call.needs_grad else forward


def tiling_for(
    call: Call, device: torch.device | None = None, needed: Callable[[Call, Tiling], int] = workspace_bytes
) -> Tiling:
    """The largest comfortable tiles within the budget; where none fit, the smallest."""
    batch, heads, queries, keys = call.scores
    most = limits(device or call.q.device)
    if call.neighbourhood is None:
        q, k = min(queries, most.queries), min(keys, most.keys)
        tiling = Tiling(Dense(queries, keys, call.is_causal, max(q, 1), max(k, 1)), 1, 1)
    else:
        tiling = Tiling(_grid(call, most), 1, 1)
        q, k = tiling.geometry.rows("queries")
    fit = max(1, most.scores // max(1, q * k))
    heads = max(1, heads)
    tiling = replace(tiling, heads=min(heads, fit), batches=min(max(1, batch), max(1, fit // heads)))
    budget = math.inf if call.budget_bytes is None else call.budget_bytes
    while needed(call, tiling) > budget:
        smaller = _smaller(tiling)
        if smaller is None:
            break
        tiling = smaller
    return tiling


def _grid(call: Call, most: Limits) -> Grid:
    """The blocks with the least work: small ones gather fewer keys that most of their queries don't see."""
    near = call.neighbourhood
    assert near is not None
    heads = call.scores[0] * call.scores[1]

    def surroundings(block: tuple[int, int]) -> tuple[int, int]:
        return min(near.height, block[0] + 2 * near.radius_y), min(near.width, block[1] + 2 * near.radius_x)

    def work(block: tuple[int, int]) -> int:
        steps = math.ceil(near.height / block[0]) * math.ceil(near.width / block[1])
        return steps * (most.start + heads * math.prod(block) * math.prod(surroundings(block)))

    powers = [2**n for n in range(most.queries.bit_length())]
    blocks = [(min(near.height, y), min(near.width, x)) for y, x in product(powers, powers) if y * x <= most.queries]
    block = min(blocks, key=work)
    return Grid(near, call.is_causal, block, _cut(surroundings(block), most.keys))


def _cut(size: tuple[int, int], most: int) -> tuple[int, int]:
    rows, columns = size
    while rows * columns > most and rows > 1:
        rows = (rows + 1) // 2
    while rows * columns > most and columns > 1:
        columns = (columns + 1) // 2
    return rows, columns


def _smaller(tiling: Tiling) -> Tiling | None:
    if tiling.batches > 1:
        return replace(tiling, batches=(tiling.batches + 1) // 2)
    if tiling.heads > 1:
        return replace(tiling, heads=(tiling.heads + 1) // 2)
    shape = tiling.geometry
    queries, keys = shape.rows("queries")
    if max(queries, keys) <= SMALLEST:
        return None
    if isinstance(shape, Dense):
        if keys >= queries:
            return replace(tiling, geometry=replace(shape, tile_keys=(keys + 1) // 2))
        return replace(tiling, geometry=replace(shape, tile_queries=(queries + 1) // 2))
    assert isinstance(shape, Grid)
    if keys >= queries:
        return replace(tiling, geometry=replace(shape, chunk=_cut(shape.chunk, (keys + 1) // 2)))
    return replace(tiling, geometry=replace(shape, block=_cut(shape.block, (queries + 1) // 2)))


class TiledPath:
    """Queries and keys in tiles, an online log-sum-exp merge, sums in float32 (float64 for float64 inputs)."""

    name = "tiled"
    why = "it runs on every device, with any mask, in tiles that fit the budget"

    def supports(self, call: Call) -> str | None:
        if call.q.device != call.k.device:
            return f"q is on {call.q.device} and k is on {call.k.device}"
        return self.too_large(call)

    def too_large(self, call: Call) -> str | None:
        """A clause that names the memory of the smallest tile where even that is above the budget."""
        if call.budget_bytes is None:
            return None
        tiling = self.tiling(call)
        needed = self.bytes_of(call, tiling)
        if needed <= call.budget_bytes:
            return None
        queries, keys = tiling.geometry.rows("queries")
        return f"its smallest tile, {queries} queries by {keys} keys of one head, needs {needed} bytes"

    def tiling(self, call: Call) -> Tiling:
        """Tiles that fit the budget, or the smallest there are."""
        return tiling_for(call)

    def bytes_of(self, call: Call, tiling: Tiling) -> int:
        return workspace_bytes(call, tiling)

    def workspace(self, call: Call) -> int:
        return self.bytes_of(call, self.tiling(call))

    def flops(self, call: Call) -> int:
        return call.flops_per_pair * self.tiling(call).geometry.pairs()

    def tiles(self, call: Call) -> tuple[int, int, int] | None:
        tiling = self.tiling(call)
        return tiling.batches * tiling.heads, *tiling.geometry.rows("queries")

    def run(self, call: Call) -> Tensor:
        return differentiable(call, self.tiling(call), Engine, Backward)


class WindowPath(TiledPath):
    """The same over a neighbourhood: keys are gathered around each block of queries, across wrapped borders."""

    name = "window"
    why = "there is a window: only the surroundings of each block of queries are gathered"

    def supports(self, call: Call) -> str | None:
        return super().supports(call) if call.neighbourhood is not None else "there is no window"


def differentiable(call: Call, tiling: Tiling, forward: type[Engine], backward: type[Backward]) -> Tensor:
    """Run `forward`, and `backward` where gradients are asked for."""
    if not call.needs_grad:
        return forward(call, tiling).forward(keep_lse=False)[0]
    out: Any = _Attention.apply(call.q, call.k, call.v, call.mask, call, tiling, forward, backward)
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        call: Call,
        tiling: Tiling,
        forward: type[Engine],
        backward: type[Backward],
    ) -> Tensor:
        out, lse = forward(replace(call, q=q, k=k, v=v, mask=mask), tiling).forward(keep_lse=True)
        ctx.save_for_backward(q, k, v, mask, out, lse)
        ctx.rest = (call.is_causal, call.scale, call.neighbourhood, call.budget_bytes)
        ctx.how = (tiling, backward)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator's types hide the names
        ctx: Any, *grads: Any
    ) -> tuple[Tensor | None, ...]:
        q, k, v, mask, out, lse = ctx.saved_tensors
        tiling, backward = ctx.how
        names = ("q", "k", "v", "mask")
        wanted = {name for name, needed in zip(names, ctx.needs_input_grad, strict=False) if needed}
        made = backward(Call(q, k, v, mask, *ctx.rest), tiling).run(grads[0], out, lse, wanted)
        return *(made.get(name) for name in names), None, None, None, None
