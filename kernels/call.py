"""One request for attention, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .neighbourhood import Neighbourhood, Window

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Call:
    """Checked arguments of `attention`: what every path is given.

    q is (B, H, Nq, D), k (B, H, Nk, D), v (B, H, Nk, Dv), of one dtype. `mask` has four dimensions, each 1 or that of
    the scores (B, H, Nq, Nk), and is bool (True takes part) or added to the scores. `scale` is a number. A
    `neighbourhood` that hides nothing has become None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    is_causal: bool
    scale: float
    neighbourhood: Neighbourhood | None
    budget_bytes: int | None

    @property
    def scores(self) -> tuple[int, int, int, int]:
        """(B, H, Nq, Nk)."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """(B, H, Nq, Dv)."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.v.shape[3]

    @property
    def sum_dtype(self) -> torch.dtype:
        """What scores and sums are held in: float32, or float64 for float64 inputs."""
        return torch.promote_types(self.q.dtype, torch.float32)

    @property
    def needs_grad(self) -> bool:
        tensors = (self.q, self.k, self.v, self.mask)
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)

    @property
    def flops_per_pair(self) -> int:
        """Arithmetic for one query and one key over all batches and heads: two products, two operations a term."""
        batch, heads = self.scores[:2]
        return 2 * batch * heads * (self.q.shape[3] + self.v.shape[3])

    def visible_pairs(self) -> int:
        """(query, key) pairs of one head that `is_causal` and the neighbourhood leave; a mask is not looked into."""
        queries, keys = self.scores[2:]
        if self.neighbourhood is not None:
            pairs = self.neighbourhood.pairs()
            return (pairs + queries) // 2 if self.is_causal else pairs
        if self.is_causal:
            full = min(queries, keys)
            return full * (full + 1) // 2 + (queries - full) * keys
        return queries * keys


def checked_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    window: Window | tuple[tuple[int, int], tuple[int, int]] | None,
    wrap: str | None,
    budget_bytes: int | None,
) -> Call:
    """A Call, or a TypeError or ValueError that names the values; arguments as of `kernels.attention`."""
    q, k, v, mask = _autocast(q, k, v, mask)
    _check_tensors(q, k, v)
    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if mask is not None:
        mask = _four_dimensions(mask, shape, q)
        if is_causal:
            raise ValueError("Expected a mask or is_causal=True, but got both: put the causal part into the mask.")
    if scale is None:
        scale = 1 / math.sqrt(q.shape[3])
    elif isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise ValueError(f"Expected scale to be a finite number, but got {scale!r}.")
    if budget_bytes is not None and (isinstance(budget_bytes, bool) or not isinstance(budget_bytes, int)):
        raise TypeError(f"Expected budget_bytes to be an int or None, but got {budget_bytes!r}.")
    if budget_bytes is not None and budget_bytes < 0:
        raise ValueError(f"Expected budget_bytes to be at least 0, but got {budget_bytes}.")
    neighbourhood = Neighbourhood.from_arguments(window, wrap, shape[2], shape[3])
    return Call(q, k, v, mask, bool(is_causal), float(scale), neighbourhood, budget_bytes)


def _autocast(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Inputs as autocast hands them to `scaled_dot_product_attention`."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"Expected {name} to be a tensor, but got {type(tensor).__name__}.")
    if mask is not None and not isinstance(mask, Tensor):
        raise TypeError(f"Expected mask to be a tensor or None, but got {type(mask).__name__}.")
    kind = q.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return q, k, v, mask
    dtype = torch.get_autocast_dtype(kind)

    def cast(t: Tensor) -> Tensor:
        return t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t

    return cast(q), cast(k), cast(v), None if mask is None else cast(mask)


def _check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}"
    if any(t.layout != torch.strided or t.is_nested for t in (q, k, v)):
        raise TypeError(f"Expected dense tensors, but got q {q.layout}, k {k.layout} and v {v.layout}.")
    if any(t.ndim != 4 for t in (q, k, v)):
        raise ValueError(f"Expected q, k and v of shape (B, H, N, D), but got {shapes}.")
    if not q.shape[:2] == k.shape[:2] == v.shape[:2]:
        raise ValueError(f"Expected one batch size and one number of heads, but got {shapes}.")
    if q.shape[3] != k.shape[3] or q.shape[3] == 0:
        raise ValueError(f"Expected q and k of one head size of at least 1, but got {shapes}.")
    if k.shape[2] != v.shape[2]:
        raise ValueError(f"Expected as many keys as values, but got {shapes}.")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        raise TypeError(
            "Expected q, k and v of one dtype out of float16, bfloat16, float32 and float64, "
            f"but got q {q.dtype}, k {k.dtype} and v {v.dtype}."
        )
    if k.device != v.device or (q.device != k.device and k.device.type != "cpu"):
        raise ValueError(
            "Expected q, k and v on one device, or q on a GPU and k and v on the CPU to be streamed, "
            f"but got q on {q.device}, k on {k.device} and v on {v.device}."
        )


def _four_dimensions(mask: Tensor, shape: tuple[int, int, int, int], q: Tensor) -> Tensor:
    if mask.dtype != torch.bool and mask.dtype not in DTYPES:
        raise TypeError(f"Expected a mask of dtype bool or floating point, but got {mask.dtype}.")
    if mask.device != q.device:
        raise ValueError(f"Expected the mask on the device of q, {q.device}, but got it on {mask.device}.")
    sizes = (1,) * (4 - mask.ndim) + tuple(mask.shape)
    if len(sizes) != 4 or any(m not in (1, n) for m, n in zip(sizes, shape, strict=True)):
        raise ValueError(
            f"Expected a mask that broadcasts to (B, H, Nq, Nk) = {shape}, but got shape {tuple(mask.shape)}."
        )
    return (mask if torch.is_grad_enabled() else mask.detach()).reshape(sizes)
