"""How rows of a tensor must lie in memory for kernels that read 16 bytes at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def misaligned(tensor: Tensor) -> bool:
    """Whether a row of a 4-dimensional tensor starts off a multiple of 16 bytes, or isn't one run of memory.

    PyTorch's kernels for GPUs look at some of this alone: they answered values two bytes on with wrong results or a
    misaligned address (torch 2.11, H100, 2026-11-23). So did kernels that Triton 3.6 compiles for such rows.

    >>> x = torch.zeros(1, 2, 3, 9)[..., 1:]
    >>> misaligned(x), misaligned(x.contiguous())
    (True, False)
    """
    rows = any(step * tensor.element_size() % 16 for step in tensor.stride()[:3])
    return tensor.stride(3) != 1 or rows or tensor.data_ptr() % 16 != 0


def aligned(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy in plain order where that mends what `misaligned` finds.

    >>> x = torch.zeros(1, 2, 3, 9)
    >>> aligned(x[..., 1:]).stride(), aligned(x) is x
    ((48, 24, 8, 1), True)
    """
    return in_plain_order(tensor) if to_copy(tensor) else tensor


def to_copy(tensor: Tensor) -> bool:
    """Whether `aligned` makes a copy: rows of odd lengths start where they start in plain order too."""
    if tensor.shape[3] * tensor.element_size() % 16 == 0:
        return misaligned(tensor)
    return tensor.stride(3) != 1 or tensor.data_ptr() % 16 != 0


def in_plain_order(tensor: Tensor) -> Tensor:
    """A copy. `contiguous` would keep odd strides of dimensions of size 1, and odd addresses."""
    return tensor.clone(memory_format=torch.contiguous_format)
