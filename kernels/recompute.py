"""Gradients of tiled attention: every tile of scores is computed again from the saved log-sum-exp.

Dao et al., "FlashAttention" (arXiv 2205.14135), algorithm 4, over any geometry and in either order of loops.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .call import Call
from .engine import Engine, Group, Tiling, Workspace, full_precision
from .geometry import Dense, Side, Tile

Gradients = dict[str, Tensor]


class Backward(Engine):
    """Gradients of q, k, v and an additive mask.

    Sums that stay open (of keys and values while looping over queries) go straight into gradients of the dtype of sums.
    For half inputs there are none: a second loop, over keys, closes them tile by tile.
    """

    def __init__(self, call: Call, tiling: Tiling, device: torch.device | None = None) -> None:
        super().__init__(call, tiling, device)
        self.is_half = call.q.dtype != call.sum_dtype

    def run(self, grad: Tensor, out: Tensor, lse: Tensor, wanted: set[str]) -> Gradients:
        """Gradients by name ("q", "k", "v", "mask") from that of the output."""
        call = self.call
        with full_precision(self.device):
            self.rows = {"grad": grad, "lse": lse[..., None], "delta": self._delta(grad, out)}
            like: dict[str, Tensor] = {"q": call.q, "k": call.k, "v": call.v}
            made = {n: torch.zeros(t.shape, dtype=t.dtype, device=t.device) for n, t in like.items() if n in wanted}
            if "mask" in wanted and call.mask is not None:
                made["mask"] = torch.zeros(call.mask.shape, dtype=call.sum_dtype, device=call.mask.device)
            for side, names in passes(self.is_half, wanted):
                self._loop(side, {name: made[name] for name in names})
        self.settle()
        if "mask" in made and call.mask is not None:
            made["mask"] = made["mask"].to(call.mask.dtype)
        return made

    def _delta(self, grad: Tensor, out: Tensor) -> Tensor:
        """Rows of sum(grad * out): what the softmax takes from every row of its gradient."""
        delta = torch.empty((*out.shape[:3], 1), dtype=self.call.sum_dtype, device=out.device)
        group = self.tiling.batches * self.tiling.heads
        size = group * self.geometry.rows("queries")[0] * out.shape[3]
        self.work = Workspace({"grad": size, "out": size}, self.call.sum_dtype, self.device)
        for some in self.tiling.groups(self.call):
            for tile in self.geometry.outer("queries"):
                product = self.fetch("grad", grad, some, tile).mul_(self.fetch("out", out, some, tile))
                self._store(delta, some, tile, product.sum(-1, keepdim=True))
        return delta

    def _loop(self, side: Side, grads: Gradients) -> None:
        call = self.call
        self.work = Workspace({}, call.sum_dtype, self.device)  # let go of the one before
        self.work = Workspace(self.backward_sizes(side, set(grads)), call.sum_dtype, self.device)
        queries = {"q": call.q, **self.rows}
        keys = {"k": call.k, "v": call.v}
        outer, inner = (queries, keys) if side == "queries" else (keys, queries)
        closing = [n for n in grads if n in outer]
        for group in self.tiling.groups(call):
            for tile in self.geometry.outer(side):
                parts = {name: self.fetch(name, tensor, group, tile) for name, tensor in outer.items()}
                sums = {n: self.work("d" + n, *parts[n].shape).zero_() for n in closing}
                for other, tensors in self.feed(inner, group, side, tile):
                    parts |= dict(zip(inner, tensors, strict=True))
                    pair = (tile, other) if side == "queries" else (other, tile)
                    self._add_pair(group, pair, parts, sums, grads)
                for name in closing:
                    self._store(grads[name], group, tile, sums[name])

    def _add_pair(
        self, group: Group, pair: tuple[Tile, Tile], parts: dict[str, Tensor], sums: Gradients, grads: Gradients
    ) -> None:
        q, k, v, grad = parts["q"], parts["k"], parts["v"], parts["grad"]
        weights = self.scores(group, *pair, q, k).sub_(parts["lse"]).exp_()
        self._accumulate("v", group, pair[1], weights.transpose(1, 2), grad, 1.0, sums, grads)
        change = self.work("change", *weights.shape)
        torch.baddbmm(change, grad, v.transpose(1, 2), beta=0, out=change)
        change.sub_(parts["delta"]).mul_(weights)
        if "mask" in grads:
            self._add_to_mask(grads["mask"], group, pair, change)
        self._accumulate("q", group, pair[0], change, k, self.call.scale, sums, grads)
        self._accumulate("k", group, pair[1], change.transpose(1, 2), q, self.call.scale, sums, grads)

    def _accumulate(
        self,
        name: str,
        group: Group,
        tile: Tile,
        left: Tensor,
        right: Tensor,
        scale: float,
        sums: Gradients,
        grads: Gradients,
    ) -> None:
        if name in sums:
            sums[name].baddbmm_(left, right, alpha=scale)
        elif name in grads:
            part = self.work("d" + name, left.shape[0], left.shape[1], right.shape[2])
            torch.baddbmm(part, left, right, beta=0, alpha=scale, out=part)
            whole = grads[name][group.batches, group.heads]
            part = part.view(*group.shape, *part.shape[1:]).to(whole.device)
            if isinstance(tile, slice):
                whole[:, :, tile].add_(part)
            else:
                whole.index_add_(2, tile.tokens(whole.device), part)

    def _add_to_mask(self, grad: Tensor, group: Group, pair: tuple[Tile, Tile], change: Tensor) -> None:
        change = change.view(*group.shape, *change.shape[1:])
        summed = [dim for dim in range(4) if grad.shape[dim] == 1 and change.shape[dim] > 1]
        if summed:
            change = change.sum(summed, keepdim=True)
        change = change.to(grad.device)
        part = grad[group.batches if grad.shape[0] > 1 else slice(1), group.heads if grad.shape[1] > 1 else slice(1)]
        numbers: list[Tensor] = []
        for dim, tile in ((2, pair[0]), (3, pair[1])):
            if grad.shape[dim] == 1:
                numbers.append(torch.zeros(1, dtype=torch.int64, device=grad.device))
            elif isinstance(tile, slice):
                part = part.narrow(dim, tile.start, tile.stop - tile.start)
            else:
                numbers.append(tile.tokens(grad.device))
        if isinstance(pair[0], slice):
            part.add_(change)
        else:
            part[:, :, numbers[0][:, None], numbers[1]] += change

    def backward_sizes(self, side: Side, wanted: set[str]) -> dict[str, int]:
        """Elements of each buffer of one loop, in the dtype of sums."""
        call, group = self.call, self.tiling.batches * self.tiling.heads
        queries, keys = self.geometry.rows(side)
        copied, tiles = {"q": call.q, "k": call.k, "v": call.v}, self.tile_sizes(side)
        sizes = dict.fromkeys(("scores", "change"), group * queries * keys)
        sizes |= {n: e for n, e in tiles.items() if not self.is_direct(copied[n])}
        sizes |= {"d" + n: e for n, e in tiles.items() if n in wanted}
        sizes |= dict.fromkeys(("lse", "delta"), group * queries)
        return sizes | {"grad": group * queries * call.v.shape[3]}

    def workspace_bytes(self) -> int:
        """Bytes beyond inputs, output and gradients, at most."""
        call, item = self.call, self.call.sum_dtype.itemsize
        wanted = {n for n, t in (("q", call.q), ("k", call.k), ("v", call.v)) if t.requires_grad}
        learned = call.mask is not None and call.mask.requires_grad
        kept = 2 * math.prod(call.scores[:3]) * item
        if learned and call.mask is not None and call.mask.dtype != call.sum_dtype:
            kept += call.mask.numel() * item
        group = self.tiling.batches * self.tiling.heads
        most = 3 * item * group * self.geometry.rows("queries")[0] * call.v.shape[3]
        for side, names in passes(self.is_half, wanted | ({"mask"} if learned else set())):
            parts = 0 if isinstance(self.geometry, Dense) else 2 * item * group * max(self.geometry.rows(side))
            sizes = self.backward_sizes(side, set(names))
            most = max(most, sum(sizes.values()) * item + self.passing_bytes(side) + parts)
        return kept + most


def passes(is_half: bool, wanted: set[str]) -> list[tuple[Side, list[str]]]:
    """Loops in order, each with the gradients that it makes."""
    if not is_half:
        return [("queries", sorted(wanted))]
    first, second = sorted(wanted & {"q", "mask"}), sorted(wanted & {"k", "v"})
    loops: list[tuple[Side, list[str]]] = [("queries", first), ("keys", second)]
    return [(side, names) for side, names in loops if names]
