"""Which tiles to use, without autotuning: candidates that fit the chip, ranked by a cost model.

The analytic half counts the matrix work, the bytes and the exponentials of one program and how many programs run side
by side. `benchmarks/attention_tiles.py` measures candidates on a GPU and fits the rest, a linear correction in the
logarithm,
into `tiles.json`; without that file, or for a chip it lacks, the analytic half decides alone. Standard library only.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from kernels.gpu.config import HEAD_SIZES, SHARED_LIMIT, BackwardConfig, Config, LinearConfig, head_parts

FITTED = Path(__file__).with_name("tiles.json")
_REGISTERS = 65536  # 32-bit registers of a multiprocessor; of a compute unit they are counted a wave at a time below


@dataclass(frozen=True)
class Shape:
    """One call: batch times heads, queries, keys, head size."""

    batch_heads: int
    n_queries: int
    n_keys: int
    d: int
    is_causal: bool = False


@dataclass(frozen=True)
class Chip:
    """What a processor does in a cycle: half-precision operations (two a multiply-add), bytes from L2, exponentials;
    and the threads it holds. Rounded from the vendors' architecture papers: only their ratios matter here."""

    matrix: int
    bytes: int
    exponentials: int
    threads: int


CHIPS = {
    "sm_80": Chip(2048, 45, 16, 2048), "sm_86": Chip(1024, 32, 16, 1536), "sm_89": Chip(1024, 40, 16, 1536),
    "sm_90": Chip(4096, 38, 16, 2048), "sm_120": Chip(1024, 40, 16, 1536), "gfx942": Chip(2048, 32, 16, 2048),
    "gfx1100": Chip(512, 32, 16, 2048),
}  # fmt: skip


# for heads of 512 on sm_90, in the order that a first measurement should take them
HOPPER_VARIANTS = (
    Config(128, 32, 512, 256, 8, 2, variant="descriptor"),
    Config(64, 32, 512, 512, 8, 2, variant="descriptor"),
    Config(128, 32, 512, 256, 8, 2),
    Config(64, 64, 64, 256, 8, 3),
)


def known_arch(arch: str) -> str:
    """The entry of CHIPS that stands for an arch: itself, or one with the same limits or smaller.

    >>> known_arch("sm_90"), known_arch("sm_87"), known_arch("sm_100"), known_arch("gfx950"), known_arch("gfx1201")
    ('sm_90', 'sm_86', 'sm_80', 'gfx942', 'gfx1100')
    """
    if arch in CHIPS:
        return arch
    if arch.startswith("gfx"):
        return "gfx942" if arch.startswith("gfx9") else "gfx1100"
    return "sm_80" if arch in ("sm_100", "sm_103") else "sm_86"


def shared_bytes(arch: str, d: int, config: Config) -> int:
    """Upper estimate of a forward program's shared memory: staged keys and values, queries where the matrix unit reads
    them there (sm_90), and the scores on their way between warps."""
    main, tail = head_parts(d)
    whole = config.chunk == main
    k_tile = config.block_n * ((main + tail) if whole else config.chunk)
    v_tile = config.block_n * (config.slice + tail)
    q_tile = config.block_m * (main + tail if whole else config.chunk)
    buffers = config.stages if arch == "sm_90" else max(1, config.stages - 1)
    total = buffers * (k_tile + v_tile) + (config.block_m * config.block_n if config.warps == 8 else 0)
    if arch == "sm_90" or not whole:
        total += q_tile
    return 2 * max(total, q_tile)


def registers(arch: str, d: int, config: Config) -> int:
    """Estimate of a thread's registers: accumulators, scores, the queries where they are kept, addresses."""
    main, tail = head_parts(d)
    lanes = config.warps * (64 if arch == "gfx942" else 32)
    kept = config.block_m * (main + tail) / 2 if config.chunk == main and arch != "sm_90" else 0
    spread = 2 if config.block_m < config.warps * 16 else 1  # warps side by side hold the same rows' queries and scores
    tiles = config.block_m * (config.slice + tail) + spread * (1.5 * config.block_m * config.block_n + kept)
    return 56 + math.ceil(tiles / lanes)


@functools.lru_cache(maxsize=256)
def bases(arch: str, d: int) -> tuple[Config, ...]:
    """Forward configs that fit the chip's registers and shared memory, before keys are split."""
    arch = known_arch(arch)
    main, tail = head_parts(d)
    found: list[Config] = []
    cuts = [(main, main)] if main <= 128 else [(main, main), (main, main // 2), (64, main), (64, main // 2)]
    for block_m, block_n, warps, stages, (chunk, cut) in product((32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3), cuts):
        if block_m * block_n < warps * 256 or (arch.startswith("gfx") and stages > 2):
            continue
        if arch == "sm_90" and block_m < 64:  # wgmma multiplies 64 rows
            continue
        config = Config(block_m, block_n, chunk, cut, warps, stages)
        fits = shared_bytes(arch, d, config) <= SHARED_LIMIT[arch]
        if fits and registers(arch, d, config) <= (440 if arch == "gfx942" else 216):
            found.append(config)
            if arch == "sm_90" and tail == 0 and chunk == main:
                found.append(replace(config, variant="descriptor"))
    return tuple(found or [defaults(arch, d)])


def defaults(arch: str, d: int) -> Config:
    """The one fixed config of a chip and head size: compiled without spills in the tests, and what the picker must
    beat."""
    arch = known_arch(arch)
    main, _ = head_parts(d)
    if d == 512:
        if arch == "sm_90":
            return Config(128, 32, 512, 256, 8, 2, variant="descriptor")
        if arch == "gfx1100":
            return Config(64, 32, 64, 128, 8, 1)
        return Config(64, 64, 64, 256, 8, 1 if arch == "gfx942" else 2)
    if d >= 128:
        if arch == "gfx1100":
            return Config(64, 32, main, main, 8, 1) if d == 128 else Config(64, 16, 64, main, 8, 1)
        if arch == "gfx942":
            return Config(64, 32, main, main, 8, 1)
        return Config(128 if d == 128 or arch == "sm_90" else 64, 32, main, main, 8, 2)
    if arch == "gfx1100":
        return Config(64, 32, main, main, 4, 1)
    return Config(64, 64, main, main, 4, 1 if arch == "gfx942" else 2)


def split_choices(processors: int, shape: Shape, config: Config) -> tuple[int, ...]:
    """Key splits worth trying: 1, and more while the programs are fewer than two for each processor."""
    programs = _blocks(shape, config) * shape.batch_heads
    most = min(8, 2 * processors // max(1, programs), shape.n_keys // (4 * config.block_n))
    return tuple(n for n in (1, 2, 3, 4, 6, 8) if n <= max(1, most))


def candidates(arch: str, processors: int, shape: Shape) -> list[Config]:
    """Every config worth measuring for this call."""
    if shape.d not in HEAD_SIZES:
        raise ValueError(f"Expected a head size of {', '.join(map(str, HEAD_SIZES))}, but got {shape.d}.")
    return [
        replace(config, splits=splits)
        for config in dict.fromkeys((defaults(arch, shape.d), *bases(arch, shape.d)))
        for splits in split_choices(processors, shape, config)
    ]


def cycles(arch: str, processors: int, shape: Shape, config: Config) -> float:
    """Analytic cost of one call in cycles of one processor."""
    arch = known_arch(arch)
    chip = CHIPS[arch]
    main, tail = head_parts(shape.d)
    keys = math.ceil(shape.n_keys / config.splits)
    tiles = math.ceil(keys / config.block_n) * (0.5 + 0.5 * config.block_n / keys if shape.is_causal else 1.0)
    area = config.block_m * config.block_n
    matrix = 2 * area * ((main + tail) + config.slice + tail) / chip.matrix
    moved = 2 * config.block_n * (main + tail + config.slice + tail) / chip.bytes
    if config.chunk < main:
        moved += config.block_m * main * 2 / (chip.bytes * 2)  # the queries come again, mostly from L1
    softmax = area * 1.5 / chip.exponentials
    parts = (matrix, moved, softmax)
    resident = _resident(arch, shape.d, config)
    # a program alone waits for each part in turn; side by side they fill what the others leave, up to the busiest unit
    alone = sum(parts) / (1 + 0.1 * (config.stages - 1)) + 60

    def together(programs: int) -> float:
        return tiles * max(1.6 * programs * max(parts), alone * (1 + 0.05 * (programs - 1))) + 1500

    programs = _blocks(shape, config) * shape.batch_heads * config.splits
    rounds, rest = divmod(programs, processors * resident)
    cost = rounds * together(resident) + (together(math.ceil(rest / processors)) if rest else 0.0)
    if config.splits > 1:
        rows = shape.batch_heads * shape.n_queries / processors
        cost += 5000 + rows * (config.splits * 8 + 2) * shape.d / chip.bytes
    return cost


def _resident(arch: str, d: int, config: Config) -> int:
    """How many programs a processor runs side by side."""
    held = _REGISTERS * (2 if arch == "gfx942" else 1)
    return max(1, min(
        SHARED_LIMIT[arch] // max(1, shared_bytes(arch, d, config)),
        held // (registers(arch, d, config) * config.warps * 32),
        CHIPS[arch].threads // (config.warps * 32),
    ))  # fmt: skip


@dataclass(frozen=True)
class Correction:
    """What measurements of one head size on one chip add to the analytic cost, in the logarithm: a constant for each
    config that was measured, and weights of `features`, which say how that changes with the shape."""

    constants: dict[Config, float]
    weights: tuple[float, ...]

    def cost(self, arch: str, processors: int, shape: Shape, config: Config) -> float:
        """The corrected cost of one call; the config must have a constant."""
        moved = sum(w * f for w, f in zip(self.weights, features(processors, shape, config), strict=True))
        known = self.constants[replace(config, splits=1)]
        return cycles(arch, processors, shape, config) * math.exp(known + moved)


def features(processors: int, shape: Shape, config: Config) -> list[float]:
    """What the correction is linear in: how full the GPU is and how long the loop, by the config's traits."""
    programs = _blocks(shape, config) * shape.batch_heads * config.splits
    full = min(3.0, math.log2(programs / processors))
    long = math.log2(shape.n_keys / config.splits / 1024)
    split = math.log2(config.splits)
    rows, columns = math.log2(config.block_m) - 6, math.log2(config.block_n) - 6
    return [
        split, full, min(full, 0.0), split * full, rows * full, rows * long, columns * long,
        (config.warps == 8) * full, (config.stages == 1) * long, (config.variant == "descriptor") * long,
        (config.variant == "descriptor") * full, long, float(shape.is_causal) * rows,
    ]  # fmt: skip


@functools.cache
def corrections() -> dict[tuple[str, int], Correction]:
    """By (arch, head size), out of `tiles.json`; empty without that file."""
    if not FITTED.is_file():
        return {}
    made = {}
    for arch, fitted in json.loads(FITTED.read_text(encoding="utf-8")).items():
        for d, head in fitted["heads"].items():
            constants = {Config(**row["config"]): row["constant"] for row in head["configs"]}
            made[arch, int(d)] = Correction(constants, tuple(head["weights"]))
    return made


@functools.lru_cache(maxsize=1024)
def pick(arch: str, processors: int, shape: Shape) -> Config:
    """The config to use for this call.

    Only configs known to compile without spills are picked: those that were measured on this arch, or the fixed one.
    """
    offered = candidates(arch, processors, shape)
    correction = corrections().get((arch, shape.d))
    if correction is None:
        choices = [c for c in offered if replace(c, splits=1) == defaults(arch, shape.d)]
        return min(choices, key=lambda c: (cycles(arch, processors, shape, c), c))
    choices = [c for c in offered if replace(c, splits=1) in correction.constants]
    return min(choices, key=lambda c: (correction.cost(arch, processors, shape, c), c))


def backward_config(arch: str, d: int) -> BackwardConfig:
    """The backward's fixed config of a chip and head size."""
    arch = known_arch(arch)
    main, _ = head_parts(d)
    if arch.startswith("gfx"):
        keys = Config(32, 32, min(32, main), min(main, 128), 4 if d < 80 else 8, 1)
        return BackwardConfig(keys, keys, d <= 80)
    hopper = arch == "sm_90"
    if d == 512:
        if hopper:
            return BackwardConfig(Config(64, 64, 64, 128, 8, 1), Config(64, 64, 64, 256, 8, 1))
        return BackwardConfig(Config(32, 64, 32, 128, 8, 1), Config(64, 32, 64, 256, 8, 1))
    if d >= 128:
        if hopper:
            return BackwardConfig(Config(32, 64, main, main, 8, 1), Config(64, 32, main, main, 8, 1), together=False)
        queries = Config(64, 32, 32 if d == 128 else main, main, 8, 1)
        return BackwardConfig(Config(32, 32, 32, main, 8, 1), queries, together=False)
    if d == 80:
        queries = Config(64, 32, main, main, 4, 1)
        return BackwardConfig(Config(64, 64, main, main, 8, 1) if hopper else Config(32, 64, 32, main, 8, 1), queries)
    return BackwardConfig(Config(64 if hopper else 32, 64, main, main, 4, 1), Config(64, 64, main, main, 4, 1))


def linear_config(arch: str) -> LinearConfig:
    """The tiles of linear attention on a chip."""
    arch = known_arch(arch)
    if arch == "gfx1100":
        return LinearConfig(16, 16, 8, 1)
    if arch == "gfx942":
        return LinearConfig(64, 32, 4, 2)
    return LinearConfig(64, 64, 8, 2) if arch == "sm_90" else LinearConfig(32, 32, 8, 2)


def _blocks(shape: Shape, config: Config) -> int:
    return math.ceil(shape.n_queries / config.block_m) * (head_parts(shape.d)[0] // config.slice)
