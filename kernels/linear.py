"""Linear attention: cost and memory grow with the number of tokens, not with its square.

Katharopoulos et al., "Transformers are RNNs" (arXiv 2006.16236); the causal form in blocks, with decay, is that of Qin
et al., "Lightning Attention-2" (arXiv 2401.04658): products inside a block are taken as they stand, everything before
it enters through one D x Dv state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .call import DTYPES
from .engine import full_precision
from .fused import without_triton

BLOCK = 64
"""Tokens whose pairwise products are formed."""
MOST_PRODUCTS = 2**22
"""Pairwise products that are held at once, over all batches and heads; blocks are batched up to here."""
Direction = Literal["both", "forward", "backward"]


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    decay: float | Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """out_i = sum_j w_ij v_j with w_ij = q_i · k_j, over all j, or over j <= i with w_ij = decay^(i - j) q_i · k_j.

    There is no softmax, no scale and no feature map: q and k are taken as given. Apply one before (relu, elu + 1, ...)
    where weights are to be positive. Sums and states are held in float32 (float64 for float64 inputs).

    Args:
        q: (B, H, Nq, D), float16, bfloat16, float32 or float64.
        k: (B, H, Nk, D), of the same dtype; Nk = Nq if causal.
        v: (B, H, Nk, Dv).
        causal: token i sees tokens 0 to i.
        decay: what a weight is multiplied by with every token of distance, in (0, 1]: one number, or a tensor (H,) that
            gets no gradient. None is 1. Only if causal.
        normalize: divide row i by sum_j w_ij, so that weights add up to 1; this wants weights that don't cancel out, as
            those of positive features. A row whose sum is exactly 0 is zero.

    Returns:
        (B, H, Nq, Dv) in the dtype of q; differentiable in memory linear in N, any number of times, but once where the
        Triton kernel takes the call: half precision, as many queries as keys, sizes up to 128, on an Ampere or newer
        NVIDIA GPU, and with `normalize` only where no gradient is wanted.

    Raises:
        TypeError: dtypes, or arguments that aren't tensors.
        ValueError: shapes, devices, or a decay out of range; the sentence names the values.

    >>> import torch
    >>> q = torch.rand(1, 2, 100, 8)
    >>> linear_attention(q, q, q, causal=True, decay=0.9).shape
    torch.Size([1, 2, 100, 8])
    """
    _check(q, k, v, causal)
    rates = _log_decay(decay, q, causal)
    direction: Direction = "forward" if causal else "both"
    if _fused(q, k, v, rates) and not (normalize and _needs_grad(q, k, v)):
        from .gpu import linear as fused

        rate = None if rates is None else _on_device(rates, decay, q.device)
        return (fused.divided if normalize else fused.summed)(q, k, v, rate, causal=causal)
    if not normalize:
        return _apply(q, k, v, rates, direction).to(q.dtype)
    # a column of ones among the values becomes the sum of the weights
    made = _apply(q, k, torch.cat([v, v.new_ones(()).expand(*v.shape[:3], 1)], -1), rates, direction)
    values, sums = made[..., :-1], made[..., -1:]
    empty = sums == 0
    return (values / sums.masked_fill(empty, 1)).masked_fill(empty, 0).to(q.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"Expected {name} to be a tensor, but got {type(tensor).__name__}.")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}"
    if any(t.ndim != 4 for t in (q, k, v)):
        raise ValueError(f"Expected q, k and v of shape (B, H, N, D), but got {shapes}.")
    if not q.shape[:2] == k.shape[:2] == v.shape[:2] or q.shape[3] != k.shape[3] or k.shape[2] != v.shape[2]:
        raise ValueError(
            "Expected one batch size, one number of heads, q and k of one head size and as many keys as values, "
            f"but got {shapes}."
        )
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError(f"Expected as many queries as keys with causal=True, but got {shapes}.")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        raise TypeError(
            "Expected q, k and v of one dtype out of float16, bfloat16, float32 and float64, "
            f"but got q {q.dtype}, k {k.dtype} and v {v.dtype}."
        )
    if not q.device == k.device == v.device:
        raise ValueError(
            f"Expected q, k and v on one device, but got q on {q.device}, k on {k.device} and v on {v.device}."
        )


def _log_decay(decay: float | Tensor | None, q: Tensor, causal: bool) -> Tensor | None:
    """(H,) float64 logarithms, or None where nothing decays."""
    if decay is None:
        return None
    if not causal:
        raise ValueError(f"Expected decay only with causal=True, but got decay={decay!r} and causal=False.")
    if isinstance(decay, (int, float)):
        if not 0 < decay <= 1:
            raise ValueError(f"Expected decay in (0, 1], but got {decay}.")
        return torch.full((), math.log(decay), dtype=torch.float64, device="cpu").expand(q.shape[1])
    if isinstance(decay, Tensor) and decay.requires_grad:
        raise ValueError("Expected a decay without gradient, but got one that requires it.")
    decay = decay.cpu() if isinstance(decay, Tensor) else decay  # some devices have no float64
    rates = torch.as_tensor(decay, dtype=torch.float64, device="cpu")
    if rates.ndim > 1 or (rates.ndim == 1 and len(rates) != q.shape[1]):
        raise ValueError(
            f"Expected decay to be a number or of shape ({q.shape[1]},), one a head, but got {tuple(rates.shape)}."
        )
    if not bool(((rates > 0) & (rates <= 1)).all()):
        raise ValueError(f"Expected decay in (0, 1], but got {rates.tolist()}.")
    return rates.log().expand(q.shape[1])


def _on_device(rates: Tensor, decay: float | Tensor | None, device: torch.device) -> Tensor:
    """(H,) float32 logarithms to base 2. Those of numbers are kept, as a copy makes the host wait for the GPU."""
    if isinstance(decay, (int, float)) and not torch.is_inference_mode_enabled():
        return _of_number(float(decay), len(rates), device)
    return (rates / math.log(2)).to(device=device, dtype=torch.float32).contiguous()


@functools.lru_cache(maxsize=64)
def _of_number(decay: float, heads: int, device: torch.device) -> Tensor:
    return torch.full((heads,), math.log2(decay), dtype=torch.float32, device=device)


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _fused(q: Tensor, k: Tensor, v: Tensor, rates: Tensor | None) -> bool:
    """Whether `kernels.gpu.linear` takes the call."""
    return (
        q.is_cuda
        and not torch.version.hip
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape == k.shape
        and q.numel() * v.numel() > 0
        and max(q.shape[3], v.shape[3]) <= 128
        and (rates is None or float(rates.min()) > -80)  # below, a decay is 0 in float32
        and without_triton(q.device) is None
        and not torch.compiler.is_compiling()
    )


def _apply(q: Tensor, k: Tensor, v: Tensor, rates: Tensor | None, direction: Direction) -> Tensor:
    made: Any = _Linear.apply(q, k, v, rates, direction)
    return made


class _Linear(torch.autograd.Function):
    """The sums, not divided, in the dtype of sums. Each gradient is the same sum with its operands in other places."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rates: Tensor | None, direction: Direction) -> Tensor:
        ctx.save_for_backward(q, k, v, rates)
        ctx.direction = direction
        with full_precision(q.device):
            return _both(q, k, v) if direction == "both" else _one_way(q, k, v, rates, reverse=direction == "backward")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad: Tensor = grads[0]
        q, k, v, rates = ctx.saved_tensors
        way: Direction = ctx.direction
        turned: dict[Direction, Direction] = {"both": "both", "forward": "backward", "backward": "forward"}
        wanted = ctx.needs_input_grad
        dq = _apply(grad, v, k, rates, way).to(q.dtype) if wanted[0] else None
        dk = _apply(v, grad, q, rates, turned[way]).to(k.dtype) if wanted[1] else None
        dv = _apply(k, q, grad, rates, turned[way]).to(v.dtype) if wanted[2] else None
        return dq, dk, dv, None, None


def _sum_dtype(*tensors: Tensor) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _spans(total: int, step: int, reverse: bool = False) -> Iterator[slice]:
    starts = range(0, total, step)
    for start in reversed(starts) if reverse else starts:
        yield slice(start, min(start + step, total))


def _both(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    dtype, (batch, heads, _, size) = _sum_dtype(q, k, v), q.shape
    step = _step(batch * heads) * BLOCK
    state = torch.zeros(batch, heads, size, v.shape[3], dtype=dtype, device=q.device)
    for span in _spans(k.shape[2], step):
        state += k[:, :, span].to(dtype).transpose(2, 3) @ v[:, :, span].to(dtype)
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=dtype, device=q.device)
    for span in _spans(q.shape[2], step):
        out[:, :, span] = q[:, :, span].to(dtype) @ state
    return out


def _one_way(q: Tensor, k: Tensor, v: Tensor, rates: Tensor | None, *, reverse: bool) -> Tensor:
    """Tokens see themselves and those before, or, in reverse, those after."""
    dtype, (batch, heads, tokens, size) = _sum_dtype(q, k, v), q.shape
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=dtype, device=q.device)
    state = torch.zeros(batch, heads, size, v.shape[3], dtype=dtype, device=q.device)
    together = _step(batch * heads)
    blocks = Blocks.of(min(together, tokens // BLOCK), rates, heads, reverse, dtype, q.device)
    rest = tokens % BLOCK
    # whole blocks many at a time, then what is left as one short block; in reverse from the other end
    spans = list(_spans(tokens - rest, together * BLOCK))
    if rest:
        spans.append(slice(tokens - rest, tokens))
    for span in reversed(spans) if reverse else spans:
        length = span.stop - span.start
        count, block = max(1, length // BLOCK), min(length, BLOCK)
        parts = [t[:, :, span].to(dtype).unflatten(2, (count, block)) for t in (q, k, v)]
        factors = blocks if (count, block) == (blocks.count, blocks.block) else blocks.resized(count, block)
        made, state = factors.step(parts[0], parts[1], parts[2], state)
        out[:, :, span] = made.flatten(2, 3)
    return out


def _step(heads: int) -> int:
    """How many blocks go together."""
    return max(1, min(64, MOST_PRODUCTS // (max(heads, 1) * BLOCK * BLOCK)))


@dataclass(frozen=True)
class Blocks:
    """Powers of the decay for `count` blocks of `block` tokens in one direction of time."""

    count: int
    block: int
    rates: Tensor | None
    heads: int
    reverse: bool
    dtype: torch.dtype
    device: torch.device
    inside: Tensor
    """(H, block, block): factor of each pair of tokens in a block, 0 where the key comes later."""
    leaving: Tensor
    """(H, block, 1): from a token to the end of its block."""
    entering: Tensor
    """(H, block, 1): from the end of the block before to a token."""
    between: Tensor
    """(H, count + 1, count + 1): from the end of each block (the state from before first) to that of each other."""

    @classmethod
    def of(
        cls, count: int, rates: Tensor | None, heads: int, reverse: bool, dtype: torch.dtype, device: torch.device
    ) -> Blocks:
        return cls._made(max(count, 1), BLOCK, rates, heads, reverse, dtype, device)

    def resized(self, count: int, block: int) -> Blocks:
        return self._made(count, block, self.rates, self.heads, self.reverse, self.dtype, self.device)

    @classmethod
    def _made(
        cls,
        count: int,
        block: int,
        rates: Tensor | None,
        heads: int,
        reverse: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Blocks:
        logs = torch.zeros(heads, dtype=torch.float64, device="cpu") if rates is None else rates
        token = torch.arange(block, device="cpu")
        age = token.flip(0) if reverse else token  # position in the direction of time
        order = torch.arange(count + 1, device="cpu")

        def power(steps: Tensor) -> Tensor:
            """decay^steps, 0 for negative steps; (H, *steps.shape)."""
            made = (logs.view(-1, *[1] * steps.ndim) * steps.clamp(min=0)).exp()
            return made.masked_fill(steps < 0, 0).to(device, dtype)

        return cls(
            count, block, rates, heads, reverse, dtype, device,
            inside=power(age[:, None] - age),
            leaving=power(block - 1 - age)[..., None],
            entering=power(age + 1)[..., None],
            between=power((order[:, None] - order) * block),
        )  # fmt: skip

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, H, count, block, Dv) and the state at the end, given that of before."""
        products = (q @ k.transpose(-1, -2)).mul_(self.inside[:, None])
        out = products @ v
        gained = (k * self.leaving[:, None]).transpose(-1, -2) @ v
        if self.reverse:
            gained = gained.flip(2)
        states = torch.cat([state[:, :, None], gained], 2).flatten(3)
        states = (self.between @ states).unflatten(3, state.shape[2:])
        before = states[:, :, :-1].flip(2) if self.reverse else states[:, :, :-1]
        out += (q * self.entering[:, None]) @ before
        return out, states[:, :, -1].contiguous()
