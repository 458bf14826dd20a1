"""Checks every GPU kernel of `kernels/gpu` against float64 on the GPU at hand, then times heads of 512 and the rest.

    python -m benchmarks.attention_gpu_check [--out FILE] [--only hopper,triton,...]

Each section runs in a process of its own with a time limit, so that a kernel that hangs costs that section alone.
Prints
as it goes; under four minutes on one H100. Errors are the norm of the difference over the norm of the float64 result,
beside that of torch's own kernel on the same input.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from kernels.gpu import tiles
from kernels.gpu.config import HEAD_SIZES, Config

# name: seconds it may take
SECTIONS = {
    "hopper": 60,
    "hopper_times": 80,
    "triton": 150,
    "triton_times": 100,
    "turing": 60,
    "linear": 90,
    "backward": 100,
}
ROWS = (4096, 16384, 65536, 262144)
Made = tuple[torch.Tensor, torch.Tensor]


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, is_causal: bool) -> Made:
    """float64 on the GPU, a block of queries at a time."""
    outs, sums = [], []
    keys, values = k.double(), v.double()
    for start in range(0, q.shape[2], 1024):
        scores = q[:, :, start : start + 1024].double() @ keys.mT * scale
        if is_causal:
            rows = torch.arange(start, start + scores.shape[2], device=q.device)
            scores = scores.masked_fill(torch.arange(k.shape[2], device=q.device) > rows[:, None], -math.inf)
        outs.append(scores.softmax(-1) @ values)
        sums.append(scores.logsumexp(-1))
    return torch.cat(outs, 2), torch.cat(sums, 2)


def off(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def draw(*shape: int, dtype: torch.dtype = torch.float16, transposed: bool = False) -> torch.Tensor:
    b, h, n, d = shape
    if transposed:
        return torch.randn(b, n, h, d, device="cuda", dtype=dtype).transpose(1, 2)
    return torch.randn(b, h, n, d, device="cuda", dtype=dtype)


def compare(
    name: str,
    run: Callable[..., Made],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    is_causal: bool = False,
    limit: float = 1.5,
) -> dict[str, Any]:
    """Runs twice, against float64 and against torch; prints a line."""
    try:
        out, lse = run(q, k, v, scale)
        again, _ = run(q, k, v, scale)
        torch.cuda.synchronize()
    except Exception as error:  # one broken case must not hide the others
        print(f"  FAIL {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        return {"case": name, "ok": False, "why": str(error)[:300]}
    wanted, wanted_lse = exact(q, k, v, scale, is_causal)
    theirs = off(F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=is_causal), wanted)
    ours, ours_lse = off(out, wanted), float((lse.double() - wanted_lse).abs().max())
    same = bool(torch.equal(out, again))
    ok = ours <= limit * theirs and ours_lse < 2e-3 and same
    print(
        f"  {'ok  ' if ok else 'FAIL'} {name}: error {ours:.2e} (torch {theirs:.2e}), lse {ours_lse:.1e}"
        f"{'' if same else ', two runs differ'}",
        flush=True,
    )
    return {"case": name, "ok": ok, "error": ours, "torch": theirs, "lse": ours_lse, "same": same}


def median_ms(run: Callable[[], Any], budget: float = 1.0) -> float:
    """Median of events; at least 3 runs, as many as fit `budget` seconds, at most 20."""
    run()
    torch.cuda.synchronize()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (len(times) < 20 and time.perf_counter() - began < budget):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def timed(name: str, run: Callable[[], Any], flops: float, beside: float | None = None) -> dict[str, Any]:
    try:
        ms = median_ms(run)
    except Exception as error:
        print(f"  FAIL {name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return {"case": name, "ok": False, "why": str(error)[:200]}
    rate = flops / ms / 1e9
    print(
        f"  {name}: {ms:.3f} ms, {rate:.0f} TFLOP/s" + (f", {beside / ms:.2f} times torch" if beside else ""),
        flush=True,
    )
    return {"case": name, "ms": ms, "tflops": rate, "ratio": beside / ms if beside else None}


def hopper_section() -> Iterator[dict[str, Any]]:
    from kernels.gpu import hopper

    # which part is wrong, if one is: values alone, then scores alone
    ramp = torch.arange(512, device="cuda", dtype=torch.float16).expand(1, 1, 64, 512).contiguous()
    keys = (
        torch.arange(64, device="cuda", dtype=torch.float16)[:, None]
        .expand(64, 512)
        .reshape(1, 1, 64, 512)
        .contiguous()
    )
    zero = torch.zeros(1, 1, 64, 512, device="cuda", dtype=torch.float16)
    out, _ = hopper.forward(zero, zero, ramp, scale=1.0, splits=1)
    bad = (out[0, 0] - ramp[0, 0]).abs() > 0.5
    print(
        f"  columns land where they belong: {not bool(bad.any())}; first 16 of row 0: {out[0, 0, 0, :16].tolist()}; "
        f"columns that do not: {bad.any(0).nonzero().flatten()[:16].tolist()}",
        flush=True,
    )
    out, _ = hopper.forward(zero, zero, keys, scale=1.0, splits=1)
    print(
        f"  every key counts once: {bool((out - 31.5).abs().max() < 0.1)}; {out.min().item()} to {out.max().item()}",
        flush=True,
    )
    one_hot = torch.zeros_like(zero)
    one_hot[0, 0, torch.arange(64), torch.arange(64) * 8] = 16.0
    out, _ = hopper.forward(one_hot, one_hot, keys, scale=1.0, splits=1)
    wanted = torch.arange(64, device="cuda")
    print(
        f"  query i finds key i: {bool((out[0, 0, :, 0].float() - wanted).abs().max() < 0.1)}; "
        f"{[round(x) for x in out[0, 0, :64:4, 0].tolist()]}",
        flush=True,
    )

    def run(splits: int | None) -> Callable[..., Made]:
        return lambda q, k, v, s: hopper.forward(q, k, v, scale=s, splits=splits)

    shapes = [
        (1, 1, 128, 64),
        (1, 1, 64, 128),
        (1, 1, 128, 1024),
        (1, 1, 1, 77),
        (2, 3, 200, 333),
        (1, 1, 1000, 31),
        (1, 1, 4096, 4096),
    ]
    for dtype in (torch.float16, torch.bfloat16):
        for b, h, nq, nk in shapes:
            for splits in (1, 3, None):
                if splits == 3 and nk < 333:
                    continue
                q, k, v = (draw(b, h, n, 512, dtype=dtype, transposed=h > 1) for n in (nq, nk, nk))
                yield compare(f"hopper {dtype} {b}x{h}x{nq}x{nk} splits {splits}", run(splits), q, k, v, 512**-0.5)
    q, k, v = (draw(1, 1, 1000, 512) for _ in "qkv")
    yield compare(
        "hopper, no cluster", lambda q, k, v, s: hopper.forward(q, k, v, scale=s, cluster=1), q, k, v, 512**-0.5
    )
    q, k, v = (draw(1, 1, 700, 512) * 4 for _ in "qkv")
    yield compare("hopper, peaked softmax", run(None), q, k, v, 512**-0.5)
    yield compare("hopper, negative scale", run(None), q, k, v, -0.01)


def hopper_times_section() -> Iterator[dict[str, Any]]:
    from kernels.gpu import hopper

    for n in ROWS:
        q, k, v = (draw(1, 1, n, 512) for _ in "qkv")
        flops = 4 * n * n * 512
        theirs = median_ms(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v), 0.5)
        for splits, cluster in ((1, 2), (2, 2), (2, 1)) if n == 4096 else ((1, 2), (1, 1)):
            yield timed(
                f"hopper N {n} splits {splits} cluster {cluster}",
                lambda q=q, k=k, v=v, s=splits, c=cluster: hopper.forward(
                    q, k, v, scale=512**-0.5, splits=s, cluster=c
                ),
                flops,
                theirs,
            )


def triton_section() -> Iterator[dict[str, Any]]:
    from kernels.gpu import split_d

    arch = split_d.arch_of(torch.device("cuda"))

    def run(config: Config | None, is_causal: bool) -> Callable[..., Made]:
        return lambda q, k, v, s: split_d.forward(q, k, v, scale=s, is_causal=is_causal, config=config)

    for d in HEAD_SIZES:
        for is_causal, splits, (b, h, nq, nk) in (
            (False, 1, (2, 4, 1000, 777)),
            (True, 1, (1, 2, 1000, 1000)),
            (False, 3, (1, 1, 130, 4001)),
        ):
            q, k, v = (draw(b, h, n, d, transposed=True) for n in (nq, nk, nk))
            config = replace(tiles.defaults(arch, d), splits=splits)
            yield compare(
                f"triton D {d} causal {is_causal} splits {splits}", run(config, is_causal), q, k, v, d**-0.5, is_causal
            )
        q, k, v = (draw(1, 2, n, d, dtype=torch.bfloat16) for n in (500, 600, 600))
        yield compare(f"triton D {d} bfloat16, picked", run(None, False), q, k, v, d**-0.5)
    if arch == "sm_90":
        for config in tiles.HOPPER_VARIANTS:
            q, k, v = (draw(1, 1, n, 512) for n in (1000, 3001, 3001))
            yield compare(f"triton {config}", run(config, False), q, k, v, 512**-0.5)


def triton_times_section() -> Iterator[dict[str, Any]]:
    from kernels.gpu import split_d

    arch = split_d.arch_of(torch.device("cuda"))
    for n in ROWS[:3]:
        q, k, v = (draw(1, 1, n, 512) for _ in "qkv")
        theirs = median_ms(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v), 0.5)
        for config in tiles.HOPPER_VARIANTS if arch == "sm_90" else (tiles.defaults(arch, 512),):
            config = replace(config, splits=2 if n == 4096 else 1)
            yield timed(
                f"triton N {n} {config}",
                lambda q=q, k=k, v=v, c=config: split_d.forward(q, k, v, scale=512**-0.5, config=c),
                4 * n * n * 512,
                theirs,
            )
    for b, h, n, d in ((2, 8, 4096, 40), (2, 8, 16384, 40), (2, 8, 16384, 80), (2, 8, 4096, 160), (2, 5, 16384, 64)):
        q, k, v = (draw(b, h, n, d) for _ in "qkv")
        theirs = median_ms(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v), 0.3)
        yield timed(
            f"triton {b}x{h}x{n}x{d}",
            lambda q=q, k=k, v=v, d=d: split_d.forward(q, k, v, scale=d**-0.5),
            4 * b * h * n * n * d,
            theirs,
        )


def turing_section() -> Iterator[dict[str, Any]]:
    from kernels.gpu import turing

    for d in turing.PLANS:
        for is_causal, (b, h, nq, nk) in ((False, (2, 3, 1000, 777)), (True, (1, 2, 517, 517)), (False, (1, 1, 3, 5))):
            q, k, v = (draw(b, h, n, d, transposed=True) for n in (nq, nk, nk))
            yield compare(
                f"turing D {d} causal {is_causal}",
                lambda q, k, v, s, c=is_causal: turing.forward(q, k, v, scale=s, is_causal=c),
                q,
                k,
                v,
                d**-0.5,
                is_causal,
            )
        print(f"  usable on this card: {turing.usable(torch.cuda.current_device(), d)}", flush=True)
        q, k, v = (draw(1, 8 if d < 512 else 1, 4096, d) for _ in "qkv")
        yield timed(
            f"turing D {d} N 4096, on this card",
            lambda q=q, k=k, v=v, d=d: turing.forward(q, k, v, scale=d**-0.5),
            4 * q.shape[1] * 4096 * 4096 * d,
        )


def linear_section() -> Iterator[dict[str, Any]]:
    from kernels.gpu import linear

    def exact_linear(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, decay: torch.Tensor | None
    ) -> torch.Tensor:
        at = torch.arange(q.shape[2], dtype=torch.float64, device="cuda")
        gap = at[:, None] - at[None, :]
        base = torch.ones(q.shape[1], dtype=torch.float64, device="cuda") if decay is None else decay.double()
        fade = base[:, None, None] ** gap.abs()
        return (q @ k.mT * (fade * (gap >= 0) if causal else fade)) @ v

    decay = torch.tensor([0.9, 0.99, 0.999, 1.0], device="cuda")
    for dtype in (torch.float16, torch.bfloat16):
        for d, e, n, causal, fading in (
            (128, 128, 2048, True, True),
            (64, 64, 1000, True, False),
            (40, 80, 777, True, True),
            (128, 128, 2048, False, False),
            (32, 64, 1500, False, True),
        ):
            made = [draw(1, 4, n, w, dtype=dtype, transposed=True) for w in (d, d, e, e)]
            rate = decay if fading else None
            mine = [t.clone().requires_grad_() for t in made[:3]]
            leaves = [t.double().requires_grad_() for t in made[:3]]
            name = f"linear {dtype} {d} {e} {n} causal {causal} decay {fading}"
            try:
                out = linear.linear_attention(mine[0], mine[1], mine[2], causal=causal, decay=rate)
                out.backward(made[3])
            except Exception as error:
                print(f"  FAIL {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                yield {"case": name, "ok": False, "why": str(error)[:300]}
                continue
            wanted = exact_linear(leaves[0], leaves[1], leaves[2], causal, rate)
            wanted.backward(made[3].double())
            errors = [off(out, wanted)] + [
                off(a.grad, b.grad)
                for a, b in zip(mine, leaves, strict=True)
                if a.grad is not None and b.grad is not None
            ]
            ok = max(errors) < (1e-3 if dtype == torch.float16 else 8e-3)
            print(f"  {'ok  ' if ok else 'FAIL'} {name}: {', '.join(f'{x:.1e}' for x in errors)}", flush=True)
            yield {"case": name, "ok": ok, "errors": errors}
    per_token = {}
    for n in (8192, 32768, 524288):
        q, k, v = (draw(1, 8, n, 128) for _ in "qkv")
        per_token[n] = median_ms(lambda q=q, k=k, v=v: linear.linear_attention(q, k, v, causal=True)) / n * 1e6
        print(
            f"  linear causal 1x8x{n}x128: {per_token[n] * n / 1e6:.3f} ms, {per_token[n]:.3f} ns a token", flush=True
        )
    q, k, v = (draw(1, 8, 32768, 128) for _ in "qkv")
    theirs = median_ms(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    print(
        f"  per token 512k over 8k: {per_token[524288] / per_token[8192]:.2f}; causal SDPA at 32k over ours: "
        f"{theirs / (per_token[32768] * 32768 / 1e6):.1f}",
        flush=True,
    )
    yield {"case": "linear times", "per_token_ns": per_token, "sdpa_32k_ms": theirs}


def backward_section() -> Iterator[dict[str, Any]]:
    from kernels.gpu import split_d

    for d in HEAD_SIZES:
        for is_causal, (b, h, nq, nk) in ((False, (1, 2, 500, 333)), (True, (1, 2, 400, 400))):
            q, k, v, grad = (draw(b, h, n, d, transposed=True) for n in (nq, nk, nk, nq))
            leaves = [t.double().requires_grad_() for t in (q, k, v)]
            exact(leaves[0], leaves[1], leaves[2], d**-0.5, is_causal)[0].backward(grad.double())
            name = f"backward D {d} causal {is_causal}"
            try:
                out, lse = split_d.forward(q, k, v, scale=d**-0.5, is_causal=is_causal)
                made = split_d.backward(grad, q, k, v, out, lse, scale=d**-0.5, is_causal=is_causal)
                errors = [off(a, b.grad) for a, b in zip(made, leaves, strict=True) if b.grad is not None]
            except Exception as error:
                print(f"  FAIL {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                yield {"case": name, "ok": False, "why": str(error)[:300]}
                continue
            ok = max(errors) < 1.5e-3
            print(f"  {'ok  ' if ok else 'FAIL'} {name}: {', '.join(f'{x:.1e}' for x in errors)}", flush=True)
            yield {"case": name, "ok": ok, "errors": errors}
    q, k, v, grad = (draw(1, 1, 16384, 512) for _ in "qkvg")
    out, lse = split_d.forward(q, k, v, scale=512**-0.5)
    yield timed(
        "backward N 16384 D 512",
        lambda: split_d.backward(grad, q, k, v, out, lse, scale=512**-0.5),
        10 * 16384 * 16384 * 512,
    )


def run_section(name: str, out: Path) -> None:
    torch.manual_seed(0)
    results = []
    for result in globals()[f"{name}_section"]():
        results.append(result)
        out.write_text(json.dumps(results))  # what was found survives a hang


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write all results here as JSON")
    parser.add_argument("--only", help="sections, comma-separated: " + ", ".join(SECTIONS))
    parser.add_argument("--section", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        run_section(arguments.section, arguments.out)
        return 0
    if not torch.cuda.is_available():
        print("Expected a CUDA device, but torch sees none.", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    wanted = arguments.only.split(",") if arguments.only else list(SECTIONS)
    everything: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            print(f"{name}:", flush=True)
            file, began = Path(folder) / f"{name}.json", time.perf_counter()
            command = [sys.executable, "-m", "benchmarks.attention_gpu_check", "--section", name, "--out", str(file)]
            try:
                ended = subprocess.run(
                    command, timeout=SECTIONS[name], env=os.environ | {"PYTHONUNBUFFERED": "1"}
                ).returncode
            except subprocess.TimeoutExpired:
                ended = -1
                print(f"  FAIL {name}: not done after {SECTIONS[name]} s", flush=True)
            found = json.loads(file.read_text()) if file.is_file() else []
            everything[name] = found
            bad = sum(not case.get("ok", True) for case in found) + (ended != 0)
            failed += bad
            print(f"  {len(found)} cases, {bad} failed, {time.perf_counter() - began:.0f} s", flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(everything, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
