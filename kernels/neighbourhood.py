"""Neighbourhoods on a grid of tokens whose axes may wrap around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

WRAPS = ("none", "x", "y", "xy")


class Window(NamedTuple):
    """Which keys a query sees: those at most `radius` = (rows, columns) away on a `grid` = (height, width)."""

    grid: tuple[int, int]
    radius: tuple[int, int]


@dataclass(frozen=True)
class Neighbourhood:
    """Query (y, x) sees key (y', x') where |y - y'| <= radius_y and |x - x'| <= radius_x.

    Token n lies at (n // width, n % width). On a wrapped axis of size s the distance is min(d, s - d).
    """

    height: int
    width: int
    radius_y: int
    radius_x: int
    wrap_y: bool
    wrap_x: bool

    @classmethod
    def from_arguments(
        cls,
        window: Window | tuple[tuple[int, int], tuple[int, int]] | None,
        wrap: str | None,
        queries: int,
        keys: int,
    ) -> Self | None:
        """None for no window, or for one that reaches everything."""
        if wrap is not None and wrap not in WRAPS:
            raise ValueError(f"Expected wrap to be None or one of {', '.join(WRAPS)}, but got {wrap!r}.")
        if window is None:
            if wrap not in (None, "none"):
                raise ValueError(f"Expected wrap together with a window, but got wrap={wrap!r} and window=None.")
            return None
        try:
            (height, width), (radius_y, radius_x) = window
        except (TypeError, ValueError):
            raise ValueError(
                f"Expected a window ((height, width), (radius_y, radius_x)), but got {window!r}."
            ) from None
        numbers = (height, width, radius_y, radius_x)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
            raise ValueError(f"Expected a window of four whole numbers of at least 0, but got {window!r}.")
        if not height * width == queries == keys:
            raise ValueError(
                f"Expected height x width of the window's grid to be the number of queries and of keys, "
                f"but got {height} x {width} = {height * width}, {queries} queries and {keys} keys."
            )
        made = cls(height, width, radius_y, radius_x, "y" in (wrap or ""), "x" in (wrap or ""))
        return None if made.sees_everything() else made

    def sees_everything(self) -> bool:
        """True where no pair of tokens is too far apart."""
        if self.height * self.width == 0:
            return True
        far_y = self.height // 2 if self.wrap_y else self.height - 1
        far_x = self.width // 2 if self.wrap_x else self.width - 1
        return self.radius_y >= far_y and self.radius_x >= far_x

    def pairs(self) -> int:
        """How many (query, key) pairs are near."""
        return _near_pairs(self.height, self.radius_y, self.wrap_y) * _near_pairs(
            self.width, self.radius_x, self.wrap_x
        )

    def rows_near(self, first: int, last: int) -> Tensor:
        """Rows, each once, that rows `first` to `last` (inclusive) reach."""
        return _reach(self.height, first, last, self.radius_y, self.wrap_y)

    def columns_near(self, first: int, last: int) -> Tensor:
        """Columns, each once, that columns `first` to `last` (inclusive) reach."""
        return _reach(self.width, first, last, self.radius_x, self.wrap_x)

    def hidden(self, queries: Patch, keys: Patch, causal: bool, device: torch.device) -> Tensor:
        """(queries, keys) bool: True where a key is too far away or, if `causal`, comes after the query."""
        near_y = _near(queries.rows, keys.rows, self.height, self.radius_y, self.wrap_y).to(device)
        near_x = _near(queries.columns, keys.columns, self.width, self.radius_x, self.wrap_x).to(device)
        hidden = (near_y[:, None, :, None] & near_x[None, :, None, :]).view(len(queries), len(keys)).logical_not_()
        if causal:
            hidden |= queries.tokens(device)[:, None] < keys.tokens(device)
        return hidden


class Patch:
    """Tokens on the crossings of some rows and columns (both on the CPU) of a grid."""

    def __init__(self, rows: Tensor, columns: Tensor, width: int) -> None:
        self.rows, self.columns = rows, columns
        self._tokens = (rows[:, None] * width + columns).flatten()

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, device: torch.device) -> Tensor:
        """Their numbers, int64."""
        if self._tokens.device != device:
            self._tokens = self._tokens.to(device)
        return self._tokens


def _near(a: Tensor, b: Tensor, size: int, radius: int, wrap: bool) -> Tensor:
    distance = (a[:, None] - b).abs()
    if wrap:
        distance = torch.minimum(distance, size - distance)
    return distance <= radius


def _near_pairs(size: int, radius: int, wrap: bool) -> int:
    if wrap:
        return size * min(size, 2 * radius + 1)
    radius = min(radius, max(size - 1, 0))
    return size * (2 * radius + 1) - radius * (radius + 1)


def _reach(size: int, first: int, last: int, radius: int, wrap: bool) -> Tensor:
    if not wrap:
        return torch.arange(max(0, first - radius), min(size, last + radius + 1), device="cpu")
    if last - first + 1 + 2 * radius >= size:
        return torch.arange(size, device="cpu")
    return torch.arange(first - radius, last + radius + 1, device="cpu") % size
