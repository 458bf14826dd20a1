"""Random calls of `attention`, of `linear_attention` and of every GPU kernel that takes them, against float64.

    python -m benchmarks.attention_fuzz [--calls 2000 --first 0 --device cuda --json FILE]
    compute-sanitizer --error-exitcode 9 python -m benchmarks.attention_fuzz --calls 60 --kernels      on a GPU

Shapes, strides, dtypes, masks, windows, scales and budgets are drawn from the call's number. A result is wrong if its
largest error is above 1.5 times that of PyTorch's own attention on the same input plus one rounding of the largest
output, or if it isn't finite. In float32, PyTorch's error is its largest with the keys, and the columns of q and k, in
either order, which changes nothing but its roundings: one draw of them says too little where there are few outputs;
and two roundings are added, as no wider type holds the sums.
Every input lies between NaNs, so that a read outside shows in the result, and is compared with its copy afterwards.
`--kernels` leaves the dispatcher out. The host waits for every launch: a crash is told of the call that made it.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_LAUNCH_BLOCKING", "1")  # before torch is imported

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.table import Figure, add_json, finish
from kernels import attention, explain, linear_attention

HEADS = (40, 64, 80, 128, 160, 512)
HALF = (torch.float16, torch.bfloat16)


class Inputs:
    """Tensors of one call, each inside a larger one that is NaN elsewhere."""

    def __init__(self, seed: int, device: str) -> None:
        self.rng, self.device = random.Random(seed), device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.held: list[tuple[Tensor, Tensor]] = []

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype, layout: str, positive: bool = False) -> Tensor:
        """(B, H, N, D) normal numbers, or their absolute values, laid out in memory as `layout` says."""
        b, h, n, d = shape
        stored = {"tokens first": (b, n, h, d), "columns": (b, h, d, n), "every other": (b, h, 2 * n, 2 * d)}
        size = stored.get(layout, shape)
        data = torch.randn(size, generator=self.generator, device=self.device)
        count = data.numel()
        around = torch.full((count + 512,), torch.nan, dtype=dtype, device=self.device)
        # kernels that want 16-byte rows get them in most calls
        start = 256 + self.rng.choice((0, 0, 0, 1))
        around[start : start + count] = (data.abs() if positive else data).to(dtype).flatten()
        made = around[start : start + count].view(size)
        if layout == "tokens first":
            made = made.transpose(1, 2)
        elif layout == "columns":
            made = made.transpose(2, 3)
        elif layout == "every other":
            hidden = torch.ones(size, dtype=torch.bool, device=self.device)
            hidden[:, :, ::2, ::2] = False
            made.masked_fill_(hidden, torch.nan)
            made = made[:, :, ::2, ::2]
        self.held.append((around, around.clone()))
        return made

    def unchanged(self) -> bool:
        """Whether no kernel wrote into an input or the NaNs around it."""
        return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in self.held)


def visible(grid: tuple[int, int], radius: tuple[int, int], wrap: str, device: str) -> Tensor:
    """(N, N) bool: which keys a query sees in a window, pair by pair."""
    seen = torch.ones((), dtype=torch.bool, device=device)
    token = torch.arange(grid[0] * grid[1], device=device)
    rows, columns = token // grid[1], token % grid[1]
    for place, size, reach, axis in ((rows, grid[0], radius[0], "y"), (columns, grid[1], radius[1], "x")):
        distance = (place[:, None] - place).abs()
        if axis in wrap:
            distance = torch.minimum(distance, size - distance)
        seen = seen & (distance <= reach)
    return seen


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """float64; rows that see no key are zero. `mask` is added to the scores."""
    scores = q.double() @ k.double().mT * scale
    if mask is not None:
        scores = scores + mask
    empty = scores.isneginf().all(-1, keepdim=True)
    return scores.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0) @ v.double()


def off(made: Tensor, right: Tensor) -> float:
    """Largest difference; infinite where the result is not finite."""
    if made.shape != right.shape or not bool(made.isfinite().all()):
        return float("inf")
    return float((made.double() - right).abs().max()) if made.numel() else 0.0


def error_of_pytorch(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, right: Tensor, *, fused: bool = True
) -> float:
    """PyTorch's largest error over its plain arithmetic and, if `fused`, what it takes by itself; in float32 over both
    orders of keys and of columns. `mask` is added to the scores; rows that see no key don't count.

    It gets plain copies: its GPU kernels crash on values that aren't aligned, refuse masks whose last dimension is
    broadcast, and answer NaN to a scale below 0.
    """
    b, h, nq, nk = *q.shape[:3], k.shape[2]
    seen = torch.ones((), dtype=torch.bool, device=q.device) if mask is None else ~mask.isneginf().all(-1, keepdim=True)
    added = None if mask is None else mask.to(q.dtype).expand(b, h, nq, nk)
    most = 0.0
    for takes_by_itself in (False, True) if fused and scale > 0 else (False,):
        for turned in ((), (2,), (3,), (2, 3)) if q.dtype == torch.float32 else ((),):
            parts = [q.flip([d for d in turned if d == 3]), k.flip(turned), v.flip([d for d in turned if d == 2])]
            parts = [t.clone(memory_format=torch.contiguous_format) for t in parts]
            order = None if added is None else (added.flip(3) if 2 in turned else added).contiguous()
            with nullcontext() if takes_by_itself else sdpa_kernel(SDPBackend.MATH):
                theirs = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], order, scale=scale)
            wrong_by = (theirs.double() - right).masked_fill(~seen, 0).nan_to_num(0.0, 0.0, 0.0)
            most = max(most, float(wrong_by.abs().max()))
    return most


def softmax_call(seed: int, device: str, kernels_only: bool) -> Iterator[tuple[str, float, float]]:
    """(what ran, its error, the bound) for one random call."""
    made = Inputs(seed, device)
    rng = made.rng
    d = rng.choice((*HEADS, *HEADS, 1, 3, 8, 24, 96, 256))
    large = d == 512 and rng.random() < 0.4 and not kernels_only
    b, h = (1, 1) if large else rng.choice(((1, 1), (1, 3), (2, 2), (2, 5)))
    nq = rng.randint(4096, 4300) if large else rng.randint(1, 400)
    nk = rng.randint(4096, 4300) if large else rng.choice((1, 7, 77, rng.randint(1, 900)))
    dtype = rng.choice(HALF) if large or kernels_only else rng.choice((*HALF, *HALF, torch.float32, torch.float64))
    scale = rng.choice((d**-0.5, d**-0.5, 0.2 * d**-0.5, -0.5 * d**-0.5))
    kind = rng.choice(("none", "none", "none", "causal", "causal", "bool", "additive", "window"))
    if kernels_only and kind not in ("none", "causal"):
        kind = "none"
    window: Any = None
    kwargs: dict[str, Any] = {}
    if kind == "window" and not large:
        grid = (rng.randint(1, 20), rng.randint(1, 20))
        nq = nk = grid[0] * grid[1]
        window, wrap = (grid, (rng.randint(0, 6), rng.randint(0, 6))), rng.choice(("none", "x", "y", "xy"))
        kwargs = {"window": window, "wrap": wrap}
    layouts = ("plain", "tokens first") if kernels_only else ("plain", "tokens first", "columns", "every other")
    q, k, v = (made.tensor((b, h, n, d), dtype, rng.choice(layouts)) for n in (nq, nk, nk))
    mask: Tensor | None = None
    if kind == "bool" or kind == "additive":
        shape = tuple(n if rng.random() < 0.6 else 1 for n in (b, h, nq, nk))
        drawn = torch.rand(shape, generator=made.generator, device=device)
        given = drawn < rng.choice((0.1, 0.7)) if kind == "bool" else (drawn * 6 - 3).to(dtype)
        kwargs["mask"] = given
        mask = torch.zeros(shape, dtype=torch.float64, device=device)
        mask = mask.masked_fill(~given, -torch.inf) if kind == "bool" else given.double()
    elif kind == "causal":
        kwargs["is_causal"] = True
        mask = torch.full((nq, nk), -torch.inf, dtype=torch.float64, device=device).triu(1)
    elif window is not None:
        seen = visible(window[0], window[1], kwargs["wrap"].replace("none", ""), device)
        mask = torch.zeros(seen.shape, dtype=torch.float64, device=device).masked_fill(~seen, -torch.inf)
    right = exact(q, k, v, scale, mask)
    # its flash kernel for split keys writes out of bounds, which the sanitizer would report (torch 2.11)
    apart = error_of_pytorch(q, k, v, mask, scale, right, fused=not kernels_only)
    rounding = 1e-13 if dtype == torch.float64 else torch.finfo(dtype).eps
    rounding *= 2 if dtype == torch.float32 else 1
    bound = 1.5 * apart + rounding * float(right.abs().max())
    if not kernels_only:
        budget = rng.choice((None, None, 2_000_000, 600_000))
        path = explain(q, k, v, scale=scale, **kwargs, budget_bytes=budget).path
        yield f"attention, {path}", off(attention(q, k, v, scale=scale, **kwargs, budget_bytes=budget), right), bound
    if device == "cuda" and kind in ("none", "causal") and dtype in HALF and d in HEADS:
        for name, run in kernels(q, k, v, scale, kind == "causal", rng):
            yield name, off(run(), right), bound
    if not made.unchanged():
        yield "an input was written to", float("inf"), 0.0


def kernels(
    q: Tensor, k: Tensor, v: Tensor, scale: float, is_causal: bool, rng: random.Random
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The GPU kernels that take a call, whether the dispatcher would prefer them or not."""
    from kernels.gpu import hopper, split_d, turing

    if q.shape[3] == 512 and not is_causal and scale > 0 and hopper.supports(q, k, v):
        splits = rng.choice((None, 1, 2, 3)) if k.shape[2] >= 256 else None
        yield "hopper", lambda: hopper.forward(q, k, v, scale=scale, splits=splits)[0]
    yield "triton", lambda: split_d.forward(q, k, v, scale=scale, is_causal=is_causal)[0]
    if q.dtype == torch.float16 and turing.usable(q.device.index or 0, q.shape[3]):
        yield "turing", lambda: turing.forward(q, k, v, scale=scale, is_causal=is_causal)[0]


def linear_call(seed: int, device: str) -> Iterator[tuple[str, float, float]]:
    """The same of `linear_attention`; bounds follow the dtype, as PyTorch has nothing to compare with."""
    made = Inputs(seed, device)
    rng = made.rng
    b, h, n = rng.choice((1, 2)), rng.choice((1, 3)), rng.randint(1, 1500)
    d, e = rng.choice((16, 32, 40, 64, 128)), rng.choice((16, 32, 64, 80, 128))
    dtype = rng.choice(HALF)
    layout = rng.choice(("plain", "tokens first"))
    q, k = (made.tensor((b, h, n, d), dtype, layout, positive=True) for _ in "qk")
    v = made.tensor((b, h, n, e), dtype, layout)
    causal, normalize = rng.random() < 0.6, rng.random() < 0.6
    decay = rng.choice((None, 0.9, 0.999)) if causal else None
    weights = q.double() @ k.double().mT
    if causal:
        token = torch.arange(n, device=device)
        gap = token[:, None] - token
        weights = weights * ((decay or 1.0) ** gap.clamp(min=0).double()).masked_fill(gap < 0, 0)
    right = weights @ v.double()
    if normalize:
        right = right / weights.sum(-1, keepdim=True)
    out = linear_attention(q, k, v, causal=causal, decay=decay, normalize=normalize)
    bound = 4 * torch.finfo(dtype).eps * max(1.0, float(right.abs().max()))
    name = f"linear {'causal' if causal else 'both ways'}{', normalized' if normalize else ''}"
    if not normalize and dtype == torch.float16 and float(right.abs().max()) > 6e4:
        return  # beyond what float16 holds
    yield name, off(out, right), bound
    if not made.unchanged():
        yield "an input was written to", float("inf"), 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kernels", action="store_true", help="the GPU kernels alone, without the dispatcher")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this long")
    add_json(parser)
    args = parser.parse_args()
    ran: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    calls, began = 0, time.perf_counter()
    with torch.no_grad():
        for seed in range(args.first, args.first + args.calls):
            if time.perf_counter() - began > 60 * args.minutes:
                break
            call = linear_call(seed, args.device) if seed % 8 == 7 else softmax_call(seed, args.device, args.kernels)
            try:
                for name, error, bound in call:
                    ran[name] += 1
                    if not error <= bound:
                        wrong.append(f"call {seed}, {name}: error {error:.3g}, bound {bound:.3g}")
                        print(wrong[-1], flush=True)
            except RuntimeError as error:  # a kernel that crashed: nothing runs in this process any more
                wrong.append(f"call {seed}: {str(error).splitlines()[0]}")
                print(wrong[-1], flush=True)
                break
            calls += 1
            if calls % 100 == 0:
                print(f"{calls} calls, {time.perf_counter() - began:.0f} s", flush=True)
    figures = [
        Figure(name="calls", value=calls),
        Figure(name="wrong results", value=len(wrong), bar=0),
        *(Figure(name=f"{name}: results", value=count) for name, count in sorted(ran.items())),
    ]
    return finish("attention_fuzz", figures, Path(args.json) if args.json else None, {"wrong": wrong})


if __name__ == "__main__":
    raise SystemExit(main())
