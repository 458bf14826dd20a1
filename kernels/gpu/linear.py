"""Linear attention with Triton, O(N) in time and memory: causal with a decay for each head, and bidirectional.

(B, H, N, D) queries and keys, (B, H, N, E) values, float16 or bfloat16. The causal sum and its three gradients are one
operator run forwards or backwards in time: dq = op(do, v, k), dk = reversed op(v, do, q), dv = reversed op(k, q, do).
Feature maps are the caller's; `normalized` divides by the sum of weights, inside the kernel and in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from kernels.gpu import tiles
from kernels.gpu.config import LinearConfig, power_of_two
from kernels.gpu.linear_kernels import apply_kernel, causal_kernel, scan_kernel, state_kernel
from kernels.gpu.split_d import arch_of, launch
from kernels.rows import aligned

_FIRST_SEGMENTS = 4  # programs for each processor before segments are cut: enough to hide each other's waits


def linear_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False, decay: torch.Tensor | None = None
) -> torch.Tensor:
    """sum over s of decay^|t-s| (q_t . k_s) v_s, s <= t where `causal`; (B, H, N, E) in v's dtype, differentiable in
    q, k, v.

    `decay` (H,) in (0, 1] has no gradient; None means 1. The sum is not divided by anything. Raises ValueError or
    TypeError for inputs that do not fit together.
    """
    check(q, k, v, decay)
    return summed(q, k, v, None if decay is None else _rates(q, decay), causal=causal)


def summed(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rate: torch.Tensor | None, *, causal: bool
) -> torch.Tensor:
    """`linear_attention` of arguments that are known to be right; `rate` (H,) float32 on their device is log2 of the
    decay."""
    if rate is None and not causal:
        return _Bidirectional.apply(q, k, v)  # pyright: ignore[reportReturnType]  # torch types apply as Any or None
    rate = _rates(q, None) if rate is None else rate
    out: torch.Tensor = _Causal.apply(q, k, v, rate, False, False)  # pyright: ignore[reportAssignmentType]  # as above
    if not causal:
        out = out + _Causal.apply(q, k, v, rate, True, True)  # pyright: ignore[reportOperatorIssue]  # as above
    return out


def normalized(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False, decay: torch.Tensor | None = None
) -> torch.Tensor:
    """`linear_attention` with each row divided by its sum of weights decay^(t-s) q_t . k_s; zero where that is 0.

    `decay` only where `causal`. Not differentiable. Raises as `linear_attention` does.
    """
    check(q, k, v, decay)
    if decay is not None and not causal:
        raise ValueError("Expected decay only with causal=True, but got a decay and causal=False.")
    return divided(q, k, v, None if decay is None else _rates(q, decay), causal=causal)


def divided(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rate: torch.Tensor | None, *, causal: bool
) -> torch.Tensor:
    """`normalized` of arguments that are known to be right; `rate` as in `summed`."""
    if causal:
        return _scan(q, k, v, _rates(q, None) if rate is None else rate, False, False, normalize=True)
    state, total = _total(k, v, normalize=True)
    return _apply(q, state, v.dtype, total)


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, decay: torch.Tensor | None) -> None:
    """Raises ValueError or TypeError, naming the values, unless `linear_attention` can run on these."""
    if q.ndim != 4 or q.shape != k.shape or v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            "Expected q, k (B, H, N, D) and v (B, H, N, E), "
            f"but got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    if 0 in q.shape or 0 in v.shape:
        raise ValueError(f"Expected no empty dimension, but got q {tuple(q.shape)} and v {tuple(v.shape)}.")
    if q.shape[3] > 128 or v.shape[3] > 128:
        raise ValueError(f"Expected head sizes up to 128, but got {q.shape[3]} and {v.shape[3]}.")
    if q.dtype not in (torch.float16, torch.bfloat16) or not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"Expected float16 or bfloat16 for all of q, k, v, but got {q.dtype}, {k.dtype} and {v.dtype}.")
    if not q.device == k.device == v.device:
        raise ValueError(f"Expected one device, but got {q.device}, {k.device} and {v.device}.")
    if decay is not None:
        if decay.shape != (q.shape[1],):
            raise ValueError(f"Expected decay of shape ({q.shape[1]},), but got {tuple(decay.shape)}.")
        if not bool(((decay > 0) & (decay <= 1)).all()):
            raise ValueError(
                f"Expected decay above 0 and at most 1, but got {decay.min().item()} to {decay.max().item()}."
            )


def segment_length(n: int, programs: int, processors: int) -> int:
    """Rows of a segment, a power of two of at least 256: as many segments as fill the GPU, no more.

    >>> segment_length(1 << 19, 8, 132), segment_length(4096, 1024, 132)
    (8192, 4096)
    """
    wanted = max(1, math.ceil(_FIRST_SEGMENTS * processors / programs))
    rows = max(256, math.ceil(n / wanted))
    return min(1 << (rows - 1).bit_length(), max(256, 1 << (n - 1).bit_length()))


class _Causal(torch.autograd.Function):
    """The operator and its gradients; `rate` is log2 of the decay."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rate: torch.Tensor, reverse: bool, strict: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(q, k, v, rate)
        ctx.reverse, ctx.strict = reverse, strict
        return _scan(q, k, v, rate, reverse, strict)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator is untyped
        q, k, v, rate = ctx.saved_tensors
        grad = grads[0].to(v.dtype)
        needs = ctx.needs_input_grad
        back, strict = not ctx.reverse, ctx.strict
        dq = _scan(grad, v, k, rate, ctx.reverse, strict) if needs[0] else None
        dk = _scan(v, grad, q, rate, back, strict) if needs[1] else None
        dv = _scan(k, q, grad, rate, back, strict) if needs[2] else None
        return dq, dk, dv, None, None, None


class _Bidirectional(torch.autograd.Function):
    """q (k^T v): two products through the state, which is never rounded below float32."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        return _apply(q, _total(k, v)[0], v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator is untyped
        q, k, v = ctx.saved_tensors
        grad = grads[0].to(v.dtype)
        needs = ctx.needs_input_grad
        dq = _apply(grad, _total(v, k)[0], q.dtype) if needs[0] else None
        back = _total(q, grad)[0] if needs[1] or needs[2] else None
        dk = _apply(v, back.mT.contiguous(), k.dtype) if back is not None and needs[1] else None
        dv = _apply(k, back, v.dtype) if back is not None and needs[2] else None
        return dq, dk, dv


def _tiles(k: torch.Tensor, v: torch.Tensor) -> tuple[LinearConfig, int, int]:
    """(config, width of a query, width of a program's columns)."""
    config = tiles.linear_config(arch_of(k.device))
    return config, power_of_two(k.shape[3]), min(power_of_two(v.shape[3]), config.width_e)


def _rates(q: torch.Tensor, decay: torch.Tensor | None) -> torch.Tensor:
    """(H,) float32, log2 of the decay."""
    if decay is None:
        return torch.zeros(q.shape[1], dtype=torch.float32, device=q.device)
    return torch.log2(decay.detach().to(device=q.device, dtype=torch.float32)).contiguous()


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _states(
    k: torch.Tensor, v: torch.Tensor, rate: torch.Tensor, segment: int, reverse: bool, normalize: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B H, segments, D, E) and, where `normalize`, (B H, segments, D): what each segment alone adds."""
    k, v = aligned(k), aligned(v)
    batch, heads, n, d = k.shape
    e = v.shape[3]
    config, width_d, width_e = _tiles(k, v)
    segments = triton.cdiv(n, segment)
    state = torch.empty((batch * heads, segments, d, e), dtype=torch.float32, device=k.device)
    total = state.new_empty((batch * heads, segments, d) if normalize else (1,))
    launch(
        state_kernel, batch * heads * segments * triton.cdiv(e, width_e),
        k, v, rate, state, total, *k.stride(), *v.stride(), heads, n, segments,
        D=d, E=e, WIDTH_D=width_d, WIDTH_E=width_e, SEGMENT=segment, BLOCK=config.block, REVERSE=reverse,
        NORMALIZE=normalize, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return state, total


def _carry(parts: torch.Tensor, rate: torch.Tensor, heads: int, segment: int) -> None:
    """In place: what each segment adds, (B H, segments, …) contiguous, becomes what enters it."""
    size, width = parts[0, 0].numel(), 256
    launch(
        scan_kernel, len(parts) * triton.cdiv(size, width), parts, rate, heads, parts.shape[1], size,
        SEGMENT=segment, WIDTH=width, num_warps=4,
    )  # fmt: skip


def _scan(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rate: torch.Tensor,
    reverse: bool,
    strict: bool,
    normalize: bool = False,
) -> torch.Tensor:
    q, k, v = aligned(q), aligned(k), aligned(v)
    batch, heads, n, d = q.shape
    e = v.shape[3]
    config, width_d, width_e = _tiles(k, v)
    segment = segment_length(n, batch * heads * triton.cdiv(e, width_e), _processors(q.device))
    segments = triton.cdiv(n, segment)
    out = torch.empty((batch, heads, n, e), dtype=v.dtype, device=v.device)
    if segments == 1:
        state = torch.zeros((batch * heads, 1, d, e), dtype=torch.float32, device=q.device)
        total = state.new_zeros((batch * heads, 1, d) if normalize else (1,))
    else:
        state, total = _states(k, v, rate, segment, reverse, normalize)
        for parts in (state, total) if normalize else (state,):
            _carry(parts, rate, heads, segment)
    launch(
        causal_kernel, batch * heads * segments * triton.cdiv(e, width_e),
        q, k, v, rate, state, total, out, *q.stride(), *k.stride(), *v.stride(), *out.stride(), heads, n, segments,
        D=d, E=e, WIDTH_D=width_d, WIDTH_E=width_e, SEGMENT=segment, BLOCK=config.block, REVERSE=reverse, STRICT=strict,
        NORMALIZE=normalize, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return out


def _total(k: torch.Tensor, v: torch.Tensor, normalize: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """sum over s of k_s^T v_s, (B H, D, E) float32, and, where `normalize`, of k_s, (B H, D)."""
    batch, heads, n, _ = k.shape
    rate = torch.zeros(heads, dtype=torch.float32, device=k.device)
    programs = batch * heads * triton.cdiv(v.shape[3], _tiles(k, v)[2])
    state, total = _states(k, v, rate, segment_length(n, programs, _processors(k.device)), False, normalize)
    return state.sum(1), total.sum(1) if normalize else total


def _apply(
    q: torch.Tensor, state: torch.Tensor, dtype: torch.dtype, total: torch.Tensor | None = None
) -> torch.Tensor:
    """q state, (B, H, N, E); over q total where there is one."""
    q = aligned(q)
    batch, heads, n, d = q.shape
    e = state.shape[2]
    out = torch.empty((batch, heads, n, e), dtype=dtype, device=q.device)
    config, width_d, width_e = _tiles(q, out)
    launch(
        apply_kernel, batch * heads * triton.cdiv(n, config.block) * triton.cdiv(e, width_e),
        q, state, state if total is None else total, out, *q.stride(), *out.stride(), heads, n,
        D=d, E=e, WIDTH_D=width_d, WIDTH_E=width_e, BLOCK=config.block, NORMALIZE=total is not None,
        num_warps=config.warps,
    )  # fmt: skip
    return out
