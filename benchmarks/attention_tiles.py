"""How well the tile picker chooses: measures every candidate on the GPU at hand, fits the correction on training shapes
and reports the regret on shapes it never saw, beside one fixed tile.

    python -m benchmarks.attention_tiles [--minutes 8] [--fit] [--clean FILE] [--json FILE]     on a GPU
    python -m benchmarks.attention_tiles --times FILE [--fit]        anywhere, with the times that --json kept
    python -m benchmarks.attention_tiles --dry                                   the plan alone, anywhere

`--fit` writes kernels/gpu/tiles.json: the weights, and the configs that were measured to run without spills. Regret is
the time of the chosen config over the fastest measured one, minus 1. Compiling comes first, on all cores; with
`--minutes 0` nothing else, and `--clean` keeps what it found for the run that measures. What the correction is linear
in was chosen by leaving out one training shape at a time (`--left-out` prints that regret), never by the held-out ones.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import Figure, add_json, finish
from kernels.gpu import tiles
from kernels.gpu.config import HEAD_SIZES, Config
from kernels.gpu.tiles import Correction, Shape

# (batch x heads, queries, keys); every head size takes each
TRAIN = (
    (1, 4096, 4096),
    (1, 16384, 16384),
    (2, 1024, 1024),
    (2, 6144, 6144),
    (3, 4096, 1024),
    (4, 2048, 2048),
    (5, 1600, 6400),
    (6, 3072, 3072),
    (8, 512, 8192),
    (10, 1024, 1024),
    (12, 4096, 77),
    (16, 1024, 1024),
    (16, 1536, 1536),
    (16, 4096, 4096),
    (32, 4096, 77),
    (40, 1024, 77),
)
HELD_OUT = (
    (1, 9216, 9216),
    (2, 4096, 16384),
    (3, 1000, 3000),
    (6, 2000, 2000),
    (8, 4096, 512),
    (10, 2304, 2304),
    (16, 6400, 6400),
    (20, 4096, 77),
    (24, 768, 768),
)
RIDGE = 0.03
CALLS, REPEATS = 4, 5
SHORT = 5e-4  # seconds of one call below which several are timed together
SLOW = 1.6  # beyond so many times the fastest so far, two looks are enough
HELD_BACK = 2_000_000  # cycles for which the GPU waits while the host queues the calls to be timed
SPLITS = (1, 2, 3, 4, 6, 8)  # what `tiles.split_choices` offers
PROBE = Shape(16, 1024, 1024, 0)  # each base config's first call, where it must compile without spills


def plan(arch: str, processors: int, d: int, shapes: tuple[tuple[int, int, int], ...]) -> dict[Shape, list[Config]]:
    """What to measure for one head size."""
    made = (Shape(bh, nq, nk, d) for bh, nq, nk in shapes)
    return {shape: tiles.candidates(arch, processors, shape) for shape in made}


def bases(arch: str, d: int, most: int) -> list[Config]:
    """The fixed config and the analytic model's best, over all training shapes, without key splits."""
    found = {tiles.defaults(arch, d): 0.0} | (
        dict.fromkeys(tiles.HOPPER_VARIANTS, 0.0) if (arch, d) == ("sm_90", 512) else {}
    )
    for bh, nq, nk in TRAIN:
        shape = Shape(bh, nq, nk, d)
        cost = {c: tiles.cycles(arch, 132, shape, c) for c in tiles.candidates(arch, 132, shape) if c.splits == 1}
        best = min(cost.values())
        for config, value in cost.items():
            found[config] = min(found.get(config, math.inf), value / best)
    return sorted(found, key=lambda c: (found[c], -c.block_m * c.block_n, c))[:most]


class Gpu:
    """The GPU at hand: inputs made once for each shape, medians of a few runs."""

    def __init__(self) -> None:
        import torch

        from kernels.gpu import split_d

        self.torch, self.split_d = torch, split_d
        self.arch = split_d.arch_of(torch.device("cuda"))
        properties = torch.cuda.get_device_properties(0)
        self.processors, self.name = properties.multi_processor_count, properties.name

    def inputs(self, shape: Shape) -> Any:
        """q, k and v of a shape, random."""
        sizes = (shape.n_queries, shape.n_keys, shape.n_keys)
        return [
            self.torch.randn(1, shape.batch_heads, n, shape.d, device="cuda", dtype=self.torch.float16) for n in sizes
        ]

    def run(self, inputs: Any, shape: Shape, config: Config) -> None:
        """One call."""
        self.split_d.forward(*inputs, scale=shape.d**-0.5, is_causal=shape.is_causal, config=config)

    def launches(self, d: int, config: Config) -> bool:
        """Whether a config runs, with every number of key splits, so that all it needs is compiled and cached."""
        shape = replace(PROBE, d=d)
        inputs = self.inputs(shape)
        try:
            for splits in SPLITS:
                self.run(inputs, shape, replace(config, splits=splits))
            self.torch.cuda.synchronize()
        except Exception as error:  # too much shared memory, a compiler's refusal: no candidate then
            print(f"  {config}: {type(error).__name__}", flush=True)
            return False
        return True

    def seconds(self, inputs: Any, shape: Shape, config: Config, fastest: float) -> float:
        """Median of a few turns: what the GPU takes, without the host's launching, which hides behind a wait."""
        self.run(inputs, shape, config)
        first = min(self._turns(inputs, shape, config, 2, 1))
        if first > SLOW * fastest:
            return first
        times = self._turns(inputs, shape, config, REPEATS, CALLS if first < SHORT else 1)
        return sorted(times)[REPEATS // 2]

    def _turns(self, inputs: Any, shape: Shape, config: Config, repeats: int, calls: int) -> list[float]:
        """Seconds of a call in each turn of so many calls."""
        events = []
        self.torch.cuda.synchronize()
        for _ in range(repeats):
            start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.torch.cuda._sleep(HELD_BACK)
            start.record()
            for _ in range(calls):
                self.run(inputs, shape, config)
            end.record()
            events.append((start, end))
        self.torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 / calls for start, end in events]


def is_clean(job: tuple[str, int, Config]) -> bool:
    """Whether (arch, head size, config) compiles without spills; runs in a process of its own."""
    from kernels.gpu.aot import compile_forward

    try:
        return not compile_forward(*job).problems
    except Exception:  # whatever the compiler refuses is no candidate
        return False


def runs_here(job: tuple[str, int, Config]) -> bool:
    """Whether a config launches on the GPU at hand, in a process of its own; Triton caches what it compiled."""
    return Gpu().launches(job[1], job[2])


def clean_configs(arch: str, heads: list[int], most: int, on_gpu: bool = False) -> dict[int, list[Config]]:
    """The configs worth measuring that compile without spills, and `on_gpu` also launch; on all cores."""
    jobs = [(arch, d, config) for d in heads for config in bases(arch, d, most)]
    for check in (is_clean, runs_here) if on_gpu else (is_clean,):
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = [job for job, good in zip(jobs, pool.map(check, jobs), strict=True) if good]
    return {d: [config for _, wide, config in jobs if wide == d] for d in heads}


def kept_configs(file: Path | None, arch: str, heads: list[int], most: int) -> dict[int, list[Config]]:
    """`clean_configs` of the GPU at hand, out of `file` if it is there, else also into it."""
    if file is not None and file.is_file():
        return {int(d): [Config(**c) for c in configs] for d, configs in json.loads(file.read_text()).items()}
    clean = clean_configs(arch, heads, most, on_gpu=True)
    if file is not None:
        file.write_text(json.dumps({str(d): [asdict(c) for c in configs] for d, configs in clean.items()}))
    return clean


def fit(arch: str, processors: int, measured: dict[Shape, dict[Config, float]]) -> Correction:
    """Ridge regression of log(measured / analytic) for one head size, each shape's mean taken out: only the order
    within a shape matters. Constants of configs are held back less than weights."""
    configs = sorted({replace(c, splits=1) for times in measured.values() for c in times})
    rows, targets = [], []
    for shape, times in measured.items():
        one_hot = [[float(replace(c, splits=1) == known) for known in configs] for c in times]
        x = np.array([h + tiles.features(processors, shape, c) for h, c in zip(one_hot, times, strict=True)])
        y = np.log([t / tiles.cycles(arch, processors, shape, c) for c, t in times.items()])
        # errors among slow configs cost nothing: weigh by how close to the best each is
        weight = np.array([min(times.values()) / t for t in times.values()]) ** 0.7
        rows.append((x - np.average(x, 0, weight)) * weight[:, None])
        targets.append((y - np.average(y, weights=weight)) * weight)
    x, y = np.concatenate(rows), np.concatenate(targets)
    held = np.array([RIDGE] * len(configs) + [2 * RIDGE] * (x.shape[1] - len(configs)))
    solved = [round(float(w), 5) for w in np.linalg.solve(x.T @ x + np.diag(held), x.T @ y)]
    return Correction(dict(zip(configs, solved[: len(configs)], strict=True)), tuple(solved[len(configs) :]))


def regret(shape: Shape, times: dict[Config, float], chosen: Config) -> float:
    """Time of the chosen config over the fastest, minus 1."""
    return times[chosen] / min(times.values()) - 1


def measure(
    gpu: Gpu, heads: list[int], clean: dict[int, list[Config]], deadline: float
) -> dict[Shape, dict[Config, float]]:
    """Times of every candidate for every shape, until the deadline."""
    measured: dict[Shape, dict[Config, float]] = {}
    for d in heads:
        print(f"D {d}: {len(clean[d])} configs compile cleanly", flush=True)
        for shape, offered in (
            plan(gpu.arch, gpu.processors, d, TRAIN) | plan(gpu.arch, gpu.processors, d, HELD_OUT)
        ).items():
            inputs = gpu.inputs(shape)
            times: dict[Config, float] = {}
            wanted = [c for c in offered if replace(c, splits=1) in clean[d]]
            for config in wanted:
                if time.monotonic() < deadline:
                    fastest = min(times.values(), default=math.inf)
                    times[config] = gpu.seconds(inputs, shape, config, fastest)
            if len(times) == len(wanted) > 1:
                measured[shape] = steady(times)
                best = min(times, key=lambda c: times[c])
                print(
                    f"  {shape.batch_heads} x {shape.n_queries} x {shape.n_keys}: {len(times)} configs, best "
                    f"{times[best] * 1e3:.3f} ms: {best}",
                    flush=True,
                )
    return measured


def steady(times: dict[Config, float]) -> dict[Config, float]:
    """Without what took over twice as long as the same tile with other stages or by the other kernel, where that is
    slow at all: something else held up the host then."""

    def alike(config: Config) -> Config:
        return replace(config, stages=1, variant="pointer")

    fastest = min(times.values())
    least: dict[Config, float] = {}
    for config, seconds in times.items():
        least[alike(config)] = min(seconds, least.get(alike(config), math.inf))
    return {c: t for c, t in times.items() if t <= max(2 * least[alike(c)], SLOW * fastest)}


@dataclass(frozen=True)
class Measured:
    """Times of configs by shape on one GPU."""

    arch: str
    processors: int
    device: str
    times: dict[Shape, dict[Config, float]]

    @classmethod
    def read(cls, file: Path) -> Measured:
        """What `details` says, out of the file of `--json`."""
        told = json.loads(file.read_text(encoding="utf-8"))["details"]
        times: dict[Shape, dict[Config, float]] = {}
        for row in told["times"]:
            times.setdefault(Shape(**row["shape"]), {})[Config(**row["config"])] = row["seconds"]
        return cls(told["arch"], told["processors"], told["device"], {s: steady(row) for s, row in times.items()})

    def details(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {"shape": asdict(shape), "config": asdict(config), "seconds": seconds}
            for shape, row in self.times.items()
            for config, seconds in row.items()
        ]
        return {"device": self.device, "arch": self.arch, "processors": self.processors, "times": rows}

    def of(self, d: int, shapes: tuple[tuple[int, int, int], ...]) -> dict[Shape, dict[Config, float]]:
        """The times of one head size at those of `shapes` that were measured."""
        found = (Shape(bh, nq, nk, d) for bh, nq, nk in shapes)
        return {shape: self.times[shape] for shape in found if shape in self.times}

    def fitted(self, d: int, shapes: tuple[tuple[int, int, int], ...] = TRAIN) -> Correction:
        """The correction of one head size from those shapes."""
        return fit(self.arch, self.processors, self.of(d, shapes))

    def picked(self, known: Correction, shape: Shape) -> Config:
        """The corrected cost's choice among what was measured."""
        offered = [c for c in self.times[shape] if replace(c, splits=1) in known.constants]
        return min(offered, key=lambda c: known.cost(self.arch, self.processors, shape, c))


def judged(measured: Measured, fitted: dict[int, Correction]) -> dict[str, list[float]]:
    """Regrets on the held-out shapes."""
    regrets: dict[str, list[float]] = {"picker": [], "analytic alone": [], "one fixed tile": []}
    for d, known in fitted.items():
        for shape, times in measured.of(d, HELD_OUT).items():
            alone = min(times, key=lambda c: tiles.cycles(measured.arch, measured.processors, shape, c))
            choices = (measured.picked(known, shape), alone, tiles.defaults(measured.arch, d))
            for name, chosen in zip(regrets, choices, strict=True):
                if chosen in times:
                    regrets[name].append(regret(shape, times, chosen))
    return regrets


def left_out(measured: Measured, heads: list[int]) -> list[float]:
    """Regrets on training shapes, each with a correction that was fitted to all others of its head size."""
    made = []
    for d in heads:
        for shape, times in measured.of(d, TRAIN).items():
            rest = tuple(one for one in TRAIN if one != (shape.batch_heads, shape.n_queries, shape.n_keys))
            made.append(regret(shape, times, measured.picked(measured.fitted(d, rest), shape)))
    return made


def figures_of(name: str, values: list[float], *, barred: bool) -> list[Figure]:
    """Mean and worst regret."""
    mean, worst = sum(values) / max(1, len(values)), max(values, default=math.nan)
    bars = (5, 20) if barred else (None, None)
    return [
        Figure(name=f"{name}: {what} regret %", value=100 * value, bar=bar)
        for what, value, bar in zip(("mean", "worst"), (mean, worst), bars, strict=True)
    ]


def write(measured: Measured, fitted: dict[int, Correction]) -> None:
    """tiles.json, with this chip's part replaced."""
    everything = json.loads(tiles.FITTED.read_text(encoding="utf-8")) if tiles.FITTED.is_file() else {}
    everything[measured.arch] = {"device": measured.device, "heads": {
        str(d): {"weights": made.weights,
                 "configs": [{"config": asdict(c), "constant": v} for c, v in made.constants.items()]}
        for d, made in fitted.items()
    }}  # fmt: skip
    tiles.FITTED.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def show_plan(arch: str, heads: list[int], most: int, clean: dict[int, list[Config]] | None) -> None:
    """Print what would be measured."""
    for d in heads:
        chosen = bases(arch, d, most) if clean is None else clean[d]
        print(f"D {d}: {len(tiles.bases(arch, d))} configs fit, {len(chosen)} would be measured")
        for config in chosen:
            print(
                f"  {config}: {tiles.shared_bytes(arch, d, config)} bytes shared, "
                f"{tiles.registers(arch, d, config)} registers estimated"
            )
        for shape, offered in (plan(arch, 132, d, TRAIN) | plan(arch, 132, d, HELD_OUT)).items():
            count = sum(replace(c, splits=1) in chosen for c in offered)
            print(f"  {shape.batch_heads} x {shape.n_queries} x {shape.n_keys}: {count} runs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="print what would be measured and stop; needs no GPU")
    parser.add_argument("--compile", action="store_true", help="with --dry: also compile the plan, keep what is clean")
    parser.add_argument("--arch", default="sm_90", help="with --dry: the architecture to plan for")
    parser.add_argument("--heads", default=",".join(map(str, HEAD_SIZES)), help="head sizes, comma-separated")
    parser.add_argument(
        "--most", type=int, default=24, help="configs for each head size, the analytic model's best first"
    )
    parser.add_argument("--minutes", type=float, default=8, help="stop measuring after this long")
    parser.add_argument("--clean", type=Path, metavar="FILE", help="JSON of the configs that compile; made if missing")
    parser.add_argument("--times", type=Path, metavar="FILE", help="what --json wrote on a GPU, instead of measuring")
    parser.add_argument("--left-out", action="store_true", help="also the regret on training shapes, left out in turn")
    parser.add_argument("--fit", action="store_true", help=f"write {tiles.FITTED.name} for this architecture")
    add_json(parser)
    arguments = parser.parse_args()
    heads = [int(d) for d in arguments.heads.split(",")]
    if arguments.dry:
        clean = clean_configs(arguments.arch, heads, arguments.most) if arguments.compile else None
        show_plan(arguments.arch, heads, arguments.most, clean)
        return 0
    if arguments.times:
        measured = Measured.read(arguments.times)
    else:
        gpu = Gpu()
        print(f"{gpu.name}, {gpu.arch}, {gpu.processors} multiprocessors", flush=True)
        clean = kept_configs(arguments.clean, tiles.known_arch(gpu.arch), heads, arguments.most)
        times = measure(gpu, heads, clean, time.monotonic() + arguments.minutes * 60)
        measured = Measured(gpu.arch, gpu.processors, gpu.name, times)
    heads = [d for d in heads if measured.of(d, TRAIN) and measured.of(d, HELD_OUT)]  # others came too late
    if not heads:
        print("Expected training and held-out shapes to be measured, but the time ran out.", file=sys.stderr)
        return 2
    fitted = {d: measured.fitted(d) for d in heads}
    regrets = judged(measured, fitted)
    figures = [Figure(name="held-out shapes", value=len(regrets["picker"]))]
    for name, values in regrets.items():
        figures += figures_of(name, values, barred=name == "picker")
    if arguments.left_out:
        figures += figures_of("picker, training shapes left out one by one", left_out(measured, heads), barred=False)
    if arguments.fit:
        write(measured, fitted)
    return finish("attention_tiles", figures, arguments.json, measured.details())


if __name__ == "__main__":
    sys.exit(main())
