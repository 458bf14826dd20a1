"""Triton kernels of the exact attention forward: a head is a power of two plus a tail, so 40, 80 and 160 are 32 + 8,
64 + 16 and 128 + 32 instead of being padded to the next power of two, and 512 goes through in one pass.

Online softmax as in FlashAttention-2 (Dao 2023, algorithm 1), in base 2. `split_d.py` launches these.
"""

# Triton's compiler, not Python's rules, gives these functions their types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl

SIZES = ("n_heads", "n_queries", "n_keys", "batch_heads", "splits", "n", "segments", "size")
"""Arguments that Triton must not make constants of where they are 1: that would run kernels that no test compiled. With
one key it was a kernel that reads a register which nothing wrote (ptxas of Triton 3.6, sm_90, heads of 40 and 80)."""


@triton.jit
def row_tile(base, start, limit, col, stride_n, stride_d, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
             VALID: tl.constexpr, MASK_ROWS: tl.constexpr):
    """Rows [start, start + BLOCK) and columns [col, col + WIDTH) of a matrix with `limit` rows; zero where the row is
    outside (if MASK_ROWS) or past the first VALID columns."""
    rows = tl.arange(0, BLOCK)
    cols = tl.arange(0, WIDTH)
    at = base + tl.cast(start, tl.int64) * stride_n + col * stride_d
    at = at + rows[:, None] * stride_n + cols[None, :] * stride_d
    if MASK_ROWS and VALID < WIDTH:
        return tl.load(at, mask=(start + rows < limit)[:, None] & (cols < VALID)[None, :], other=0.0)
    elif MASK_ROWS:
        return tl.load(at, mask=(start + rows < limit)[:, None], other=0.0)
    elif VALID < WIDTH:
        return tl.load(at, mask=(cols < VALID)[None, :], other=0.0)
    else:
        return tl.load(at)


@triton.jit
def store_tile(base, tile, start, limit, col, stride_n, stride_d, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
               VALID: tl.constexpr):
    """Writes the first VALID columns of the rows of `tile` that lie inside a matrix with `limit` rows."""
    rows = tl.arange(0, BLOCK)
    cols = tl.arange(0, WIDTH)
    at = base + tl.cast(start, tl.int64) * stride_n + col * stride_d
    at = at + rows[:, None] * stride_n + cols[None, :] * stride_d
    tl.store(at, tile, mask=(start + rows < limit)[:, None] & (cols < VALID)[None, :])


@triton.jit
def product_over_d(a0, a1, A, B, start_a, start_b, limit_a, limit_b, stride_an, stride_ad, stride_bn, stride_bd,
                   BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, D: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr,
                   CHUNK: tl.constexpr, MASK_A: tl.constexpr, MASK_B: tl.constexpr):
    """A[rows] @ B[rows]^T, float32. `a0`, `a1` are A's parts where they stay on chip (CHUNK == P0); else A is
    re-read."""
    if CHUNK == P0:
        b0 = row_tile(B, start_b, limit_b, 0, stride_bn, stride_bd, BLOCK_B, P0, P0, MASK_B)
        # Both parts are read before the first product: with a read between two products, Triton 3.6 on sm_90 gives the
        # second tile the shared memory that the first product still reads (wrong tails for D = 40 and 160, H200).
        if P1 > 0:
            b1 = row_tile(B, start_b, limit_b, P0, stride_bn, stride_bd, BLOCK_B, P1, D - P0, MASK_B)
            s = tl.dot(a1, tl.trans(b1), input_precision="ieee")
            s = tl.dot(a0, tl.trans(b0), s, input_precision="ieee")
        else:
            s = tl.dot(a0, tl.trans(b0), input_precision="ieee")
    else:
        s = tl.zeros([BLOCK_A, BLOCK_B], tl.float32)
        for col in range(0, P0, CHUNK):
            a = row_tile(A, start_a, limit_a, col, stride_an, stride_ad, BLOCK_A, CHUNK, CHUNK, MASK_A)
            b = row_tile(B, start_b, limit_b, col, stride_bn, stride_bd, BLOCK_B, CHUNK, CHUNK, MASK_B)
            s = tl.dot(a, tl.trans(b), s, input_precision="ieee")
        if P1 > 0:
            a = row_tile(A, start_a, limit_a, P0, stride_an, stride_ad, BLOCK_A, P1, D - P0, MASK_A)
            b = row_tile(B, start_b, limit_b, P0, stride_bn, stride_bd, BLOCK_B, P1, D - P0, MASK_B)
            s = tl.dot(a, tl.trans(b), s, input_precision="ieee")
    return s


@triton.jit
def softmax_step(s, top, total, qk_scale, start_m, start_n, n_keys, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                 CAUSAL: tl.constexpr, MASKED: tl.constexpr):
    """One tile of scores into the running maximum and sum: (p, top, total, factor for what was accumulated before)."""
    if MASKED:
        keys = start_n + tl.arange(0, BLOCK_N)
        keep = (keys < n_keys)[None, :]
        if CAUSAL:
            keep = keep & (start_m + tl.arange(0, BLOCK_M)[:, None] >= keys[None, :])
        s = tl.where(keep, s, float("-inf"))
    new_top = tl.maximum(top, tl.max(s, 1) * qk_scale)
    # a row with no key yet has the maximum -inf, and -inf - -inf is not a number
    if MASKED:  # noqa: SIM108  # Triton compiles one branch of this, and both of an expression
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    else:
        shift = new_top
    p = tl.math.exp2(s * qk_scale - shift[:, None])
    factor = tl.math.exp2(top - shift)
    return p, new_top, total * factor + tl.sum(p, 1), factor


@triton.jit
def _key_range(start_m, split, splits, n_keys, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr):
    """(first key, end of the keys that need no mask, end): multiples of BLOCK_N but for the last."""
    per_split = tl.cdiv(tl.cdiv(n_keys, BLOCK_N), splits) * BLOCK_N
    first = split * per_split
    end = tl.minimum(first + per_split, n_keys)
    if CAUSAL:
        end = tl.minimum(end, start_m + BLOCK_M)
        clear = tl.minimum(end, (start_m // BLOCK_N) * BLOCK_N)
    else:
        clear = end
    clear = first + (tl.maximum(clear - first, 0) // BLOCK_N) * BLOCK_N
    return first, clear, end


@triton.jit
def attend(acc0, acc1, top, total, q0, q1, Q, K, V, start_m, start_n, n_queries, n_keys, col, qk_scale, stride_qn,
    stride_qd,
           stride_kn, stride_kd, stride_vn, stride_vd, D: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr,
           CHUNK: tl.constexpr, SLICE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
           MASKED: tl.constexpr):
    """Adds one tile of keys to the accumulators."""
    s = product_over_d(q0, q1, Q, K, start_m, start_n, n_queries, n_keys, stride_qn, stride_qd, stride_kn, stride_kd,
                       BLOCK_M, BLOCK_N, D, P0, P1, CHUNK, True, MASKED)
    p, top, total, factor = softmax_step(s, top, total, qk_scale, start_m, start_n, n_keys, BLOCK_M, BLOCK_N, CAUSAL,
                                         MASKED)
    v = row_tile(V, start_n, n_keys, col, stride_vn, stride_vd, BLOCK_N, SLICE, SLICE, MASKED)
    p = p.to(v.dtype)
    if P1 > 0:
        tail = row_tile(V, start_n, n_keys, P0, stride_vn, stride_vd, BLOCK_N, P1, D - P0, MASKED)
        acc1 = tl.dot(p, tail, acc1 * factor[:, None], input_precision="ieee")
    acc0 = tl.dot(p, v, acc0 * factor[:, None], input_precision="ieee")
    return acc0, acc1, top, total


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    Q, K, V, OUT, LSE,
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_os, stride_ob, stride_oh, stride_on, stride_od,
    n_heads, n_queries, n_keys, batch_heads, splits, qk_scale,
    D: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, CHUNK: tl.constexpr, SLICE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, SINGLE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program: BLOCK_M queries of one head against one split of its keys, for one SLICE of the output's columns.

    SINGLE masks every tile of keys, which saves registers; otherwise only the tiles at the edges, in a loop of their
    own.
    OUT is (splits, B, H, N, D) and LSE (splits, B, H, N) with natural logarithms; an empty split writes 0 and -inf.
    """
    program = tl.program_id(0)
    slices: tl.constexpr = P0 // SLICE
    m_blocks = tl.cdiv(n_queries, BLOCK_M)
    col = (program % slices) * SLICE
    program = program // slices
    start_m = (program % m_blocks) * BLOCK_M
    program = program // m_blocks
    split = program % splits
    head = program // splits
    b = tl.cast(head // n_heads, tl.int64)
    h = tl.cast(head % n_heads, tl.int64)
    Q += b * stride_qb + h * stride_qh
    K += b * stride_kb + h * stride_kh
    V += b * stride_vb + h * stride_vh

    q0 = 0.0
    q1 = 0.0
    if CHUNK == P0:
        q0 = row_tile(Q, start_m, n_queries, 0, stride_qn, stride_qd, BLOCK_M, P0, P0, True)
        if P1 > 0:
            q1 = row_tile(Q, start_m, n_queries, P0, stride_qn, stride_qd, BLOCK_M, P1, D - P0, True)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc0 = tl.zeros([BLOCK_M, SLICE], tl.float32)
    acc1 = 0.0
    if P1 > 0:
        acc1 = tl.zeros([BLOCK_M, P1], tl.float32)

    first, clear, end = _key_range(start_m, split, splits, n_keys, BLOCK_M, BLOCK_N, CAUSAL)
    if SINGLE:
        clear = first
    for start_n in range(first, clear, BLOCK_N):
        acc0, acc1, top, total = attend(
            acc0, acc1, top, total, q0, q1, Q, K, V, start_m, start_n, n_queries, n_keys, col, qk_scale, stride_qn,
                stride_qd,
            stride_kn, stride_kd, stride_vn, stride_vd, D, P0, P1, CHUNK, SLICE, BLOCK_M, BLOCK_N, CAUSAL, False)
    for start_n in tl.range(clear, end, BLOCK_N, num_stages=STAGES if SINGLE else 1):
        acc0, acc1, top, total = attend(
            acc0, acc1, top, total, q0, q1, Q, K, V, start_m, start_n, n_queries, n_keys, col, qk_scale, stride_qn,
                stride_qd,
            stride_kn, stride_kd, stride_vn, stride_vd, D, P0, P1, CHUNK, SLICE, BLOCK_M, BLOCK_N, CAUSAL, True)

    inverse = tl.where(total > 0, 1.0 / total, tl.where(total == 0, 0.0, total))
    OUT += tl.cast(split, tl.int64) * stride_os + b * stride_ob + h * stride_oh
    store_tile(OUT, (acc0 * inverse[:, None]).to(OUT.dtype.element_ty), start_m, n_queries, col, stride_on, stride_od,
               BLOCK_M, SLICE, SLICE)
    if P1 > 0:
        store_tile(OUT, (acc1 * inverse[:, None]).to(OUT.dtype.element_ty), start_m, n_queries, P0, stride_on,
            stride_od,
                   BLOCK_M, P1, D - P0)
    if col == 0:
        rows = start_m + tl.arange(0, BLOCK_M)
        lse = (top + tl.math.log2(total)) * 0.6931471805599453
        LSE += (tl.cast(split, tl.int64) * batch_heads + head) * n_queries
        tl.store(LSE + rows, lse, mask=rows < n_queries)


@triton.jit(do_not_specialize=SIZES)
def descriptor_kernel(
    Q, K, V, OUT, LSE, stride_on, n_heads, n_queries, n_keys, batch_heads, splits, qk_scale,
    D: tl.constexpr, SLICE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):
    """`forward_kernel` for D a power of two and 16-byte aligned rows, read through tensor descriptors (TMA on sm_90).

    Q, K and V are descriptors over (B, H, N, D); OUT is contiguous (splits, B, H, N, D).
    """
    program = tl.program_id(0)
    slices: tl.constexpr = D // SLICE
    m_blocks = tl.cdiv(n_queries, BLOCK_M)
    col = (program % slices) * SLICE
    program = program // slices
    start_m = (program % m_blocks) * BLOCK_M
    program = program // m_blocks
    split = program % splits
    head = program // splits
    b = head // n_heads
    h = head % n_heads

    q = Q.load([b, h, start_m, 0]).reshape(BLOCK_M, D)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SLICE], tl.float32)
    first, _, end = _key_range(start_m, split, splits, n_keys, BLOCK_M, BLOCK_N, CAUSAL)
    for start_n in range(first, end, BLOCK_N):  # descriptors read zeros outside: the mask is on the scores alone
        k = K.load([b, h, start_n, 0]).reshape(BLOCK_N, D)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        p, top, total, factor = softmax_step(s, top, total, qk_scale, start_m, start_n, n_keys, BLOCK_M, BLOCK_N,
            CAUSAL,
                                             True)
        v = V.load([b, h, start_n, col]).reshape(BLOCK_N, SLICE)
        acc = tl.dot(p.to(v.dtype), v, acc * factor[:, None], input_precision="ieee")

    inverse = tl.where(total > 0, 1.0 / total, tl.where(total == 0, 0.0, total))
    rows = start_m + tl.arange(0, BLOCK_M)
    place = (tl.cast(split, tl.int64) * batch_heads + head) * n_queries
    OUT += place * stride_on
    store_tile(OUT, (acc * inverse[:, None]).to(OUT.dtype.element_ty), start_m, n_queries, col, stride_on, 1, BLOCK_M,
               SLICE, SLICE)
    if col == 0:
        lse = (top + tl.math.log2(total)) * 0.6931471805599453
        tl.store(LSE + place + rows, lse, mask=rows < n_queries)


@triton.jit(do_not_specialize=SIZES)
def merge_kernel(
    PART, PART_LSE, OUT, LSE, stride_ob, stride_oh, stride_on, stride_od, n_heads, n_queries, batch_heads,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):
    """Merges float32 results of key splits by their log-sum-exp: sum of exp(lse_i - lse) out_i."""
    blocks = tl.cdiv(n_queries, ROWS)
    program = tl.program_id(0)
    head = program // blocks
    rows = (program % blocks) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, WIDTH)
    inside = rows < n_queries
    keep = inside[:, None] & (cols < D)[None, :]
    row = tl.cast(head, tl.int64) * n_queries + rows
    part = tl.cast(batch_heads, tl.int64) * n_queries
    top = tl.full([ROWS], float("-inf"), tl.float32)
    for i in tl.static_range(SPLITS):
        top = tl.maximum(top, tl.load(PART_LSE + i * part + row, mask=inside, other=0.0))
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for i in tl.static_range(SPLITS):
        weight = tl.exp(tl.load(PART_LSE + i * part + row, mask=inside, other=0.0) - top)
        total += weight
        acc += tl.load(PART + (i * part + row)[:, None] * D + cols[None, :], mask=keep, other=0.0) * weight[:, None]
    b = tl.cast(head // n_heads, tl.int64)
    h = tl.cast(head % n_heads, tl.int64)
    at = OUT + b * stride_ob + h * stride_oh + tl.cast(rows, tl.int64)[:, None] * stride_on + cols[None, :] * stride_od
    tl.store(at, (acc / total[:, None]).to(OUT.dtype.element_ty), mask=keep)
    tl.store(LSE + row, top + tl.log(total), mask=inside)
