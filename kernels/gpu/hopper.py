"""Exact softmax attention for heads of 512 on Hopper (sm_90a), from `hopper.cu`: bulk copies shared by a cluster of two
blocks, specialised warps, wgmma. float16 or bfloat16, no mask. Compiled by NVRTC on first use.
"""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path

import torch

from kernels.gpu import nvrtc

D = 512
BLOCK = 64  # queries of a block, and keys of a tile
THREADS = 384
SHARED = 214016 + 128  # as laid out in hopper.cu
_TYPES = {torch.float16: 6, torch.bfloat16: 9}  # CU_TENSOR_MAP_DATA_TYPE_FLOAT16, _BFLOAT16
_SWIZZLE_128B, _PROMOTE_256B = 3, 3


def source() -> str:
    """The CUDA C++ text."""
    return Path(__file__).with_name("hopper.cu").read_text(encoding="utf-8")


def defines(bfloat: bool, partial: bool, cluster: int = 2) -> dict[str, int]:
    """The macros of `hopper.cu`."""
    return {"BFLOAT": int(bfloat), "PARTIAL": int(partial), "CLUSTER": cluster}


def supports(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether `forward` can run on these: D = 512 on an sm_90 device with NVRTC, rows contiguous and 16-byte
    aligned."""
    return (
        q.is_cuda
        and not torch.version.hip
        and torch.cuda.get_device_capability(q.device) == (9, 0)
        and all(t.dtype in _TYPES and t.dtype == q.dtype and t.ndim == 4 and t.shape[3] == D for t in (q, k, v))
        and all(_describable(t) for t in (q, k, v))
        and nvrtc.available()
    )


def split_count(n_queries: int, n_keys: int, batch_heads: int, processors: int) -> int:
    """How many programs share a query's keys: as many as fill the GPU when one round of blocks does not.

    >>> split_count(4096, 4096, 1, 132), split_count(16384, 16384, 1, 132), split_count(1024, 65536, 1, 132)
    (2, 1, 8)
    """
    blocks = _blocks_m(n_queries) * batch_heads
    tiles = -(-n_keys // BLOCK)
    wanted = max(1, min(8, processors // blocks, tiles // 8))
    return -(-tiles // -(-tiles // wanted))  # no split is empty


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, splits: int | None = None, cluster: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    """(softmax(scale q k^T) v, log-sum-exp): (B, H, Nq, 512) in q's dtype and (B, H, Nq) float32, natural logarithm.

    q (B, H, Nq, 512), k and v (B, H, Nk, 512). Raises ValueError where `supports` says no, and for a scale that is not
    finite.
    """
    if not supports(q, k, v) or k.shape != v.shape or q.shape[:2] != k.shape[:2] or 0 in q.shape or 0 in k.shape:
        raise ValueError(
            "Expected aligned float16 or bfloat16 (B, H, N, 512) on an sm_90 device with NVRTC, but got "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)} in {q.dtype} on {q.device}."
        )
    if cluster not in (1, 2):
        raise ValueError(f"Expected a cluster of 1 or 2 blocks, but got {cluster}.")
    if not math.isfinite(scale):
        raise ValueError(f"Expected a finite scale, but got {scale}.")
    return run(q, k, v, scale=scale, splits=splits, cluster=cluster)


def run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, splits: int | None = None, cluster: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    """`forward` for arguments that are known to be right."""
    if scale <= 0:  # the maximum is taken before the scale is applied
        q, scale = (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)
    batch, heads, n_queries, _ = q.shape
    n_keys = k.shape[2]
    if splits is None:
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count
        splits = split_count(n_queries, n_keys, batch * heads, processors)
    tiles = -(-n_keys // BLOCK)
    per_split = -(-tiles // splits)
    splits = -(-tiles // per_split)
    out = torch.empty((batch, heads, n_queries, D), dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, n_queries), dtype=torch.float32, device=q.device)
    blocks_m = _blocks_m(n_queries)
    written = [out, lse, lse, lse, lse]
    if splits > 1:  # each split's result and log-sum-exp, and how many are done with a block of queries
        part = torch.empty((splits, batch, heads, n_queries, D), dtype=torch.float32, device=q.device)
        part_lse = torch.empty((splits, batch, heads, n_queries), dtype=torch.float32, device=q.device)
        written[2:] = part, part_lse, torch.zeros(batch * heads * blocks_m, dtype=torch.int32, device=q.device)
    with torch.cuda.device(q.device):
        function = _function(q.dtype == torch.bfloat16, splits > 1, cluster, torch.cuda.current_device())
        maps = [
            _tensor_map(t.data_ptr(), tuple(t.shape), t.stride(), t.dtype, box)
            for t, box in ((q, (64, 64, 8)), (k, (64, 32, 1)), (v, (64, 16, 2)))
        ]
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in written]
        sizes = [ctypes.c_int(n) for n in (heads, n_queries, n_keys, blocks_m, splits, per_split)]
        arguments = [*maps, *pointers, *sizes, ctypes.c_float(scale * math.log2(math.e))]
        stream = torch.cuda.current_stream().cuda_stream
        function.launch(blocks_m * splits * batch * heads, THREADS, stream, arguments)
    return out, lse


def _blocks_m(n_queries: int) -> int:
    """Blocks of queries, an even number: a cluster is two."""
    return -(-n_queries // (2 * BLOCK)) * 2


def _describable(tensor: torch.Tensor) -> bool:
    strides = [step * tensor.element_size() for step in tensor.stride()[:3]]
    aligned = tensor.data_ptr() % 16 == 0 and all(s % 16 == 0 and 0 < s < 1 << 40 for s in strides)
    return tensor.stride(3) == 1 and aligned


class _TensorMap(ctypes.Structure):
    """CUtensorMap: 128 bytes at a multiple of 64."""

    _fields_ = (("raw", ctypes.c_ubyte * 192),)


@functools.lru_cache(maxsize=256)
def _tensor_map(
    address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, box: tuple[int, int, int]
) -> ctypes.Array[ctypes.c_ubyte]:
    """The copy engine's description of (B, H, N, 512) as (64 columns, N, 8 groups of columns, H, B), 128-byte
    swizzle. It holds these numbers and nothing else, so it is kept: a model's calls come at the same addresses."""
    batch, heads, n, _ = shape
    size = dtype.itemsize
    holder = _TensorMap()
    offset = -ctypes.addressof(holder) % 64
    raw = (ctypes.c_ubyte * 128).from_buffer(holder, offset)
    dims = (ctypes.c_uint64 * 5)(64, n, D // 64, heads, batch)
    steps = (ctypes.c_uint64 * 4)(strides[2] * size, 64 * size, strides[1] * size, strides[0] * size)
    nvrtc.check(nvrtc.driver().cuTensorMapEncodeTiled(
        raw, _TYPES[dtype], 5, ctypes.c_void_p(address), dims, steps, (ctypes.c_uint32 * 5)(*box, 1, 1),
        (ctypes.c_uint32 * 5)(1, 1, 1, 1, 1), 0, _SWIZZLE_128B, _PROMOTE_256B, 0,
    ))  # fmt: skip
    return raw


@functools.cache
def _function(bfloat: bool, partial: bool, cluster: int, device: int) -> nvrtc.Function:
    code = nvrtc.compile_source(source(), "sm_90a", defines(bfloat, partial, cluster))
    return nvrtc.Function(code, "attention", SHARED)
