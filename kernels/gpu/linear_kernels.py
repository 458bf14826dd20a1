"""Triton kernels of linear attention: o_t = q_t sum over s <= t of lambda^(t-s) k_s^T v_s.

Tiles of 64 rows as in Lightning Attention-2 (Qin et al. 2024, arXiv 2401.04658): inside a tile (q k^T masked) v, from
earlier tiles q times the state. The sequence is cut into segments whose states are computed side by side, scanned, and
handed on, so that one head fills a GPU too. States are float32 and grow past float16's range on long sequences: where
one enters a product it is divided by its largest entry, and the product multiplied by it.
"""

# Triton's compiler, not Python's rules, gives these functions their types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.forward_kernels import SIZES, row_tile, store_tile

_TINY: tl.constexpr = tl.constexpr(1e-30)  # the divisor where everything is zero


@triton.jit
def _origin(base, stride_b, stride_h, stride_n, head, n_heads, n, REVERSE: tl.constexpr):
    """(address of the first row in scan order, step between rows): REVERSE walks the sequence backwards."""
    base += tl.cast(head // n_heads, tl.int64) * stride_b + tl.cast(head % n_heads, tl.int64) * stride_h
    step = tl.cast(stride_n, tl.int64)
    if REVERSE:
        base += (n - 1) * step
        step = -step
    return base, step


@triton.jit
def _columns(base, start, n, col, step, stride_d, BLOCK: tl.constexpr, WIDTH: tl.constexpr, E: tl.constexpr):
    """Rows [start, start + BLOCK), columns [col, col + WIDTH) of E; a width that divides E needs no mask on columns."""
    if E % WIDTH == 0:
        return row_tile(base, start, n, col, step, stride_d, BLOCK, WIDTH, WIDTH, True)
    else:
        rows = tl.arange(0, BLOCK)
        cols = col + tl.arange(0, WIDTH)
        at = base + tl.cast(start, tl.int64) * step + rows[:, None] * step + cols[None, :] * stride_d
        return tl.load(at, mask=(start + rows < n)[:, None] & (cols < E)[None, :], other=0.0)


@triton.jit
def _write(base, tile, start, n, col, step, stride_d, BLOCK: tl.constexpr, WIDTH: tl.constexpr, E: tl.constexpr):
    if E % WIDTH == 0:
        store_tile(base, tile, start, n, col, step, stride_d, BLOCK, WIDTH, WIDTH)
    else:
        rows = tl.arange(0, BLOCK)
        cols = col + tl.arange(0, WIDTH)
        at = base + tl.cast(start, tl.int64) * step + rows[:, None] * step + cols[None, :] * stride_d
        tl.store(at, tile, mask=(start + rows < n)[:, None] & (cols < E)[None, :])


@triton.jit
def _update(state, k, v, rate, BLOCK: tl.constexpr):
    """The state after one more tile: state lambda^BLOCK + sum of lambda^(BLOCK - 1 - j) k_j^T v_j."""
    age = (BLOCK - 1 - tl.arange(0, BLOCK)).to(tl.float32)
    faded = (v.to(tl.float32) * tl.math.exp2(rate * age)[:, None]).to(v.dtype)
    return tl.dot(tl.trans(k), faded, state * tl.math.exp2(rate * BLOCK), input_precision="ieee")


@triton.jit
def _update_sum(total, k, rate, BLOCK: tl.constexpr):
    """The decayed sum of the keys after one more tile, as `_update` makes that of k^T v."""
    age = (BLOCK - 1 - tl.arange(0, BLOCK)).to(tl.float32)
    return total * tl.math.exp2(rate * BLOCK) + tl.sum(k.to(tl.float32) * tl.math.exp2(rate * age)[:, None], 0)


@triton.jit
def _over(out, weight):
    """Rows divided by their sums of weights; zero where a sum is exactly 0."""
    empty = weight == 0.0
    return tl.where(empty[:, None], 0.0, out / tl.where(empty, 1.0, weight)[:, None])


@triton.jit
def _times_state(q, state):
    size = tl.maximum(tl.max(tl.max(tl.abs(state), 1), 0), _TINY)
    return tl.dot(q, (state / size).to(q.dtype), input_precision="ieee") * size


@triton.jit(do_not_specialize=SIZES)
def state_kernel(
    K, V, RATE, STATE, TOTAL,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    n_heads, n, segments,
    D: tl.constexpr, E: tl.constexpr, WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr, SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr, REVERSE: tl.constexpr, NORMALIZE: tl.constexpr,
):
    """STATE (B H, segments, D, E) float32: what each segment alone adds, seen from its end. With NORMALIZE also TOTAL
    (B H, segments, D), the same of the keys alone."""
    slices: tl.constexpr = (E + WIDTH_E - 1) // WIDTH_E
    program = tl.program_id(0)
    col = (program % slices) * WIDTH_E
    program = program // slices
    segment = program % segments
    head = program // segments
    k_base, k_step = _origin(K, stride_kb, stride_kh, stride_kn, head, n_heads, n, REVERSE)
    v_base, v_step = _origin(V, stride_vb, stride_vh, stride_vn, head, n_heads, n, REVERSE)
    rate = tl.load(RATE + head % n_heads)
    state = tl.zeros([WIDTH_D, WIDTH_E], tl.float32)
    total = tl.zeros([WIDTH_D], tl.float32)
    first = segment * SEGMENT
    for start in range(first, tl.minimum(first + SEGMENT, n), BLOCK):
        k = row_tile(k_base, start, n, 0, k_step, stride_kd, BLOCK, WIDTH_D, D, True)
        v = _columns(v_base, start, n, col, v_step, stride_vd, BLOCK, WIDTH_E, E)
        state = _update(state, k, v, rate, BLOCK)
        if NORMALIZE:
            total = _update_sum(total, k, rate, BLOCK)
    rows = tl.arange(0, WIDTH_D)
    cols = col + tl.arange(0, WIDTH_E)
    if NORMALIZE:  # slices of columns all write the same
        tl.store(TOTAL + tl.cast(program, tl.int64) * D + rows, total, mask=rows < D)
    STATE += tl.cast(program, tl.int64) * D * E
    tl.store(STATE + rows[:, None] * E + cols[None, :], state, mask=(rows < D)[:, None] & (cols < E)[None, :])


@triton.jit(do_not_specialize=SIZES)
def scan_kernel(STATE, RATE, n_heads, segments, size, SEGMENT: tl.constexpr, WIDTH: tl.constexpr):
    """In place: each segment's state becomes the one that enters it."""
    blocks = tl.cdiv(size, WIDTH)
    head = tl.program_id(0) // blocks
    at = (tl.program_id(0) % blocks) * WIDTH + tl.arange(0, WIDTH)
    keep = at < size
    fade = tl.math.exp2(tl.load(RATE + head % n_heads) * SEGMENT)
    STATE += tl.cast(head, tl.int64) * segments * size
    carry = tl.zeros([WIDTH], tl.float32)
    for _ in range(0, segments):
        own = tl.load(STATE + at, mask=keep, other=0.0)
        tl.store(STATE + at, carry, mask=keep)
        carry = carry * fade + own
        STATE += size


@triton.jit(do_not_specialize=SIZES)
def causal_kernel(
    Q, K, V, RATE, STATE, TOTAL, OUT,
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_on, stride_od,
    n_heads, n, segments,
    D: tl.constexpr, E: tl.constexpr, WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr, SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr, REVERSE: tl.constexpr, STRICT: tl.constexpr, NORMALIZE: tl.constexpr,
):
    """One program: one segment of one head, WIDTH_E columns of the output. STRICT leaves out s = t; NORMALIZE divides
    rows by their sums of weights."""
    slices: tl.constexpr = (E + WIDTH_E - 1) // WIDTH_E
    program = tl.program_id(0)
    col = (program % slices) * WIDTH_E
    program = program // slices
    segment = program % segments
    head = program // segments
    q_base, q_step = _origin(Q, stride_qb, stride_qh, stride_qn, head, n_heads, n, REVERSE)
    k_base, k_step = _origin(K, stride_kb, stride_kh, stride_kn, head, n_heads, n, REVERSE)
    v_base, v_step = _origin(V, stride_vb, stride_vh, stride_vn, head, n_heads, n, REVERSE)
    o_base, o_step = _origin(OUT, stride_ob, stride_oh, stride_on, head, n_heads, n, REVERSE)
    rate = tl.load(RATE + head % n_heads)
    rows = tl.arange(0, WIDTH_D)
    cols = col + tl.arange(0, WIDTH_E)
    STATE += tl.cast(program, tl.int64) * D * E
    state = tl.load(STATE + rows[:, None] * E + cols[None, :], mask=(rows < D)[:, None] & (cols < E)[None, :],
        other=0.0)
    # zeros that nobody reads, unless NORMALIZE
    total = tl.load(TOTAL + tl.cast(program, tl.int64) * D + rows, mask=(rows < D) & NORMALIZE, other=0.0)

    at = tl.arange(0, BLOCK)
    gap = (at[:, None] - at[None, :]).to(tl.float32)
    if STRICT:
        fade = tl.where(gap > 0, tl.math.exp2(rate * tl.maximum(gap, 0.0)), 0.0)
    else:
        fade = tl.where(gap >= 0, tl.math.exp2(rate * tl.maximum(gap, 0.0)), 0.0)
    since = tl.math.exp2(rate * (at + 1).to(tl.float32))
    first = segment * SEGMENT
    for start in range(first, tl.minimum(first + SEGMENT, n), BLOCK):
        q = row_tile(q_base, start, n, 0, q_step, stride_qd, BLOCK, WIDTH_D, D, True)
        k = row_tile(k_base, start, n, 0, k_step, stride_kd, BLOCK, WIDTH_D, D, True)
        v = _columns(v_base, start, n, col, v_step, stride_vd, BLOCK, WIDTH_E, E)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * fade
        size = tl.maximum(tl.max(tl.abs(s), 1),
            _TINY)  # sums of products: past float16's range where features are large
        out = tl.dot((s / size[:, None]).to(v.dtype), v, input_precision="ieee") * size[:, None]
        out += _times_state(q, state) * since[:, None]
        state = _update(state, k, v, rate, BLOCK)
        if NORMALIZE:
            out = _over(out, tl.sum(s, 1) + tl.sum(q.to(tl.float32) * total[None, :], 1) * since)
            total = _update_sum(total, k, rate, BLOCK)
        _write(o_base, out.to(OUT.dtype.element_ty), start, n, col, o_step, stride_od, BLOCK, WIDTH_E, E)


@triton.jit(do_not_specialize=SIZES)
def apply_kernel(
    Q, STATE, TOTAL, OUT,
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_ob, stride_oh, stride_on, stride_od,
    n_heads, n,
    D: tl.constexpr, E: tl.constexpr, WIDTH_D: tl.constexpr, WIDTH_E: tl.constexpr, BLOCK: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """OUT = Q STATE with one state (D, E) for each head: the whole of bidirectional attention without decay; with
    NORMALIZE divided by Q TOTAL, TOTAL (B H, D) the sum of the keys."""
    slices: tl.constexpr = (E + WIDTH_E - 1) // WIDTH_E
    program = tl.program_id(0)
    col = (program % slices) * WIDTH_E
    program = program // slices
    blocks = tl.cdiv(n, BLOCK)
    start = (program % blocks) * BLOCK
    head = program // blocks
    q_base, q_step = _origin(Q, stride_qb, stride_qh, stride_qn, head, n_heads, n, False)
    o_base, o_step = _origin(OUT, stride_ob, stride_oh, stride_on, head, n_heads, n, False)
    rows = tl.arange(0, WIDTH_D)
    cols = col + tl.arange(0, WIDTH_E)
    STATE += tl.cast(head, tl.int64) * D * E
    state = tl.load(STATE + rows[:, None] * E + cols[None, :], mask=(rows < D)[:, None] & (cols < E)[None, :],
        other=0.0)
    q = row_tile(q_base, start, n, 0, q_step, stride_qd, BLOCK, WIDTH_D, D, True)
    out = _times_state(q, state)
    if NORMALIZE:
        total = tl.load(TOTAL + tl.cast(head, tl.int64) * D + rows, mask=rows < D, other=0.0)
        out = _over(out, tl.sum(q.to(tl.float32) * total[None, :], 1))
    _write(o_base, out.to(OUT.dtype.element_ty), start, n, col, o_step, stride_od, BLOCK, WIDTH_E, E)
