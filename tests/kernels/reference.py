"""What the tests of `kernels` compare with, and how they measure memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.call import Call, checked_call

DEFAULTS: dict[str, Any] = {
    "mask": None, "is_causal": False, "scale": None, "window": None, "wrap": None, "budget_bytes": None,
}  # fmt: skip


def call(q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Call:
    return checked_call(q, k, v, **(DEFAULTS | kwargs))


def near(grid: tuple[int, int], radius: tuple[int, int], wrap: str | None) -> Tensor:
    """(N, N) bool: which keys a query sees, pair by pair from the definition."""
    height, width = grid
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    seen = torch.ones(height * width, height * width, dtype=torch.bool)
    for place, size, reach, axis in ((rows, height, radius[0], "y"), (columns, width, radius[1], "x")):
        distance = (place.flatten()[:, None] - place.flatten()).abs()
        if axis in (wrap or ""):
            distance = torch.minimum(distance, size - distance)
        seen &= distance <= reach
    return seen


def exact(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    window: Any = None,
    wrap: str | None = None,
    **_: Any,
) -> Tensor:
    """Attention from its definition, all scores at once, in float64; rows without keys are zero."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[3]) if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -torch.inf)
    if window is not None:
        scores = scores.masked_fill(~near(window[0], window[1], wrap), -torch.inf)
    empty = scores.isneginf().all(-1, keepdim=True)
    return scores.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0) @ v


class Largest(TorchDispatchMode):
    """Records the most elements that any tensor made by an operator has in memory."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return made


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes that torch's allocator held at once, over what it held before; kernels' own buffers included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = function()
    events: Any = profile.profiler
    changes = [e for e in events.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda e: e.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    del kept
    return most
