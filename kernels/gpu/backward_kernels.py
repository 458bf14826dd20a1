"""Triton kernels of the exact attention backward: probabilities are recomputed from the log-sum-exp, tile by tile, so
no N x N buffer exists (FlashAttention-2, Dao 2023, algorithm 2). No atomics: the same inputs give the same bits.

Heads are split as in `forward_kernels.py`. At D = 512 each program owns one SLICE of the columns of its gradients and
recomputes the scores, since two accumulators of the full width do not fit the registers.
"""

# Triton's compiler, not Python's rules, gives these functions their types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.forward_kernels import SIZES, product_over_d, row_tile, store_tile


@triton.jit(do_not_specialize=SIZES)
def delta_kernel(
    DOUT, OUT, DELTA,
    stride_gb, stride_gh, stride_gn, stride_gd,
    stride_ob, stride_oh, stride_on, stride_od,
    n_heads, n_queries, D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):
    """DELTA (B, H, N) = sum over d of DOUT OUT, float32."""
    blocks = tl.cdiv(n_queries, ROWS)
    program = tl.program_id(0)
    head = program // blocks
    start = (program % blocks) * ROWS
    b = tl.cast(head // n_heads, tl.int64)
    h = tl.cast(head % n_heads, tl.int64)
    g = row_tile(DOUT + b * stride_gb + h * stride_gh, start, n_queries, 0, stride_gn, stride_gd, ROWS, WIDTH, D, True)
    o = row_tile(OUT + b * stride_ob + h * stride_oh, start, n_queries, 0, stride_on, stride_od, ROWS, WIDTH, D, True)
    rows = start + tl.arange(0, ROWS)
    tl.store(DELTA + tl.cast(head, tl.int64) * n_queries + rows, tl.sum(g.to(tl.float32) * o.to(tl.float32), 1),
             mask=rows < n_queries)


@triton.jit(do_not_specialize=SIZES)
def key_value_kernel(
    Q, K, V, DOUT, LSE, DELTA, DK, DV,
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_gb, stride_gh, stride_gn, stride_gd,
    n_heads, n_queries, n_keys, scale,
    D: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, CHUNK: tl.constexpr, SLICE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
    KEYS: tl.constexpr, VALUES: tl.constexpr,
):
    """One program: the gradients of BLOCK_N keys (if KEYS) and values (if VALUES), one SLICE of columns.

    DK and DV are contiguous. Two launches, one for each, need fewer registers and one more product.
    """
    program = tl.program_id(0)
    slices: tl.constexpr = P0 // SLICE
    n_blocks = tl.cdiv(n_keys, BLOCK_N)
    col = (program % slices) * SLICE
    program = program // slices
    start_n = (program % n_blocks) * BLOCK_N
    head = program // n_blocks
    b = tl.cast(head // n_heads, tl.int64)
    h = tl.cast(head % n_heads, tl.int64)
    Q += b * stride_qb + h * stride_qh
    K += b * stride_kb + h * stride_kh
    V += b * stride_vb + h * stride_vh
    DOUT += b * stride_gb + h * stride_gh
    LSE += tl.cast(head, tl.int64) * n_queries
    DELTA += tl.cast(head, tl.int64) * n_queries

    k0 = 0.0
    k1 = 0.0
    v0 = 0.0
    v1 = 0.0
    if CHUNK == P0:
        k0 = row_tile(K, start_n, n_keys, 0, stride_kn, stride_kd, BLOCK_N, P0, P0, True)
        if KEYS:
            v0 = row_tile(V, start_n, n_keys, 0, stride_vn, stride_vd, BLOCK_N, P0, P0, True)
        if P1 > 0:
            k1 = row_tile(K, start_n, n_keys, P0, stride_kn, stride_kd, BLOCK_N, P1, D - P0, True)
            if KEYS:
                v1 = row_tile(V, start_n, n_keys, P0, stride_vn, stride_vd, BLOCK_N, P1, D - P0, True)
    dk0 = 0.0
    dk1 = 0.0
    dv0 = 0.0
    dv1 = 0.0
    if KEYS:
        dk0 = tl.zeros([BLOCK_N, SLICE], tl.float32)
        if P1 > 0:
            dk1 = tl.zeros([BLOCK_N, P1], tl.float32)
    if VALUES:
        dv0 = tl.zeros([BLOCK_N, SLICE], tl.float32)
        if P1 > 0:
            dv1 = tl.zeros([BLOCK_N, P1], tl.float32)

    first = 0
    if CAUSAL:
        first = (start_n // BLOCK_M) * BLOCK_M
    keys = start_n + tl.arange(0, BLOCK_N)
    for start_m in range(first, n_queries, BLOCK_M):
        queries = start_m + tl.arange(0, BLOCK_M)
        # +inf outside: those queries get the probability 0
        lse = tl.load(LSE + queries, mask=queries < n_queries, other=float("inf"))
        s = product_over_d(k0, k1, K, Q, start_n, start_m, n_keys, n_queries, stride_kn, stride_kd, stride_qn,
            stride_qd,
                           BLOCK_N, BLOCK_M, D, P0, P1, CHUNK, True, True)
        p = tl.math.exp2((s * scale - lse[None, :]) * 1.4426950408889634)
        if CAUSAL:
            p = tl.where(queries[None, :] >= keys[:, None], p, 0.0)
        if VALUES:
            g = row_tile(DOUT, start_m, n_queries, col, stride_gn, stride_gd, BLOCK_M, SLICE, SLICE, True)
            if P1 > 0:  # read before the first product, as in `product_over_d`
                tail = row_tile(DOUT, start_m, n_queries, P0, stride_gn, stride_gd, BLOCK_M, P1, D - P0, True)
                dv1 = tl.dot(p.to(g.dtype), tail, dv1, input_precision="ieee")
            dv0 = tl.dot(p.to(g.dtype), g, dv0, input_precision="ieee")
        if KEYS:
            dp = product_over_d(v0, v1, V, DOUT, start_n, start_m, n_keys, n_queries, stride_vn, stride_vd, stride_gn,
                                stride_gd, BLOCK_N, BLOCK_M, D, P0, P1, CHUNK, True, True)
            delta = tl.load(DELTA + queries, mask=queries < n_queries, other=0.0)
            ds = (p * (dp - delta[None, :])).to(Q.dtype.element_ty)
            q = row_tile(Q, start_m, n_queries, col, stride_qn, stride_qd, BLOCK_M, SLICE, SLICE, True)
            if P1 > 0:
                rest = row_tile(Q, start_m, n_queries, P0, stride_qn, stride_qd, BLOCK_M, P1, D - P0, True)
                dk1 = tl.dot(ds, rest, dk1, input_precision="ieee")
            dk0 = tl.dot(ds, q, dk0, input_precision="ieee")

    if KEYS:
        DK += tl.cast(head, tl.int64) * n_keys * D
        store_tile(DK, (dk0 * scale).to(DK.dtype.element_ty), start_n, n_keys, col, D, 1, BLOCK_N, SLICE, SLICE)
        if P1 > 0:
            store_tile(DK, (dk1 * scale).to(DK.dtype.element_ty), start_n, n_keys, P0, D, 1, BLOCK_N, P1, D - P0)
    if VALUES:
        DV += tl.cast(head, tl.int64) * n_keys * D
        store_tile(DV, dv0.to(DV.dtype.element_ty), start_n, n_keys, col, D, 1, BLOCK_N, SLICE, SLICE)
        if P1 > 0:
            store_tile(DV, dv1.to(DV.dtype.element_ty), start_n, n_keys, P0, D, 1, BLOCK_N, P1, D - P0)


@triton.jit(do_not_specialize=SIZES)
def query_kernel(
    Q, K, V, DOUT, LSE, DELTA, DQ,
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_gb, stride_gh, stride_gn, stride_gd,
    n_heads, n_queries, n_keys, scale,
    D: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, CHUNK: tl.constexpr, SLICE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):
    """One program: the gradient of BLOCK_M queries, one SLICE of columns. DQ is contiguous."""
    program = tl.program_id(0)
    slices: tl.constexpr = P0 // SLICE
    m_blocks = tl.cdiv(n_queries, BLOCK_M)
    col = (program % slices) * SLICE
    program = program // slices
    start_m = (program % m_blocks) * BLOCK_M
    head = program // m_blocks
    b = tl.cast(head // n_heads, tl.int64)
    h = tl.cast(head % n_heads, tl.int64)
    Q += b * stride_qb + h * stride_qh
    K += b * stride_kb + h * stride_kh
    V += b * stride_vb + h * stride_vh
    DOUT += b * stride_gb + h * stride_gh
    queries = start_m + tl.arange(0, BLOCK_M)
    at = tl.cast(head, tl.int64) * n_queries + queries
    lse = tl.load(LSE + at, mask=queries < n_queries, other=float("inf"))
    delta = tl.load(DELTA + at, mask=queries < n_queries, other=0.0)

    q0 = 0.0
    q1 = 0.0
    g0 = 0.0
    g1 = 0.0
    if CHUNK == P0:
        q0 = row_tile(Q, start_m, n_queries, 0, stride_qn, stride_qd, BLOCK_M, P0, P0, True)
        g0 = row_tile(DOUT, start_m, n_queries, 0, stride_gn, stride_gd, BLOCK_M, P0, P0, True)
        if P1 > 0:
            q1 = row_tile(Q, start_m, n_queries, P0, stride_qn, stride_qd, BLOCK_M, P1, D - P0, True)
            g1 = row_tile(DOUT, start_m, n_queries, P0, stride_gn, stride_gd, BLOCK_M, P1, D - P0, True)
    dq0 = tl.zeros([BLOCK_M, SLICE], tl.float32)
    dq1 = 0.0
    if P1 > 0:
        dq1 = tl.zeros([BLOCK_M, P1], tl.float32)

    end = n_keys
    if CAUSAL:
        end = tl.minimum(n_keys, start_m + BLOCK_M)
    for start_n in range(0, end, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        s = product_over_d(q0, q1, Q, K, start_m, start_n, n_queries, n_keys, stride_qn, stride_qd, stride_kn,
            stride_kd,
                           BLOCK_M, BLOCK_N, D, P0, P1, CHUNK, True, True)
        keep = (keys < n_keys)[None, :]
        if CAUSAL:
            keep = keep & (queries[:, None] >= keys[None, :])
        p = tl.where(keep, tl.math.exp2((s * scale - lse[:, None]) * 1.4426950408889634), 0.0)
        dp = product_over_d(g0, g1, DOUT, V, start_m, start_n, n_queries, n_keys, stride_gn, stride_gd, stride_vn,
                            stride_vd, BLOCK_M, BLOCK_N, D, P0, P1, CHUNK, True, True)
        ds = (p * (dp - delta[:, None])).to(Q.dtype.element_ty)
        k = row_tile(K, start_n, n_keys, col, stride_kn, stride_kd, BLOCK_N, SLICE, SLICE, True)
        if P1 > 0:
            tail = row_tile(K, start_n, n_keys, P0, stride_kn, stride_kd, BLOCK_N, P1, D - P0, True)
            dq1 = tl.dot(ds, tail, dq1, input_precision="ieee")
        dq0 = tl.dot(ds, k, dq0, input_precision="ieee")

    DQ += tl.cast(head, tl.int64) * n_queries * D
    store_tile(DQ, (dq0 * scale).to(DQ.dtype.element_ty), start_m, n_queries, col, D, 1, BLOCK_M, SLICE, SLICE)
    if P1 > 0:
        store_tile(DQ, (dq1 * scale).to(DQ.dtype.element_ty), start_m, n_queries, P0, D, 1, BLOCK_M, P1, D - P0)
