"""How a kernel is cut into tiles. Standard library only: the picker and its tests need no Triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD_SIZES = (40, 64, 80, 128, 160, 512)

Variant = Literal["pointer", "descriptor"]

# shared memory that one block may have, in bytes (CUDA programming guide, compute capabilities; 64 KiB of LDS on AMD)
SHARED_LIMIT = {
    "sm_75": 65536, "sm_80": 166912, "sm_86": 101376, "sm_89": 101376, "sm_90": 232448, "sm_100": 232448,
    "sm_120": 101376, "gfx942": 65536, "gfx1100": 65536,
}  # fmt: skip


def head_parts(d: int) -> tuple[int, int]:
    """A head size as (largest power of two in it, the rest rounded up to a power of two of at least 16, or 0).

    >>> head_parts(40), head_parts(80), head_parts(160), head_parts(512)
    ((32, 16), (64, 16), (128, 32), (512, 0))
    """
    main = 1 << (d.bit_length() - 1)
    rest = d - main
    return main, (max(16, 1 << (rest - 1).bit_length()) if rest else 0)


def power_of_two(n: int) -> int:
    """The power of two at or above n that a matrix unit takes: at least 16.

    >>> power_of_two(5), power_of_two(64), power_of_two(80)
    (16, 64, 128)
    """
    return max(16, 1 << (n - 1).bit_length())


@dataclass(frozen=True, order=True)
class Config:
    """One way to run a kernel. `chunk` is how much of D one product takes (the queries stay on chip where it is the
    whole power-of-two part), `slice` how many columns of the output a program owns, `splits` how many programs share a
    query's keys. `descriptor` reads through tensor descriptors, the bulk copies of sm_90."""

    block_m: int
    block_n: int
    chunk: int
    slice: int
    warps: int
    stages: int
    splits: int = 1
    single_loop: bool = True
    variant: Variant = "pointer"

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n", "chunk", "slice", "warps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"Expected {name} to be a power of two, but got {value}.")
        if self.stages < 1 or self.splits < 1:
            raise ValueError(f"Expected stages and splits to be at least 1, but got {self.stages} and {self.splits}.")


@dataclass(frozen=True)
class BackwardConfig:
    """Tiles of the backward: of the kernel that owns keys, and of the one that owns queries. Unless `together`, the
    gradients of keys and of values are two launches, which need fewer registers and one product more."""

    keys: Config
    queries: Config
    together: bool = True


@dataclass(frozen=True)
class LinearConfig:
    """Tiles of linear attention: rows of a block, columns of a program's state and output."""

    block: int
    width_e: int
    warps: int
    stages: int
