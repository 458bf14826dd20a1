"""Exact attention tile by tile: scores of one pair of tiles at a time, merged by an online log-sum-exp.

Rabe and Staats, "Self-attention Does Not Need O(n²) Memory" (arXiv 2112.05682); the merge is the one of Milakov and
Gimelshein, "Online normalizer calculation for softmax" (arXiv 1805.02867).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .call import Call
from .geometry import Dense, Geometry, Side, Tile


@dataclass(frozen=True)
class Group:
    """The batches and heads that are computed together."""

    batches: slice
    heads: slice

    @property
    def shape(self) -> tuple[int, int]:
        return self.batches.stop - self.batches.start, self.heads.stop - self.heads.start

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Tiling:
    """Tiles of one head, and how many batches and heads go together: several batches only with all heads.

    `is_fused` says that a fused kernel takes every pair of tiles, for an engine that knows one.
    """

    geometry: Geometry
    batches: int
    heads: int
    is_fused: bool = False

    def groups(self, call: Call) -> Iterator[Group]:
        batch, heads = call.scores[:2]
        for b in range(0, batch, self.batches):
            for h in range(0, heads, self.heads):
                yield Group(slice(b, min(b + self.batches, batch)), slice(h, min(h + self.heads, heads)))


class Workspace:
    """Buffers by name, each allocated once at its largest size."""

    def __init__(self, sizes: Mapping[str, int], dtype: torch.dtype, device: torch.device) -> None:
        self._flat = {name: torch.empty(size, dtype=dtype, device=device) for name, size in sizes.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._flat

    def __call__(self, name: str, *shape: int) -> Tensor:
        return self._flat[name][: math.prod(shape)].view(shape)


class Engine:
    """One call in one tiling.

    `device` is where the arithmetic happens: that of q unless said otherwise.
    """

    def __init__(self, call: Call, tiling: Tiling, device: torch.device | None = None) -> None:
        self.call, self.tiling, self.geometry = call, tiling, tiling.geometry
        self.device = call.q.device if device is None else device

    def forward(self, *, keep_lse: bool) -> tuple[Tensor, Tensor | None]:
        """The output (B, H, Nq, Dv) and, if kept, each row's log-sum-exp (B, H, Nq): +inf for a row without keys."""
        call = self.call
        out = self.new_output(call.out_shape)
        lse = torch.empty(call.scores[:3], dtype=call.sum_dtype, device=out.device) if keep_lse else None
        self.work = Workspace(self.forward_sizes(), call.sum_dtype, self.device)
        with full_precision(self.device):
            for group in self.tiling.groups(call):
                for queries in self.geometry.outer("queries"):
                    q = self.fetch("q", call.q, group, queries)
                    total, peak, acc = self._fresh(group.size, q.shape[1])
                    for keys, (k, v) in self.feed({"k": call.k, "v": call.v}, group, "queries", queries):
                        self.merge(group, queries, keys, q, k, v, total, peak, acc)
                    empty = total == 0
                    acc.div_(total.masked_fill(empty, 1))
                    self._store(out, group, queries, acc)
                    if lse is not None:
                        peak.add_(total.log_()).masked_fill_(empty, torch.inf)
                        self._store(lse[..., None], group, queries, peak)
        self.settle()
        return out, lse

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
        """Add one tile of keys to the sums of weights `total`, taken at `peak`, and of weighted values `acc`."""
        scores = self.scores(group, queries, keys, q, k)
        top = torch.amax(scores, -1, keepdim=True, out=self.work("top", *peak.shape))
        torch.maximum(top, peak, out=top)
        base = top.masked_fill(top == -torch.inf, 0)  # where no key was seen yet, -inf - -inf would be NaN
        scores.sub_(base).exp_()
        fade = peak.sub_(base).exp_()
        total.mul_(fade).add_(scores.sum(-1, keepdim=True))
        acc.mul_(fade).baddbmm_(scores, v)
        peak.copy_(top)

    def scores(self, group: Group, queries: Tile, keys: Tile, q: Tensor, k: Tensor) -> Tensor:
        """(group, queries, keys): scaled products plus mask, -inf where a pair is hidden."""
        shape = (*group.shape, q.shape[1], k.shape[1])
        scores = self.work("scores", group.size, *shape[2:])
        torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=self.call.scale, out=scores)
        if self.call.mask is not None:
            mask = self.mask_part(self.call.mask, group, queries, keys).to(self.device)
            if mask.dtype == torch.bool:
                scores.view(shape).masked_fill_(mask.logical_not(), -torch.inf)
            else:
                scores.view(shape).add_(mask)
        hidden = self.geometry.hidden(queries, keys, self.device)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        return scores

    def fetch(self, name: str, tensor: Tensor, group: Group, tile: Tile) -> Tensor:
        """(group, rows, D) on the device in the dtype of sums: a view where that is possible, else in buffer `name`."""
        part = tensor[group.batches, group.heads]
        rows = tile.stop - tile.start if isinstance(tile, slice) else len(tile)
        shape = (group.size, rows, tensor.shape[3])
        if isinstance(tile, slice):
            part = part[:, :, tile]
            if name not in self.work:
                return part.view(shape)
        buffer = self.work(name, *group.shape, *shape[1:])
        if isinstance(tile, slice):
            buffer.copy_(part)
        elif part.dtype == buffer.dtype and part.device == buffer.device:
            torch.index_select(part, 2, tile.tokens(part.device), out=buffer)
        else:
            buffer.copy_(part.index_select(2, tile.tokens(part.device)))
        return buffer.view(shape)

    def feed(
        self, tensors: Mapping[str, Tensor], group: Group, side: Side, outer: Tile
    ) -> Iterator[tuple[Tile, Sequence[Tensor]]]:
        """The inner tiles that meet `outer`, each with its part of every tensor."""
        for tile in self.geometry.inner(side, outer):
            yield tile, [self.fetch(name, tensor, group, tile) for name, tensor in tensors.items()]

    def new_output(self, shape: Sequence[int]) -> Tensor:
        """Where the result goes."""
        return torch.empty(shape, dtype=self.call.q.dtype, device=self.call.q.device)

    def settle(self) -> None:
        """Wait for what the caller can't wait for by itself."""

    def is_direct(self, tensor: Tensor) -> bool:
        """True where tiles of a tensor can be views."""
        rows, heads = tensor.shape[2], tensor.shape[1]
        return (
            isinstance(self.geometry, Dense)
            and tensor.device == self.device
            and tensor.dtype == self.call.sum_dtype
            and tensor.stride(3) == 1
            and (tensor.stride(2) >= tensor.shape[3] or rows == 1)
            and (self.tiling.batches == 1 or tensor.stride(0) == heads * tensor.stride(1))
        )

    def tile_sizes(self, side: Side) -> dict[str, int]:
        """Elements of the largest tile of q, k and v when `side` is the outer one."""
        queries, keys = self.geometry.rows(side)
        group, size, wide = self.tiling.batches * self.tiling.heads, self.call.q.shape[3], self.call.v.shape[3]
        return {"q": group * queries * size, "k": group * keys * size, "v": group * keys * wide}

    def forward_sizes(self) -> dict[str, int]:
        """Elements of each buffer, in the dtype of sums."""
        call = self.call
        group = self.tiling.batches * self.tiling.heads
        queries, keys = self.geometry.rows("queries")
        sizes = {"scores": group * queries * keys, "acc": group * queries * call.v.shape[3]}
        sizes |= dict.fromkeys(("total", "peak", "top"), group * queries)
        copied = {"q": call.q, "k": call.k, "v": call.v}
        return sizes | {n: e for n, e in self.tile_sizes("queries").items() if not self.is_direct(copied[n])}

    def passing_bytes(self, side: Side) -> int:
        """At most so many bytes come and go beside the buffers: masks, indices, copies in another dtype."""
        call, item, group = self.call, self.call.sum_dtype.itemsize, self.tiling.batches * self.tiling.heads
        queries, keys = self.geometry.rows(side)
        rows = 4 * item * group * queries
        partial = call.is_causal or not isinstance(self.geometry, Dense)
        hidden = 2 * queries * keys + 24 * (queries + keys) if partial else 0
        mask = 0 if call.mask is None else 2 * item * group * queries * keys
        width = max(call.q.shape[3], call.v.shape[3])
        copies = 0 if isinstance(self.geometry, Dense) else call.q.dtype.itemsize * group * max(queries, keys) * width
        return 512 + rows + hidden + mask + copies

    def workspace_bytes(self) -> int:
        """Bytes beyond inputs and output, at most."""
        item = self.call.sum_dtype.itemsize
        lse = math.prod(self.call.scores[:3]) * item if self.call.needs_grad else 0
        return sum(self.forward_sizes().values()) * item + self.passing_bytes("queries") + lse

    def mask_part(self, mask: Tensor, group: Group, queries: Tile, keys: Tile) -> Tensor:
        """The part of a four-dimensional mask that a pair of tiles sees; dimensions of size 1 stay."""
        part = mask[group.batches if mask.shape[0] > 1 else slice(1), group.heads if mask.shape[1] > 1 else slice(1)]
        for dim, tile in ((2, queries), (3, keys)):
            if mask.shape[dim] > 1:
                part = (
                    part.narrow(dim, tile.start, tile.stop - tile.start)
                    if isinstance(tile, slice)
                    else part.index_select(dim, tile.tokens(mask.device))
                )
        return part

    def _fresh(self, group: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        total = self.work("total", group, queries, 1).zero_()
        peak = self.work("peak", group, queries, 1).fill_(-torch.inf)
        return total, peak, self.work("acc", group, queries, self.call.v.shape[3]).zero_()

    def _store(self, out: Tensor, group: Group, tile: Tile, rows: Tensor) -> None:
        """Write (group, rows, D) where it belongs."""
        part = out[group.batches, group.heads]
        rows = rows.view(*group.shape, *rows.shape[1:])
        if isinstance(tile, slice):
            part[:, :, tile].copy_(rows, non_blocking=True)
        else:
            part.index_copy_(2, tile.tokens(out.device), rows.to(out.device, out.dtype))


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast: it would round the sums."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
