"""PyTorch's own fused attention, where its kernels take the call and their memory is linear."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .call import Call
from .rows import in_plain_order, misaligned, to_copy

BACKENDS = {1: "flash", 2: "memory-efficient", 3: "cuDNN"}
"""What `torch._fused_sdp_choice` answers (`SDPBackend`), less the one that builds all scores."""


class SdpaPath:
    """`torch.nn.functional.scaled_dot_product_attention`, unless it would fall back to its math backend."""

    name = "sdpa"
    why = "PyTorch's fused kernel takes this call and its memory is linear"

    def supports(self, call: Call) -> str | None:
        device = call.q.device.type
        if call.neighbourhood is not None:
            return "it knows no window"
        if call.q.device != call.k.device:
            return f"q is on {call.q.device} and k is on {call.k.device}"
        if 0 in call.scores or 0 in call.out_shape:
            return "a tensor is empty"
        if call.scale <= 0:  # PyTorch 2.13 on the CPU scales the -inf of hidden pairs too, and answers NaN
            return f"its fused kernels want a positive scale, and this is {call.scale}"
        if device not in ("cpu", "cuda"):
            return f"on {device} it may build all scores"
        mask = call.mask
        if mask is not None and mask.dtype not in (torch.bool, call.q.dtype):
            return f"the mask is {mask.dtype} and q is {call.q.dtype}"
        if mask is not None and mask.requires_grad:
            return "its fused kernels give no gradient of a mask"
        if device == "cuda" and mask is not None and not _readable(mask, call.scores[3]):
            return "its GPU kernels want a mask whose rows are whole, contiguous and at multiples of 16 bytes"
        copy = _mask_copy(call)
        if copy and copy > sum(t.numel() for t in (call.q, call.k, call.v)) * call.q.dtype.itemsize:
            return f"it would make a copy of the mask, {copy} bytes"
        if self.backend(call) is None:
            return "no fused kernel of PyTorch takes this call, and its math backend builds all scores"
        if call.budget_bytes is None:
            return None
        needed = self.workspace(call)
        return f"it needs {needed} bytes" if needed > call.budget_bytes else None

    def backend(self, call: Call) -> str | None:
        """Which fused kernel PyTorch would take, or None for none."""
        tensors, mask = (call.q, call.k, call.v), call.mask
        if any(_to_copy(t) for t in tensors):  # asked about a corner of what `run` will hand over
            tensors = (
                in_plain_order(call.q[:1, :1, :16]),
                in_plain_order(call.k[:1, :1, :16]),
                in_plain_order(call.v[:1, :1, :16]),
            )
            mask = None if mask is None else mask[:1, :1, :16, :16]
        q, k, v = tensors
        choice = torch._fused_sdp_choice(q, k, v, mask, 0.0, call.is_causal, scale=call.scale)
        return BACKENDS.get(choice)

    def workspace(self, call: Call) -> int:
        """An upper bound, as read off and, on the CPU, measured with the kernels of PyTorch 2.13."""
        batch, heads, queries, keys = call.scores
        size, sums = max(call.q.shape[3], call.v.shape[3]), call.sum_dtype.itemsize
        total = 4096 + _mask_copy(call) + sums * batch * heads * queries
        total += kernel_bytes(call, batch * heads, queries, keys)
        spread = sum(t.numel() for t in (call.q, call.k, call.v) if _to_copy(t)) * call.q.dtype.itemsize
        total += 2 * spread if call.needs_grad else spread
        if call.needs_grad:
            total += sums * batch * heads * queries
            if call.mask is not None and call.q.is_cuda:  # rows without keys are set to zero in a copy
                total += batch * heads * queries * call.v.shape[3] * call.q.dtype.itemsize
            total += batch * heads * max(queries, keys) * size * call.q.dtype.itemsize  # one operand made contiguous
            if call.q.dtype != call.sum_dtype:
                total += batch * heads * (queries + 2 * keys) * size * sums
        return total

    def flops(self, call: Call) -> int:
        return call.flops_per_pair * call.visible_pairs()

    def tiles(self, call: Call) -> None:
        return None

    def run(self, call: Call) -> Tensor:
        q, k, v = (in_plain_order(t) if _to_copy(t) else t for t in (call.q, call.k, call.v))
        out = F.scaled_dot_product_attention(q, k, v, call.mask, is_causal=call.is_causal, scale=call.scale)
        if call.mask is None or not out.is_cuda:
            return out
        blind = _blind(call.mask)
        return out.masked_fill(blind, 0) if out.requires_grad else out.masked_fill_(blind, 0)


def _readable(mask: Tensor, keys: int) -> bool:
    """Whether PyTorch's GPU kernels can read a mask; of bool ones, and of rows that it pads, it makes a copy first."""
    if mask.shape[3] != keys:
        return False
    return mask.dtype == torch.bool or (mask.stride(3) == 1 and (keys % 16 != 0 or not misaligned(mask)))


def _blind(mask: Tensor) -> Tensor:
    """(B, H, Nq, 1) bool: rows of a mask that let no key in.

    PyTorch's kernels for GPUs answer those with zeros, NaN or the mean of all values, each as it likes.
    """
    if mask.dtype == torch.bool:
        return ~mask.any(-1, keepdim=True)
    return mask.amax(-1, keepdim=True) == -torch.inf


def _to_copy(tensor: Tensor) -> bool:
    """Whether a fused kernel can't read it as it lies: on a GPU misaligned (PyTorch itself pads head sizes that aren't
    whole multiples of 16 bytes), on the CPU in rows that aren't one run of memory."""
    if tensor.is_cuda:
        return to_copy(tensor)
    return tensor.stride(3) != 1


def kernel_bytes(call: Call, heads: int, queries: int, keys: int, device: torch.device | None = None) -> int:
    """What a fused kernel allocates for itself, beside output and log-sum-exp, for so many heads and rows."""
    size, item, sums = max(call.q.shape[3], call.v.shape[3]), call.q.dtype.itemsize, call.sum_dtype.itemsize
    half = call.q.dtype != call.sum_dtype
    if (device or call.q.device).type != "cpu":
        return heads * queries * size * 4 if size > 128 else 0  # sums in global memory
    # each thread holds a tile of scores and of output; keys and values of half inputs may be packed anew
    rows, columns = min(queries, 256), min(keys, 512)
    thread = rows * (columns * (2 if call.needs_grad else 1) + size + 4) * sums
    thread += (rows * (2 * columns + size) * item + 1024 * (size + 192)) if half else 0
    packed = 2 * heads * (keys + 64) * (size + 64) * item if half else 0
    return torch.get_num_threads() * thread + packed


def with_lse(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor] | None:
    """Attention and log-sum-exp (B, H, Nq, 1) by the fused kernel that PyTorch would take, or None if it has none."""
    choice = BACKENDS.get(torch._fused_sdp_choice(q, k, v, None, 0.0, causal, scale=scale))
    ops = torch.ops.aten
    if choice is None or (q.device.type == "cuda" and q.shape[3] % 8):
        return None  # the operators themselves don't pad the head size
    if q.device.type == "cpu":
        out, lse = ops._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    elif choice == "flash":
        out, lse, *_ = ops._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
    elif choice == "cuDNN":
        out, lse, *_ = ops._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, False, scale=scale)
    else:
        out, lse, *_ = ops._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal, scale=scale)
    return out, lse.reshape(*q.shape[:2], -1, 1)[:, :, : q.shape[2]]  # some kernels pad its rows


def _mask_copy(call: Call) -> int:
    """Bytes of the copy that PyTorch makes of a mask: an additive one of a bool mask, an aligned one on a GPU."""
    if call.mask is None:
        return 0
    if call.mask.dtype == torch.bool:
        return call.mask.numel() * (call.q.dtype.itemsize + 1)
    aligned = call.q.device.type == "cpu" or call.mask.shape[3] % 16 == 0
    return 0 if aligned else (call.mask.numel() + 16 * call.mask[..., 0].numel()) * call.mask.dtype.itemsize
