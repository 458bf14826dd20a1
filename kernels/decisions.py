"""Which path took a call, for the next that looks the same: deciding anew costs more than a small kernel on a GPU."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor
from torch.nn import Parameter

from .call import Call
from .paths import Path

MOST = 1024
"""Looks that are kept; a model has a few dozen."""
DEVICES = {"cuda"}
"""Where decisions are kept: on the CPU, a path asks where a tensor's memory comes from, which no look tells."""
_kept: dict[Hashable, tuple[Path, float]] = {}


def look(
    q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float | None, budget_bytes: int | None
) -> Hashable | None:
    """All that a path is chosen by, in a call without mask and window; None where that is not known to be all."""
    for tensor in (q, k, v):
        if type(tensor) not in (Tensor, Parameter) or tensor.layout != torch.strided:
            return None
        if tensor.device.type not in DEVICES:
            return None
    numbers = (is_causal is True or is_causal is False) and (scale is None or type(scale) is float)
    if not numbers or not (budget_bytes is None or type(budget_bytes) is int):
        return None
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(q.device.type):
        return None
    kinds = torch.backends.cuda
    return (
        q.dtype, k.dtype, v.dtype, q.device, k.device, v.device, q.shape, k.shape, v.shape,
        q.stride(), k.stride(), v.stride(), q.data_ptr() % 16, k.data_ptr() % 16, v.data_ptr() % 16,
        torch.is_grad_enabled() and (q.requires_grad, k.requires_grad, v.requires_grad), is_causal, scale, budget_bytes,
        kinds.flash_sdp_enabled(), kinds.mem_efficient_sdp_enabled(), kinds.cudnn_sdp_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip


def recall(seen: Hashable) -> tuple[Path, float] | None:
    """The path and the scale of a checked call that looked like this."""
    return _kept.get(seen)


def keep(seen: Hashable, path: Path, call: Call) -> None:
    """Remember who took a call."""
    if len(_kept) >= MOST:
        _kept.clear()
    _kept[seen] = path, call.scale


def forget() -> None:
    """Decide anew from now on."""
    _kept.clear()
