"""Exact softmax attention on cards without Ampere's instructions, from `turing.cu`: mma.m16n8k8, at most 64 KB of
shared memory, float16, heads of 40, 64, 80, 128, 160 and 512.

Never timed on a Turing card: there it is used only after `usable` has compared it with torch on that card.
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.gpu import nvrtc
from kernels.rows import aligned


@dataclass(frozen=True)
class Plan:
    """How `turing.cu` is built for one head size: 16 queries a row group, `column_groups` warps for each."""

    d: int
    row_groups: int
    column_groups: int
    block_n: int

    @property
    def block_m(self) -> int:
        """Queries of one block."""
        return self.row_groups * 16

    @property
    def threads(self) -> int:
        """Threads of one block."""
        return self.row_groups * self.column_groups * 32

    @property
    def shared(self) -> int:
        """Bytes of shared memory of one block, as laid out in `turing.cu`."""
        pitch = self.d + (0 if self.d == 40 else 8)
        parts = self.column_groups // (self.block_n // 8) if self.column_groups > 1 else 0
        return 2 * self.block_n * pitch * 2 + self.row_groups * parts * 16 * (self.block_n + 2) * 4

    def defines(self, is_causal: bool) -> dict[str, int]:
        """The macros of `turing.cu`."""
        return {
            "D": self.d,
            "ROW_GROUPS": self.row_groups,
            "COLUMN_GROUPS": self.column_groups,
            "BLOCK_N": self.block_n,
            "CAUSAL": int(is_causal),
        }


PLANS = {
    plan.d: plan
    for plan in (Plan(40, 4, 1, 48), Plan(64, 4, 1, 64), Plan(80, 4, 1, 64), Plan(128, 4, 1, 32), Plan(160, 4, 1, 16),
                 Plan(512, 2, 4, 16))
}  # fmt: skip


def source() -> str:
    """The CUDA C++ text."""
    return Path(__file__).with_name("turing.cu").read_text(encoding="utf-8")


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, is_causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(softmax(scale q k^T) v, log-sum-exp): (B, H, Nq, D) float16 and (B, H, Nq) float32, natural logarithm.

    q (B, H, Nq, D), k and v (B, H, Nk, D), float16 on one CUDA device, D a key of PLANS, any strides. Compiles on first
    use. Raises ValueError or TypeError for other inputs, `nvrtc.CompilerError` without a compiler.
    """
    _check(q, k, v, scale)
    if scale <= 0:  # the maximum is taken before the scale is applied
        q, scale = (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)
    batch, heads, n_queries, d = q.shape
    plan = PLANS[d]
    q, k, v = (aligned(t) for t in (q, k, v))
    out = torch.empty((batch, heads, n_queries, d), dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, n_queries), dtype=torch.float32, device=q.device)
    blocks_m = -(-n_queries // plan.block_m)
    with torch.cuda.device(q.device):
        function = _function(plan, is_causal, torch.cuda.current_device())
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (q, k, v, out, lse)]
        strides = [ctypes.c_longlong(t.stride(i)) for t in (q, k, v, out) for i in range(3)]
        sizes = [ctypes.c_int(n) for n in (heads, n_queries, k.shape[2], blocks_m)]
        function.launch(
            blocks_m * batch * heads,
            plan.threads,
            torch.cuda.current_stream().cuda_stream,
            [*pointers, *strides, *sizes, ctypes.c_float(scale * math.log2(math.e))],
        )
    return out, lse


@functools.cache
def usable(device: int, d: int) -> bool:
    """Whether the kernel for this head size gives torch's answer on this card; compiles and runs it once.

    False for a head size without a plan, a card before Turing, no compiler, or a wrong result.
    """
    if (
        d not in PLANS
        or torch.version.hip
        or torch.cuda.get_device_capability(device) < (7, 5)
        or not nvrtc.available()
    ):
        return False
    generator = torch.Generator().manual_seed(0)
    for n_queries, n_keys, is_causal in ((97, 131, False), (97, 97, True)):
        shapes = ((2, 2, n_queries, d), (2, 2, n_keys, d), (2, 2, n_keys, d))
        q, k, v = (torch.randn(s, generator=generator).to(device=f"cuda:{device}", dtype=torch.float16) for s in shapes)
        scores = q.float() @ k.float().mT * d**-0.5
        if is_causal:
            scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf)
        try:
            out, lse = forward(q, k, v, scale=d**-0.5, is_causal=is_causal)
            expected = scores.softmax(-1) @ v.float()
            off = (out.float() - expected).norm() / expected.norm()
            near = bool(off < 2e-3) and torch.allclose(lse, scores.logsumexp(-1), atol=2e-3)
        except (nvrtc.CompilerError, RuntimeError):
            return False
        if not near:
            return False
    return True


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> None:
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            "Expected q (B, H, Nq, D) and k, v (B, H, Nk, D), "
            f"but got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"Expected no empty dimension, but got q {tuple(q.shape)} and k {tuple(k.shape)}.")
    if q.shape[3] not in PLANS:
        raise ValueError(f"Expected a head size of {', '.join(map(str, PLANS))}, but got {q.shape[3]}.")
    if not q.dtype == k.dtype == v.dtype == torch.float16:
        raise TypeError(f"Expected float16 for all of q, k, v, but got {q.dtype}, {k.dtype} and {v.dtype}.")
    if q.device.type != "cuda" or not q.device == k.device == v.device:
        raise ValueError(f"Expected one CUDA device, but got {q.device}, {k.device} and {v.device}.")
    if not math.isfinite(scale):
        raise ValueError(f"Expected a finite scale, but got {scale}.")


@functools.cache
def _function(plan: Plan, is_causal: bool, device: int) -> nvrtc.Function:
    capability = torch.cuda.get_device_capability(device)
    # machine code where the card is the kernel's own; elsewhere the driver translates PTX, which must not be newer
    # than it
    arch = "sm_75" if capability == (7, 5) else "compute_75"
    return nvrtc.Function(nvrtc.compile_source(source(), arch, plan.defines(is_causal)), "attention", plan.shared)
