"""`kernels.attention` beside PyTorch's `scaled_dot_product_attention`: time, memory and error, both sides in one run.

    python -m benchmarks.attention [--device cpu --threads 2 --repeats 6 --only VAE --json FILE]
    python -m benchmarks.attention --device cuda [--repeats 6 --only VAE --json FILE]

Times are medians of `--repeats` turns, the two sides taking turns, in the other order every second time; on a GPU short
calls are queued until a turn takes 20 ms. On the CPU each side's memory is the growth of peak RSS over one call in a
fresh process of its own, and the math backend's is measured beside it; on a GPU it is what the allocator held beyond
inputs and output. Errors are largest differences from float64 over 64 rows of queries.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    from torch import Tensor

# Nothing heavy is imported in the process that starts the others: Linux hands its peak RSS on to them.

LEAST = 0.02
"""Seconds that a turn takes on a GPU at least, so that starting a kernel hides behind the one before."""
SLOWER = 1.03
"""Times within 3 % of each other count as equal."""


@dataclass(frozen=True)
class Shape:
    """Self-attention of (batch, heads, tokens, size); `teraflops` is the bar on a GPU, if there is one."""

    model: str
    batch: int
    heads: int
    tokens: int
    size: int
    dtype: str = "float16"
    teraflops: float | None = None

    @property
    def name(self) -> str:
        return f"{self.model} {self.batch}x{self.heads}x{self.tokens}x{self.size} {self.dtype}"

    @property
    def flops(self) -> int:
        return 4 * self.batch * self.heads * self.tokens**2 * self.size


GPU_SHAPES = (
    Shape("VAE", 1, 1, 4096, 512, teraflops=200),
    Shape("VAE", 1, 1, 16384, 512, teraflops=330),
    Shape("VAE", 1, 1, 65536, 512, teraflops=330),
    Shape("VAE", 1, 1, 262144, 512, teraflops=300),
    Shape("VAE", 1, 1, 16384, 512, "float32"),
    Shape("SD1.5", 2, 8, 4096, 40),
    Shape("SD1.5", 2, 8, 16384, 40),
    Shape("SD1.5", 2, 8, 65536, 40),
    Shape("SD1.5", 2, 8, 16384, 80),
    Shape("SD1.5", 2, 8, 4096, 160),
    Shape("SD2.1", 2, 5, 16384, 64),
    Shape("SDXL", 2, 10, 16384, 64),
)
CPU_SHAPES = (
    Shape("VAE", 1, 1, 8192, 512, "float32"),
    Shape("SD1.5", 2, 8, 1024, 40, "float32"),
    Shape("SD1.5", 2, 8, 1024, 40, "bfloat16"),
)


def inputs(shape: Shape, device: str) -> list[Tensor]:
    """q, k and v, normal, the same on every run."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    size = (shape.batch, shape.heads, shape.tokens, shape.size)
    dtype = getattr(torch, shape.dtype)
    return [torch.randn(size, generator=generator, device=device, dtype=dtype) for _ in range(3)]


def seconds(functions: dict[str, Callable[[], object]], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of a call in every turn, the functions taking turns, after two calls of each."""
    import torch

    def turn(function: Callable[[], object], calls: int) -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            function()
        if device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / calls

    calls = {}
    for name, function in functions.items():
        turn(function, 1)
        calls[name] = 1 if device == "cpu" else max(1, round(LEAST / turn(function, 1)))
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(repeats):  # there and back: whoever comes second finds a warmer chip
        for name, function in list(functions.items())[:: -1 if i % 2 else 1]:
            taken[name].append(turn(function, calls[name]))
    return taken


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attention` by the path of tiles, whichever it would prefer."""
    from kernels.call import checked_call
    from kernels.tiled import TiledPath

    call = checked_call(q, k, v, mask=None, is_causal=False, scale=None, window=None, wrap=None, budget_bytes=None)
    return TiledPath().run(call)


def largest_error(made: Tensor, qkv: Sequence[Tensor], rows: int = 64) -> float:
    """Largest difference from float64 over some rows of queries spread over all."""
    import torch

    q, k, v = qkv
    some = torch.linspace(0, q.shape[2] - 1, min(rows, q.shape[2]), device=q.device).long()
    right = torch.empty_like(made[:, :, some], dtype=torch.float64)
    for b in range(q.shape[0]):  # one head at a time: float64 copies of all keys would not always fit
        for h in range(q.shape[1]):
            scores = q[b, h, some].double() @ k[b, h].double().T / q.shape[3] ** 0.5
            right[b, h] = scores.softmax(-1) @ v[b, h].double()
    return float((made[:, :, some].double() - right).abs().max())


def gpu_bytes(function: Callable[[], Tensor]) -> int:
    """What the allocator held at most beyond what it held before and the output."""
    import torch

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    made = function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - made.numel() * made.itemsize


def compare(shape: Shape, device: str, repeats: int) -> dict[str, Any]:
    """Both sides on one shape: path, seconds, errors, one rounding, and on a GPU bytes beyond inputs and output."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from kernels import attention, explain

    qkv = inputs(shape, device)
    q, k, v = qkv
    functions: dict[str, Callable[[], Any]] = {
        "theirs": lambda: scaled_dot_product_attention(q, k, v),
        "ours": lambda: attention(q, k, v),
    }
    if device == "cpu":
        functions["tiled"] = lambda: tiled(q, k, v)
    with torch.no_grad():
        found: dict[str, Any] = {"path": str(explain(q, k, v)), "seconds": seconds(functions, device, repeats)}
        found["error"] = {name: largest_error(function(), qkv) for name, function in functions.items()}
        found["rounding"] = torch.finfo(q.dtype).eps * float(functions["theirs"]().abs().max())
        if device != "cpu":
            found["bytes"] = {name: gpu_bytes(function) for name, function in functions.items()}
    return found


def figures_of(shape: Shape, device: str, found: dict[str, Any]) -> list[Figure]:
    """Times, rates, ratios and errors with their bars."""
    median = {name: statistics.median(values) for name, values in found["seconds"].items()}
    made = []
    for name in median:
        label = shape.name if name == "ours" else f"{shape.name}, {name}"
        rate = shape.flops / median[name] / 1e12
        bar = shape.teraflops if name == "ours" else None
        made.append(Figure(name=f"{label}: ms", value=1e3 * median[name]))
        made.append(Figure(name=f"{label}: TFLOP/s", value=rate, bar=bar, relation=">="))
        if name == "theirs":
            continue
        ratio = median[name] / median["theirs"]
        slow = SLOWER if name == "ours" and shape.teraflops is None else None
        made.append(Figure(name=f"{label}: time over SDPA's", value=ratio, bar=slow))
        # a rounding of the largest output is no error: below it both are as exact as can be
        error = found["error"][name] / max(found["error"]["theirs"], found["rounding"])
        made.append(Figure(name=f"{label}: error over SDPA's", value=error, bar=1.5))
    if device != "cpu":
        outputs = shape.batch * shape.heads * shape.tokens * shape.size * (4 if shape.dtype == "float32" else 2)
        extra = found["bytes"]["ours"] / (4 * outputs)
        made.append(Figure(name=f"{shape.name}: extra memory over q, k, v and output", value=extra, bar=2.0))
    return made


def linear(device: str, repeats: int, few: int, many: int, against: int) -> tuple[list[Figure], dict[str, Any]]:
    """Causal linear attention, d = 128: time a token at `many` over that at `few`; against causal SDPA. Lightning's
    operator, which divides by nothing, has the bars; the normalized one stands beside it."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from kernels import linear_attention

    dtype = "float32" if device == "cpu" else "bfloat16"
    taken: dict[str, list[float]] = {}
    with torch.no_grad():
        for tokens in sorted({few, many, against}):
            q, k, v = (t.abs() for t in inputs(Shape("linear", 1, 8, tokens, 128, dtype), device))
            functions: dict[str, Callable[[], object]] = {
                f"{name} {tokens}": lambda q=q, k=k, v=v, n=name == "normalized": linear_attention(
                    q, k, v, causal=True, decay=0.999, normalize=n
                )
                for name in ("linear", "normalized")
            }
            if tokens == against:
                functions[f"SDPA {tokens}"] = lambda q=q, k=k, v=v: scaled_dot_product_attention(
                    q, k, v, is_causal=True
                )
            taken |= seconds(functions, device, repeats)
    median = {name: statistics.median(values) for name, values in taken.items()}
    figures = []
    for name in ("linear", "normalized"):
        barred = name == "linear"
        growth = median[f"{name} {many}"] / many / (median[f"{name} {few}"] / few)
        gain = median[f"SDPA {against}"] / median[f"{name} {against}"]
        figures += [
            Figure(name=f"{name}, causal, d = 128: time a token at {many} over {few}", value=growth,
                   bar=1.15 if barred else None),
            Figure(name=f"{name}: times faster than causal SDPA at {against}", value=gain,
                   bar=8.0 if barred and device != "cpu" else None, relation=">="),
        ]  # fmt: skip
    return figures, taken


def streamed(repeats: int, tokens: int, budget: int) -> tuple[list[Figure], dict[str, Any]]:
    """1 x 8 x `tokens` x 64 from pinned memory under a budget, against the same call on resident tensors."""
    import torch

    from kernels import attention

    resident = inputs(Shape("streaming", 1, 8, tokens, 64), "cuda")
    host = [t.cpu().pin_memory() for t in resident]
    with torch.no_grad():
        taken = seconds({"resident": lambda: attention(*resident)}, "cuda", repeats)
        right = attention(*resident).cpu()
        resident.clear()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        taken |= seconds({"streamed": lambda: attention(*host, budget_bytes=budget)}, "cuda", repeats)
        most = torch.cuda.max_memory_allocated() - before
        difference = float((attention(*host, budget_bytes=budget) - right).abs().max())
    speed = statistics.median(taken["resident"]) / statistics.median(taken["streamed"])
    name = f"streaming 1x8x{tokens}x64"
    return [
        Figure(name=f"{name}: speed over resident", value=speed, bar=0.85, relation=">="),
        Figure(name=f"{name}: GiB on the device", value=most / 2**30, bar=budget / 2**30),
        Figure(name=f"{name}: difference from resident", value=difference, bar=2e-3),
    ], taken


def grown_bytes(shape: Shape, side: str) -> int:
    """Growth of this process' peak RSS over one call of "ours", "tiled", "theirs" or "math"."""
    import resource

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    from kernels import attention

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    q, k, v = inputs(shape, "cpu")
    small = [t[:, :, :64] for t in (q, k, v)]
    with torch.no_grad():
        scaled_dot_product_attention(small[0], small[1], small[2])
        tiled(small[0], small[1], small[2])
        before = peak()
        if side == "math":
            with sdpa_kernel(SDPBackend.MATH):
                scaled_dot_product_attention(q, k, v)
        elif side == "theirs":
            scaled_dot_product_attention(q, k, v)
        elif side == "tiled":
            tiled(q, k, v)
        else:
            attention(q, k, v)
    return peak() - before


def memory_figures(shape: Shape, grown: dict[str, int]) -> list[Figure]:
    """Peak memory of one call, the output included, over that of the math backend."""
    return [
        Figure(
            name=f"{shape.name}{'' if side == 'ours' else ', ' + side}: peak memory over the math path's",
            value=grown[side] / grown["math"],
            bar=0.5 if side in ("ours", "tiled") else None,
        )
        for side in grown
        if side != "math"
    ] + [Figure(name=f"{shape.name}, math: peak memory in MB", value=grown["math"] / 1e6)]


def in_fresh_process(arguments: Sequence[str], threads: int) -> Any:
    """What a worker prints. Raises RuntimeError with its last lines where it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.attention", *arguments]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected a measurement from {arguments}, but got:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def on_cpu(shapes: Sequence[Shape], threads: int, repeats: int) -> tuple[list[Figure], dict[str, Any]]:
    """All figures of the CPU, each measurement in a process of its own."""
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for number, shape in enumerate(CPU_SHAPES):
        if shape not in shapes:
            continue
        found = in_fresh_process(["--worker", f"{number}:time", "--repeats", str(repeats)], threads)
        grown = {
            side: in_fresh_process(["--worker", f"{number}:{side}"], threads)
            for side in ("ours", "tiled", "theirs", "math")
        }
        figures += figures_of(shape, "cpu", found) + memory_figures(shape, grown)
        details[shape.name] = found | {"grown_bytes": grown}
    return figures, details


def on_gpu(shapes: Sequence[Shape], repeats: int) -> tuple[list[Figure], dict[str, Any]]:
    """All figures of a GPU."""
    import torch

    figures: list[Figure] = []
    details: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    taken = statistics.median(seconds({"gemm": lambda: a @ a}, "cuda", repeats)["gemm"])
    figures.append(Figure(name="GEMM 8192 float16: TFLOP/s", value=2 * 8192**3 / taken / 1e12))
    for shape in shapes:
        found = compare(shape, "cuda", repeats)
        figures += figures_of(shape, "cuda", found)
        details[shape.name] = found
        torch.cuda.empty_cache()
    return figures, details


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--only", default="", help="rows whose name holds this; linear and streaming are rows too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    add_json(parser)
    args = parser.parse_args()
    if args.worker:
        number, _, side = args.worker.partition(":")
        shape = CPU_SHAPES[int(number)]
        print(json.dumps(compare(shape, "cpu", args.repeats) if side == "time" else grown_bytes(shape, side)))
        return 0
    on_device = CPU_SHAPES if args.device == "cpu" else GPU_SHAPES
    shapes = [shape for shape in on_device if args.only in shape.name]
    if args.device == "cpu":
        figures, details = on_cpu(shapes, args.threads, args.repeats)
        return finish("attention", figures, args.json, details | {"threads": args.threads})
    figures, details = on_gpu(shapes, args.repeats)
    if args.only in "linear":
        more, details["linear"] = linear("cuda", args.repeats, 8192, 524288, 32768)
        figures += more
    if args.only in "streaming":
        more, details["streaming"] = streamed(args.repeats, 2**20, 2**30)
        figures += more
    return finish("attention", figures, args.json, details)


if __name__ == "__main__":
    raise SystemExit(main())
