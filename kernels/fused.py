"""The project's own GPU kernels as paths: each takes the calls for which it was measured to be the fastest there is."""

from __future__ import annotations

import functools
from importlib.util import find_spec

import torch
from torch import Tensor

from .call import Call
from .rows import to_copy

WORTHWHILE = 4096 * 4096
"""Pairs of a query and a key, over all heads, from which heads of 512 were measured (H200, 2026-11-23); below,
PyTorch's kernel is left alone."""
HEAD = 512


class _OwnKernel:
    """What these paths have in common."""

    def flops(self, call: Call) -> int:
        return call.flops_per_pair * call.visible_pairs()

    def tiles(self, call: Call) -> None:
        return None


class HopperPath(_OwnKernel):
    """CUDA C++ with wgmma and bulk copies for heads of 512."""

    name = "hopper"
    why = "heads of 512 on Hopper: 3 to 8 times as fast as PyTorch's kernel"

    def supports(self, call: Call) -> str | None:
        reason = _unfit(call, (HEAD,)) or _small(call)
        if reason is not None:
            return reason
        from .gpu import hopper

        if call.is_causal:
            return "it knows no causal order"
        if not hopper.supports(call.q, call.k, call.v):
            return "it wants an sm_90 GPU with NVRTC, and rows that lie in one run of memory at multiples of 16 bytes"
        return _over(call, self.workspace(call))

    def workspace(self, call: Call) -> int:
        return _split_bytes(call, self._splits(call))

    def run(self, call: Call) -> Tensor:
        from .gpu import hopper

        return hopper.run(call.q, call.k, call.v, scale=call.scale, splits=self._splits(call))[0]

    def _splits(self, call: Call) -> int:
        from .gpu import hopper

        batch, heads, queries, keys = call.scores
        splits = hopper.split_count(queries, keys, batch * heads, _processors(call))
        return splits if _over(call, _split_bytes(call, splits)) is None else 1


class TritonPath(_OwnKernel):
    """Triton, for heads of 512 where the Hopper kernel can't go: causal order, odd strides, other chips."""

    name = "triton"
    why = "heads of 512, for which PyTorch's kernel was 1.3 to 2 times as slow on Hopper"

    def supports(self, call: Call) -> str | None:
        reason = _unfit(call, (HEAD,)) or _small(call) or without_triton(call.q.device)
        return _over(call, self.workspace(call)) if reason is None else reason

    def workspace(self, call: Call) -> int:
        batch, heads, queries, keys = call.scores
        from .gpu import split_d, tiles

        shape = tiles.Shape(batch * heads, queries, keys, HEAD, call.is_causal)
        copies = sum(t.numel() * t.itemsize for t in (call.q, call.k, call.v) if to_copy(t))
        return copies + _split_bytes(call, tiles.pick(split_d.arch_of(call.q.device), _processors(call), shape).splits)

    def run(self, call: Call) -> Tensor:
        from .gpu import split_d

        return split_d.forward(call.q, call.k, call.v, scale=call.scale, is_causal=call.is_causal)[0]


class TuringPath(_OwnKernel):
    """CUDA C++ with mma.m16n8k8 for cards that no flash kernel runs on."""

    name = "turing"
    why = "a Turing card, which PyTorch's flash and cuDNN kernels refuse; not timed on one"

    def supports(self, call: Call) -> str | None:
        from .gpu.config import HEAD_SIZES

        reason = _unfit(call, HEAD_SIZES)
        if reason is not None:
            return reason
        if torch.cuda.get_device_capability(call.q.device) != (7, 5):
            return "the card is not Turing (sm_75)"
        if call.q.dtype != torch.float16:
            return "Turing's tensor cores take float16"
        from .gpu import turing

        if not turing.usable(call.q.device.index or 0, call.q.shape[3]):
            return "there is no NVRTC, or it failed its self-check on this card"
        return _over(call, self.workspace(call))

    def workspace(self, call: Call) -> int:
        copies = sum(t.numel() * t.itemsize for t in (call.q, call.k, call.v))
        return copies + _split_bytes(call, 1)

    def run(self, call: Call) -> Tensor:
        from .gpu import turing

        return turing.forward(call.q, call.k, call.v, scale=call.scale, is_causal=call.is_causal)[0]


def _unfit(call: Call, sizes: tuple[int, ...]) -> str | None:
    """Why none of these kernels can take a call."""
    if call.q.device.type != "cuda" or torch.version.hip:
        return "it runs on NVIDIA GPUs"
    if call.q.device != call.k.device:
        return f"q is on {call.q.device} and k is on {call.k.device}"
    if call.neighbourhood is not None or call.mask is not None:
        return "it knows no window and no mask"
    if call.q.dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, and these are {call.q.dtype}"
    if call.q.shape[3] not in sizes or call.v.shape[3] != call.q.shape[3]:
        return f"its heads are of {', '.join(map(str, sizes))}, and these of {call.q.shape[3]} and {call.v.shape[3]}"
    if 0 in call.scores:
        return "a tensor is empty"
    if call.needs_grad:
        return "a gradient is wanted, and its backward has not been measured to be faster"
    if torch.compiler.is_compiling():
        return "torch.compile can't follow it"
    return None


def _small(call: Call) -> str | None:
    batch, heads, queries, keys = call.scores
    pairs = batch * heads * queries * keys
    return f"{pairs} pairs are too few to be worth it" if pairs < WORTHWHILE else None


def _over(call: Call, needed: int) -> str | None:
    return f"it needs {needed} bytes" if call.budget_bytes is not None and needed > call.budget_bytes else None


def _split_bytes(call: Call, splits: int) -> int:
    """The log-sum-exp, and where keys are split a float32 result and log-sum-exp of each part, and counters."""
    batch, heads, queries, _ = call.scores
    rows = batch * heads * queries
    return 4 * rows + (4 * splits * rows * (call.v.shape[3] + 1) + 8 * rows if splits > 1 else 0)


def _processors(call: Call) -> int:
    return _processors_of(call.q.device.index or 0)


@functools.cache
def _processors_of(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def without_triton(device: torch.device) -> str | None:
    """Why Triton's kernels can't run on a CUDA device."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "Triton has no tensor cores before Ampere"
    return None if _has_triton() else "there is no Triton"


@functools.lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None
