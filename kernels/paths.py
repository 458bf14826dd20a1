"""The ways to compute attention, in order of preference."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from torch import Tensor

from .call import Call

ORDER = (
    "kernels.stream:StreamPath",
    "kernels.tiled:WindowPath",
    "kernels.fused:HopperPath",
    "kernels.fused:TritonPath",
    "kernels.fused:TuringPath",
    "kernels.sdpa:SdpaPath",
    "kernels.tiled:TiledPath",
)
"""Where each path lives, imported on first use; the first that supports a call takes it."""


class Path(Protocol):
    """One way to compute attention; a class that is made without arguments and holds no state.

    `supports` answers why it can't take a call, budget included, or None if it can. The other methods are only asked
    about calls that it takes. `workspace` is in bytes beyond inputs, output and gradients, backward included where
    gradients are needed; `flops` counts multiplications and additions of the forward pass; `tiles` is (heads, queries,
    keys) of one step, or None where a library decides. `run` gives gradients.
    """

    name: str
    why: str

    def supports(self, call: Call) -> str | None: ...

    def workspace(self, call: Call) -> int: ...

    def flops(self, call: Call) -> int: ...

    def tiles(self, call: Call) -> tuple[int, int, int] | None: ...

    def run(self, call: Call) -> Tensor: ...


_made: list[Path] = []  # not functools.cache, which torch.compile warns about


def paths() -> list[Path]:
    """One of each, in order of preference."""
    if not _made:
        homes = [home.partition(":") for home in ORDER]
        _made[:] = [getattr(import_module(module), name)() for module, _, name in homes]
    return _made
