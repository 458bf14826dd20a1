"""Run with TRITON_INTERPRET=1 by test_interpreted.py: every Triton kernel against float64, on the CPU, at small N.

float16 alone: the interpreter multiplies bfloat16 wrongly (triton-lang/triton#11584). Exits 1 and says where an error
is above the tolerance; float16 results of such products are off by about 3e-4.
"""

from __future__ import annotations

import math
import sys

import torch

from kernels.gpu import linear, split_d
from kernels.gpu.config import BackwardConfig, Config

TOLERANCE = 6e-4
ROWS = 75  # of linear attention: two segments of 64


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = q.double() @ k.double().mT * scale
    if is_causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    return scores.softmax(-1) @ v.double(), scores.logsumexp(-1)


def exact_linear(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, decay: torch.Tensor | None
) -> torch.Tensor:
    at = torch.arange(q.shape[2], dtype=torch.float64)
    gap = at[:, None] - at[None, :]
    base = torch.ones(q.shape[1], dtype=torch.float64) if decay is None else decay.double()
    fade = base[:, None, None] ** gap.abs()
    return (q @ k.mT * (fade * (gap >= 0) if causal else fade)) @ v


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def draw(*shape: int, transposed: bool = False) -> torch.Tensor:
    """Random float16 (B, H, N, D); transposed as a projection leaves it, (B, N, H, D) in memory."""
    b, h, n, d = shape
    return torch.randn(b, n, h, d).half().transpose(1, 2) if transposed else torch.randn(b, h, n, d).half()


def softmax_errors() -> dict[str, float]:
    # heads, tails, chunks, slices, splits with empty parts, both loops, descriptors, negative scale, odd strides
    plans = [
        (1, 2, 40, 70, 40, False, 0.2, Config(32, 32, 32, 32, 4, 2), True),
        (2, 1, 35, 35, 80, True, 0.1, Config(32, 32, 64, 64, 4, 2, single_loop=False), True),
        (1, 1, 20, 70, 160, False, 0.1, Config(32, 16, 32, 128, 4, 2, splits=3), True),
        (1, 1, 20, 40, 512, False, -0.05, Config(32, 32, 64, 256, 4, 2), True),
        (1, 1, 20, 70, 512, False, 0.05, Config(32, 32, 512, 256, 4, 2, splits=2, variant="descriptor"), False),
        (1, 2, 64, 64, 64, True, 0.1, Config(32, 32, 64, 64, 4, 2, splits=2, variant="descriptor"), True),
    ]
    found = {}
    for b, h, nq, nk, d, is_causal, scale, config, back in plans:
        q, k, v = draw(b, h, nq, d, transposed=True), draw(b, h, nk, d), draw(b, h, nk, d, transposed=True)
        out, lse = split_d.forward(q, k, v, scale=scale, is_causal=is_causal, config=config)
        wanted, wanted_lse = exact(q, k, v, scale, is_causal)
        name = f"D {d} {config.variant} {config.splits}"
        found[name] = error(out, wanted)
        found[f"{name} lse"] = float((lse.double() - wanted_lse).abs().max())
        if back:
            grad = draw(b, h, nq, d)
            leaves = [t.double().requires_grad_() for t in (q, k, v)]
            exact(leaves[0], leaves[1], leaves[2], scale, is_causal)[0].backward(grad.double())
            whole = 1 << (d.bit_length() - 1)
            tile = Config(32, 32, min(whole, 64), min(whole, 128) if d == 512 else whole, 4, 1)
            got = split_d.backward(
                grad,
                q,
                k,
                v,
                out,
                lse,
                scale=scale,
                is_causal=is_causal,
                config=BackwardConfig(tile, tile, together=d != 160),
            )
            for letter, mine, leaf in zip("qkv", got, leaves, strict=True):
                assert leaf.grad is not None
                found[f"{name} d{letter}"] = error(mine, leaf.grad)
    return found


def linear_errors() -> dict[str, float]:
    found = {}
    plans = [
        (2, 32, 48, True, True, 64),
        (1, 40, 32, False, False, 64),
        (1, 32, 32, False, True, 64),
        (1, 32, 32, True, False, 256),
    ]
    for h, d, e, causal, fading, segment in plans:
        linear.segment_length = lambda *_, rows=segment: rows  # several segments at a size the interpreter can do
        decay = torch.tensor([0.9, 0.99][:h]) if fading else None
        made = [draw(1, h, ROWS, w, transposed=True) for w in (d, d, e, e)]
        mine = [t.clone().requires_grad_() for t in made[:3]]
        leaves = [t.double().requires_grad_() for t in made[:3]]
        out = linear.linear_attention(mine[0], mine[1], mine[2], causal=causal, decay=decay)
        out.backward(made[3])
        wanted = exact_linear(leaves[0], leaves[1], leaves[2], causal, decay)
        wanted.backward(made[3].double())
        name = f"linear {d} {e} {causal} {fading}"
        found[name] = error(out.detach(), wanted.detach())
        for letter, a, b in zip("qkv", mine, leaves, strict=True):
            assert a.grad is not None and b.grad is not None
            found[f"{name} d{letter}"] = error(a.grad, b.grad)
        if causal or decay is None:
            a, b, ones = made[0].abs(), made[1].abs(), torch.ones(1, h, ROWS, 1, dtype=torch.float64)
            over = exact_linear(a.double(), b.double(), ones, causal, decay)
            found[f"{name} normalized"] = error(
                linear.normalized(a, b, made[2], causal=causal, decay=decay),
                exact_linear(a.double(), b.double(), made[2].double(), causal, decay) / over,
            )
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    errors = softmax_errors() | linear_errors()
    bad = {name: value for name, value in errors.items() if not value < TOLERANCE}
    sys.stdout.write("".join(f"{name}: {value:.2e}\n" for name, value in errors.items()))
    sys.exit(1 if bad else 0)
