"""The path for inputs that stay in host memory: tiles are copied to the device while others are computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .call import Call
from .engine import Engine, Group, Tiling, full_precision
from .geometry import Dense, Side, Tile
from .recompute import Backward, Gradients
from .sdpa import kernel_bytes, with_lse
from .tiled import TiledPath, differentiable, tiling_for

QUERIES, KEYS = 32768, 16384
"""Rows of a tile where a fused kernel does the arithmetic. A key costs 4 D bytes of copying and 4 D operations a query:
the copy hides once there are as many queries as operations a copied byte takes, 8,000 at 400 TFLOP/s over 50 GB/s."""
FEWEST = 256


def compute_device(call: Call) -> torch.device | None:
    """Where host-resident inputs are computed, or None if nothing is to be streamed.

    The GPU of q; for inputs all on the host the GPU if they are pinned or it is torch's default device; else the CPU if
    keys or values are mapped from a file.
    """
    if call.q.device != call.k.device:
        return call.q.device
    if call.q.device.type != "cpu":
        return None
    default = torch.get_default_device()
    if default.type == "cuda":
        return torch.device("cuda", torch.cuda.current_device() if default.index is None else default.index)
    if torch.cuda.is_available() and all(t.is_pinned() for t in (call.q, call.k, call.v)):
        return torch.device("cuda", torch.cuda.current_device())
    mapped = any(t.untyped_storage().filename is not None for t in (call.k, call.v))
    return call.q.device if mapped else None


class Streamed(Engine):
    """An engine whose tiles come from the host through two slots of buffers, copied on a stream of their own."""

    def __init__(self, call: Call, tiling: Tiling, device: torch.device | None = None) -> None:
        super().__init__(call, tiling, compute_device(call) if device is None else device)
        self._slots: dict[str, Tensor] = {}
        self._free: dict[int, Any] = {}

    @cached_property
    def _copies(self) -> torch.cuda.Stream | None:
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def is_direct(self, tensor: Tensor) -> bool:
        return True  # of the buffers of the engine itself none is needed

    def fetch(self, name: str, tensor: Tensor, group: Group, tile: Tile) -> Tensor:
        return self.converted(self._upload(name, tensor, group, tile))

    def converted(self, tile: Tensor) -> Tensor:
        """A tile as the arithmetic takes it."""
        return tile

    def feed(
        self, tensors: Mapping[str, Tensor], group: Group, side: Side, outer: Tile
    ) -> Iterator[tuple[Tile, Sequence[Tensor]]]:
        tiles = list(self.geometry.inner(side, outer))
        ahead = self._send(0, tensors, group, tiles[0]) if tiles else None
        for number, tile in enumerate(tiles):
            assert ahead is not None
            parts, ready = ahead
            if ready is not None:
                torch.cuda.current_stream(self.device).wait_event(ready)
            yield tile, [self.converted(part) for part in parts]
            if self._copies is not None:
                self._free[number % 2] = torch.cuda.current_stream(self.device).record_event()
            # sent once the arithmetic of this tile is under way: even a copy that blocks the host overlaps with it
            ahead = self._send(number + 1, tensors, group, tiles[number + 1]) if number + 1 < len(tiles) else None

    def _send(self, number: int, tensors: Mapping[str, Tensor], group: Group, tile: Tile) -> tuple[list[Tensor], Any]:
        """The parts of a tile, being copied, and the event after the copy (None on the CPU)."""
        names = {f"{name}{number % 2}": tensor for name, tensor in tensors.items()}
        if self._copies is None:
            return [self._upload(name, tensor, group, tile) for name, tensor in names.items()], None
        for name, tensor in names.items():
            self._slot(name, tensor)
        if number % 2 in self._free:
            self._copies.wait_event(self._free[number % 2])
        else:
            self._copies.wait_stream(torch.cuda.current_stream(self.device))  # new buffers may be memory still in use
        with torch.cuda.stream(self._copies):
            parts = [self._upload(name, tensor, group, tile) for name, tensor in names.items()]
            return parts, self._copies.record_event()

    def _slot(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._slots:
            side = 1 if name.rstrip("01") in ("k", "v") else 0
            rows = max(self.geometry.rows("queries")[side], self.geometry.rows("keys")[side])
            size = self.tiling.batches * self.tiling.heads * rows * tensor.shape[3]
            self._slots[name] = torch.empty(size, dtype=tensor.dtype, device=self.device)
            if self._copies is not None:
                self._slots[name].record_stream(self._copies)  # not reused under a copy, even if an error ends the call
        return self._slots[name]

    def _upload(self, name: str, tensor: Tensor, group: Group, tile: Tile) -> Tensor:
        rows = tile.stop - tile.start if isinstance(tile, slice) else len(tile)
        shape = (group.size, rows, tensor.shape[3])
        buffer = self._slot(name, tensor)[: math.prod(shape)].view(shape)
        part = tensor[group.batches, group.heads]
        for number in range(group.size):  # head by head: each is one run of memory, which a copy engine takes as it is
            source = part[number // group.shape[1], number % group.shape[1]]
            if isinstance(tile, slice):
                buffer[number].copy_(source[tile], non_blocking=True)
            else:
                buffer[number].copy_(source.index_select(0, tile.tokens(source.device)))
        return buffer

    def new_output(self, shape: Sequence[int]) -> Tensor:
        device = self.call.q.device
        return torch.empty(shape, dtype=self.call.q.dtype, device=device, pin_memory=device != self.device)

    def settle(self) -> None:
        if self._copies is not None:
            torch.cuda.current_stream(self.device).synchronize()

    def _store(self, out: Tensor, group: Group, tile: Tile, rows: Tensor) -> None:
        if not isinstance(tile, slice) or out.device == self.device:
            super()._store(out, group, tile, rows)
            return
        rows, part = rows.to(out.dtype), out[group.batches, group.heads]
        for number in range(group.size):
            target = part[number // group.shape[1], number % group.shape[1]]
            target[tile].copy_(rows[number], non_blocking=True)


class StreamedForward(Streamed):
    """Pairs of tiles go to a fused kernel that returns its log-sum-exp, if the tiling says so; else as in `Engine`."""

    def forward_sizes(self) -> dict[str, int]:
        sizes = super().forward_sizes()
        if self.tiling.is_fused:
            del sizes["scores"]
        return sizes

    def merge(
        self,
        group: Group,
        queries: Tile,
        keys: Tile,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        total: Tensor,
        peak: Tensor,
        acc: Tensor,
    ) -> None:
        call = self.call
        if not self.tiling.is_fused:
            dtype = call.sum_dtype
            super().merge(group, queries, keys, q.to(dtype), k.to(dtype), v.to(dtype), total, peak, acc)
            return
        # square tiles: they lie below the diagonal or right on it
        diagonal = call.is_causal and queries == keys
        made = with_lse(q[None], k[None], v[None], causal=diagonal, scale=call.scale)
        if made is None:
            raise RuntimeError(
                f"Expected a fused kernel for tiles {tuple(q.shape)} and {tuple(k.shape)}, but got none."
            )
        out, lse = made[0][0], made[1][0].to(call.sum_dtype)
        top = torch.maximum(lse, peak, out=self.work("top", *peak.shape))
        base = top.masked_fill(top == -torch.inf, 0)
        fade = peak.sub_(base).exp_()
        weight = lse.sub_(base).exp_()
        total.mul_(fade).add_(weight)
        acc.mul_(fade).addcmul_(out, weight)
        peak.copy_(top)


class StreamedBackward(Streamed, Backward):
    """Gradients with tiles from the host; those of host inputs are summed on the host."""

    def converted(self, tile: Tensor) -> Tensor:
        return tile.to(self.call.sum_dtype)

    def run(self, grad: Tensor, out: Tensor, lse: Tensor, wanted: set[str]) -> Gradients:
        with full_precision(self.device):
            return super().run(grad, out, lse, wanted)


class StreamPath(TiledPath):
    """Keys and values, or all tensors, in host memory, pinned or mapped from a file."""

    name = "stream"
    why = "inputs lie in host memory: tiles are copied to the device while others are computed"

    def supports(self, call: Call) -> str | None:
        if compute_device(call) is None:
            return "no input is on another device, pinned or mapped from a file"
        return self.too_large(call)

    def tiling(self, call: Call) -> Tiling:
        batch, heads, queries, keys = call.scores
        device = _device(call)
        if can_fuse(call, device):
            budget = call.budget_bytes
            if budget is None:
                budget = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2**28
            most = (KEYS, KEYS) if call.is_causal else (QUERIES, KEYS)  # squares, for the diagonal
            shape = Dense(queries, keys, call.is_causal, min(queries, most[0]), min(keys, most[1]))
            tiling: Tiling | None = Tiling(shape, batch, heads, is_fused=True)
            while tiling is not None and self.bytes_of(call, tiling) > budget:
                tiling = _smaller(tiling)
            if tiling is not None:
                return tiling
        return tiling_for(call, device, self.bytes_of)

    def bytes_of(self, call: Call, tiling: Tiling) -> int:
        device = _device(call)
        item, sums, group = call.q.dtype.itemsize, call.sum_dtype.itemsize, tiling.batches * tiling.heads
        queries, keys = tiling.geometry.rows("queries")
        width = max(call.q.shape[3], call.v.shape[3])
        engine = StreamedForward(call, tiling, device)
        total = group * (queries + 4 * keys) * width * item  # slots
        total += sum(engine.forward_sizes().values()) * sums + engine.passing_bytes("queries")
        total += 8 * group * queries * sums
        if tiling.is_fused:  # a kernel's output, as it is and as it is added
            total += kernel_bytes(call, group, queries, keys, device) + group * queries * width * (item + sums)
        else:  # tiles in the dtype of sums
            total += group * (queries + 2 * keys) * width * sums + group * queries * width * item
        if not call.needs_grad:
            return total
        rows = max(max(tiling.geometry.rows(side)) for side in ("queries", "keys"))
        again = 8 * group * rows * width * (item + sums)
        return max(total, again + Backward(call, tiling, device).workspace_bytes())

    def run(self, call: Call) -> Tensor:
        return differentiable(call, self.tiling(call), StreamedForward, StreamedBackward)


def _device(call: Call) -> torch.device:
    device = compute_device(call)
    if device is None:
        raise ValueError("Expected inputs that are to be streamed, but got all of them on one device.")
    return device


def can_fuse(call: Call, device: torch.device) -> bool:
    """True where a fused kernel can take every pair of tiles, so that no buffer for scores is needed."""
    if call.mask is not None or call.neighbourhood is not None or call.needs_grad:
        return False
    if 0 in (*call.scores, *call.out_shape):
        return False
    if call.scale <= 0 or (call.is_causal and call.scores[2] != call.scores[3]):
        return False
    q, v = (torch.zeros(1, 1, FEWEST, t.shape[3], dtype=t.dtype, device=device) for t in (call.q, call.v))
    return with_lse(q, q, v, causal=call.is_causal, scale=call.scale) is not None


def _smaller(tiling: Tiling) -> Tiling | None:
    """Fewer keys first, as they are only passing through; then heads, then queries."""
    shape = tiling.geometry
    assert isinstance(shape, Dense)
    if not shape.causal and shape.tile_keys > 4 * FEWEST:
        return replace(tiling, geometry=replace(shape, tile_keys=(shape.tile_keys + 1) // 2))
    if tiling.batches > 1:
        return replace(tiling, batches=(tiling.batches + 1) // 2)
    if tiling.heads > 1:
        return replace(tiling, heads=(tiling.heads + 1) // 2)
    if max(shape.tile_queries, shape.tile_keys) <= FEWEST:
        return None
    queries, keys = (shape.tile_queries + 1) // 2, (shape.tile_keys + 1) // 2
    return replace(tiling, geometry=replace(shape, tile_queries=queries, tile_keys=queries if shape.causal else keys))
