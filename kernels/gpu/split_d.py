"""Exact softmax attention with Triton, for head sizes that other kernels pad or refuse: 40, 80, 160 and 512.

(B, H, N, D) in float16 or bfloat16, float32 inside; O(N) extra memory. Needs an Ampere or newer NVIDIA GPU, or an AMD
GPU that Triton supports. `tiles.py` chooses the tiles.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton

from kernels.gpu.backward_kernels import delta_kernel, key_value_kernel, query_kernel
from kernels.gpu.config import HEAD_SIZES, BackwardConfig, Config, head_parts
from kernels.gpu.forward_kernels import descriptor_kernel, forward_kernel, merge_kernel
from kernels.rows import aligned


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    is_causal: bool = False,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(softmax(scale q k^T) v, log-sum-exp): (B, H, Nq, D) in q's dtype and (B, H, Nq) in float32, natural logarithm.

    q is (B, H, Nq, D), k and v (B, H, Nk, D), any strides. `is_causal` lets query i see keys 0 to i, as
    `scaled_dot_product_attention` does. Raises ValueError or TypeError for inputs that do not fit together, and
    ValueError for a config that does not fit the head size.
    """
    check(q, k, v)
    q, scale = _positive_scale(q, scale)
    q, k, v = aligned(q), aligned(k), aligned(v)
    batch, heads, n_queries, d = q.shape
    n_keys = k.shape[2]
    if config is None:
        config = _picked(q, k, is_causal)
    main, tail = head_parts(d)
    _check_config(config, d)
    splits = config.splits
    out = torch.empty_like(q)
    lse = torch.empty((batch, heads, n_queries), dtype=torch.float32, device=q.device)
    part, part_lse = out.unsqueeze(0), lse.unsqueeze(0)
    if splits > 1:
        part = torch.empty((splits, batch, heads, n_queries, d), dtype=torch.float32, device=q.device)
        part_lse = torch.empty((splits, batch, heads, n_queries), dtype=torch.float32, device=q.device)
    programs = triton.cdiv(n_queries, config.block_m) * (main // config.slice) * splits * batch * heads
    shape = (heads, n_queries, n_keys, batch * heads, splits, scale * math.log2(math.e))
    with _on(q):
        if config.variant == "descriptor" and describable(q, k, v):
            from triton.tools.tensor_descriptor import TensorDescriptor

            if splits == 1 and not out.is_contiguous():
                out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
                part = out.unsqueeze(0)
            tiles = ((q, config.block_m, d), (k, config.block_n, d), (v, config.block_n, config.slice))
            views = [TensorDescriptor.from_tensor(t, [1, 1, rows, columns]) for t, rows, columns in tiles]
            launch(
                descriptor_kernel, programs, *views, part, part_lse, d, *shape,
                D=d, SLICE=config.slice, BLOCK_M=config.block_m, BLOCK_N=config.block_n, CAUSAL=is_causal,
                num_warps=config.warps, num_stages=config.stages,
            )  # fmt: skip
        else:
            launch(
                forward_kernel, programs, q, k, v, part, part_lse, *q.stride(), *k.stride(), *v.stride(),
                    *part.stride(), *shape,
                D=d, P0=main, P1=tail, CHUNK=config.chunk, SLICE=config.slice, BLOCK_M=config.block_m,
                BLOCK_N=config.block_n, CAUSAL=is_causal, SINGLE=config.single_loop,
                    STAGES=config.stages,
                num_warps=config.warps, num_stages=config.stages,
            )  # fmt: skip
        if splits > 1:
            merge(part, part_lse, out, lse)
    return out, lse


def merge(part: torch.Tensor, part_lse: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
    """Writes the results of key splits, merged by their log-sum-exp, into `out` (B, H, N, D) and `lse` (B, H, N).

    `part` (S, B, H, N, D) and `part_lse` (S, B, H, N) are contiguous float32.
    """
    splits, batch, heads, n_queries, d = part.shape
    rows = 4
    with _on(out):
        launch(
            merge_kernel, triton.cdiv(n_queries, rows) * batch * heads,
            part, part_lse, out, lse, *out.stride(), heads, n_queries, batch * heads,
            D=d, WIDTH=triton.next_power_of_2(d), ROWS=rows, SPLITS=splits, num_warps=4,
        )  # fmt: skip


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    *,
    scale: float,
    is_causal: bool = False,
    config: BackwardConfig | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients (dq, dk, dv) of `forward`'s first output, contiguous; `out` and `lse` are what `forward` returned.

    Raises as `forward` does.
    """
    check(q, k, v)
    if grad.shape != q.shape or out.shape != q.shape or lse.shape != q.shape[:3]:
        raise ValueError(
            f"Expected grad and out of shape {tuple(q.shape)} and lse of shape {tuple(q.shape[:3])}, "
            f"but got {tuple(grad.shape)}, {tuple(out.shape)} and {tuple(lse.shape)}."
        )
    batch, heads, n_queries, d = q.shape
    n_keys = k.shape[2]
    if config is None:
        from kernels.gpu import tiles

        config = tiles.backward_config(arch_of(q.device), d)
    main, tail = head_parts(d)
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    delta = torch.empty((batch, heads, n_queries), dtype=torch.float32, device=q.device)
    q, k, v, grad, lse = aligned(q), aligned(k), aligned(v), aligned(grad.to(q.dtype)), lse.contiguous()
    strides = (*q.stride(), *k.stride(), *v.stride(), *grad.stride(), heads, n_queries, n_keys, scale)

    def meta(tiles: Config) -> dict[str, Any]:
        _check_config(tiles, d)
        return {
            "D": d, "P0": main, "P1": tail, "CHUNK": tiles.chunk, "SLICE": tiles.slice, "BLOCK_M": tiles.block_m,
            "BLOCK_N": tiles.block_n, "CAUSAL": is_causal, "num_warps": tiles.warps, "num_stages": tiles.stages,
        }  # fmt: skip

    with _on(q):
        rows = 8
        launch(
            delta_kernel, triton.cdiv(n_queries, rows) * batch * heads,
            grad, out, delta, *grad.stride(), *out.stride(), heads, n_queries,
            D=d, WIDTH=triton.next_power_of_2(d), ROWS=rows, num_warps=4,
        )  # fmt: skip
        grid = triton.cdiv(n_keys, config.keys.block_n) * (main // config.keys.slice) * batch * heads
        for keys, values in ((True, True),) if config.together else ((True, False), (False, True)):
            launch(
                key_value_kernel,
                grid,
                q,
                k,
                v,
                grad,
                lse,
                delta,
                dk,
                dv,
                *strides,
                **meta(config.keys),
                KEYS=keys,
                VALUES=values,
            )
        grid = triton.cdiv(n_queries, config.queries.block_m) * (main // config.queries.slice) * batch * heads
        launch(query_kernel, grid, q, k, v, grad, lse, delta, dq, *strides, **meta(config.queries))
    return dq, dk, dv


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Raises ValueError or TypeError, naming the values, unless `forward` can run on these."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != 4:
            raise ValueError(f"Expected {name} of shape (B, H, N, D), but got {tuple(tensor.shape)}.")
    if k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            "Expected q (B, H, Nq, D) and k, v (B, H, Nk, D), "
            f"but got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"Expected no empty dimension, but got q {tuple(q.shape)} and k {tuple(k.shape)}.")
    if q.shape[3] not in HEAD_SIZES:
        raise ValueError(f"Expected a head size of {', '.join(map(str, HEAD_SIZES))}, but got {q.shape[3]}.")
    if q.dtype not in (torch.float16, torch.bfloat16) or not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"Expected float16 or bfloat16 for all of q, k, v, but got {q.dtype}, {k.dtype} and {v.dtype}.")
    if not q.device == k.device == v.device:
        raise ValueError(f"Expected one device, but got {q.device}, {k.device} and {v.device}.")


def launch(kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
    """Starts a Triton kernel; `options` are its constants, `num_warps` and `num_stages`."""
    kernel[(programs,)](*arguments, **options)


def describable(*tensors: torch.Tensor) -> bool:
    """Whether tensor descriptors can read these: D a power of two, rows contiguous, everything 16-byte aligned."""
    return all(
        t.shape[3] & (t.shape[3] - 1) == 0
        and t.stride(3) == 1
        and t.data_ptr() % 16 == 0
        and all(step * t.element_size() % 16 == 0 and step > 0 for step in t.stride()[:3])
        for t in tensors
    )


def arch_of(device: torch.device) -> str:
    """`sm_90`, `gfx942`, ...; `sm_80` for the CPU, where only Triton's interpreter runs."""
    if device.type != "cuda":
        return "sm_80"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def _picked(q: torch.Tensor, k: torch.Tensor, is_causal: bool) -> Config:
    from kernels.gpu import tiles

    batch, heads, n_queries, d = q.shape
    processors = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 1
    shape = tiles.Shape(batch * heads, n_queries, k.shape[2], d, is_causal)
    return tiles.pick(arch_of(q.device), processors, shape)


def _positive_scale(q: torch.Tensor, scale: float) -> tuple[torch.Tensor, float]:
    """The kernels take the maximum before they scale, which needs a scale above zero: the sign moves into q."""
    if not math.isfinite(scale):
        raise ValueError(f"Expected a finite scale, but got {scale}.")
    if scale > 0:
        return q, scale
    return (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)


def _check_config(config: Config, d: int) -> None:
    main, tail = head_parts(d)
    if config.slice > main or config.chunk > main or (tail and config.slice != main):
        raise ValueError(
            f"Expected chunk and slice to divide {main} (the whole of it as slice for D = {d}), but got "
            f"{config.chunk} and {config.slice}."
        )


def _on(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
