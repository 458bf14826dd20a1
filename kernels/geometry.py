"""How the queries and keys of one head are cut into tiles, and which pairs of tiles meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from .neighbourhood import Neighbourhood, Patch

Side = Literal["queries", "keys"]
Tile = slice | Patch


class Geometry(Protocol):
    """Tiles of one side (`outer`), each with those of the other side that it meets (`inner`).

    Every visible pair of a query and a key lies in exactly one pair of tiles, from whichever side one starts.
    """

    def rows(self, side: Side) -> tuple[int, int]:
        """(queries, keys) of the largest pair of tiles when `side` is the outer one."""
        ...

    def outer(self, side: Side) -> Iterator[Tile]: ...

    def inner(self, side: Side, outer: Tile) -> Iterator[Tile]: ...

    def hidden(self, queries: Tile, keys: Tile, device: torch.device) -> Tensor | None:
        """(queries, keys) bool, True where the pair is not visible; None where all are."""
        ...

    def pairs(self) -> int:
        """(query, key) pairs in all pairs of tiles: what is computed, hidden ones included."""
        ...


@dataclass(frozen=True)
class Dense:
    """Runs of `tile_queries` queries and `tile_keys` keys; if `causal`, query i sees keys 0 to i."""

    queries: int
    keys: int
    causal: bool
    tile_queries: int
    tile_keys: int

    def rows(self, side: Side) -> tuple[int, int]:
        return self.tile_queries, self.tile_keys

    def outer(self, side: Side) -> Iterator[slice]:
        total, step = (self.queries, self.tile_queries) if side == "queries" else (self.keys, self.tile_keys)
        yield from _runs(0, total, step)

    def inner(self, side: Side, outer: Tile) -> Iterator[slice]:
        assert isinstance(outer, slice)
        if side == "queries":
            yield from _runs(0, min(self.keys, outer.stop) if self.causal else self.keys, self.tile_keys)
        else:
            # from a multiple of the tile, so that both sides meet in the same pairs
            first = outer.start // self.tile_queries * self.tile_queries if self.causal else 0
            yield from _runs(first, self.queries, self.tile_queries)

    def hidden(self, queries: Tile, keys: Tile, device: torch.device) -> Tensor | None:
        assert isinstance(queries, slice) and isinstance(keys, slice)
        if not self.causal or keys.stop <= queries.start + 1:
            return None
        rows = torch.arange(queries.start, queries.stop, device=device)
        return rows[:, None] < torch.arange(keys.start, keys.stop, device=device)

    def pairs(self) -> int:
        if not self.causal:
            return self.queries * self.keys
        return sum((t.stop - t.start) * min(self.keys, t.stop) for t in self.outer("queries"))


@dataclass(frozen=True)
class Grid:
    """Blocks of (rows, columns) on one side, and their surroundings in chunks of (rows, columns) on the other.

    A neighbourhood is symmetric, so both sides are cut alike.
    """

    near: Neighbourhood
    causal: bool
    block: tuple[int, int]
    chunk: tuple[int, int]

    def rows(self, side: Side) -> tuple[int, int]:
        block, chunk = self.block[0] * self.block[1], self.chunk[0] * self.chunk[1]
        return (block, chunk) if side == "queries" else (chunk, block)

    def outer(self, side: Side) -> Iterator[Patch]:
        for rows in torch.arange(self.near.height, device="cpu").split(self.block[0]):
            for columns in torch.arange(self.near.width, device="cpu").split(self.block[1]):
                yield Patch(rows, columns, self.near.width)

    def inner(self, side: Side, outer: Tile) -> Iterator[Patch]:
        assert isinstance(outer, Patch)
        rows, columns = self._surroundings(outer)
        for some_rows in rows.split(self.chunk[0]):
            for some_columns in columns.split(self.chunk[1]):
                yield Patch(some_rows, some_columns, self.near.width)

    def hidden(self, queries: Tile, keys: Tile, device: torch.device) -> Tensor | None:
        assert isinstance(queries, Patch) and isinstance(keys, Patch)
        return self.near.hidden(queries, keys, self.causal, device)

    def pairs(self) -> int:
        return sum(len(o) * len(r) * len(c) for o in self.outer("queries") for r, c in [self._surroundings(o)])

    def _surroundings(self, patch: Patch) -> tuple[Tensor, Tensor]:
        rows, columns = patch.rows, patch.columns
        return (
            self.near.rows_near(int(rows[0]), int(rows[-1])),
            self.near.columns_near(int(columns[0]), int(columns[-1])),
        )


def _runs(first: int, last: int, step: int) -> Iterator[slice]:
    for start in range(first, last, step):
        yield slice(start, min(start + step, last))
