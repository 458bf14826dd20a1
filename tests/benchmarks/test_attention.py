"""The measurements of the attention benchmark, on small shapes and the CPU."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import attention
from benchmarks.attention import Shape
from kernels import attention as ours


def test_shapes_are_the_published_ones() -> None:
    names = [shape.name for shape in (*attention.GPU_SHAPES, *attention.CPU_SHAPES)]
    assert len(set(names)) == len(names)
    bars = {shape.tokens: shape.teraflops for shape in attention.GPU_SHAPES if shape.teraflops}
    assert bars == {4096: 200, 16384: 330, 65536: 330, 262144: 300}
    assert Shape("VAE", 1, 1, 8192, 512, "float32") in attention.CPU_SHAPES
    assert Shape("VAE", 1, 1, 16384, 512).flops == 4 * 16384**2 * 512


def test_both_sides_of_one_shape() -> None:
    shape = Shape("small", 1, 2, 200, 16, "float32")
    found = attention.compare(shape, "cpu", 2)
    assert found["seconds"].keys() == {"ours", "theirs", "tiled"} and len(found["seconds"]["ours"]) == 2
    figures = {f.name.removeprefix(shape.name): f for f in attention.figures_of(shape, "cpu", found)}
    assert figures[": time over SDPA's"].bar == attention.SLOWER
    assert figures[": error over SDPA's"].passed and figures[", tiled: error over SDPA's"].passed
    assert all(math.isfinite(f.value) and f.value > 0 for f in figures.values())


def test_bars_of_a_gpu_row() -> None:
    shape = Shape("VAE", 1, 1, 1000, 500, teraflops=200)
    found = {
        "seconds": {"theirs": [1e-5] * 3, "ours": [5e-6, 8e-6, 4e-6]},
        "error": {"theirs": 2e-4, "ours": 4e-4},
        "rounding": 1e-4,
        "bytes": {"theirs": 0, "ours": 4 * 2 * 1000 * 500},
    }
    passed = {f.name.removeprefix(shape.name): (f.value, f.passed) for f in attention.figures_of(shape, "cuda", found)}
    assert passed[": TFLOP/s"] == (pytest.approx(400), True)
    assert passed[": time over SDPA's"] == (0.5, None)
    assert passed[": error over SDPA's"] == (2.0, False)
    assert passed[": extra memory over q, k, v and output"] == (1.0, True)


def test_errors_are_from_float64() -> None:
    q, k, v = attention.inputs(Shape("small", 2, 2, 100, 8, "float32"), "cpu")
    made = ours(q, k, v)
    assert attention.largest_error(made, (q, k, v)) < 1e-6
    made[1, 1, 99, 3] += 0.5
    assert abs(attention.largest_error(made, (q, k, v)) - 0.5) < 1e-5


def test_linear_figures() -> None:
    torch.manual_seed(0)
    figures, taken = attention.linear("cpu", 1, 128, 256, 192)
    tokens = (128, 192, 256)
    assert len(figures) == 4
    assert taken.keys() == {*(f"{name} {n}" for name in ("linear", "normalized") for n in tokens), "SDPA 192"}


def test_memory_figures_compare_with_the_math_path() -> None:
    shape = attention.CPU_SHAPES[0]
    figures = attention.memory_figures(shape, {"ours": 30, "tiled": 60, "theirs": 30, "math": 100})
    assert [f.passed for f in figures] == [True, False, None, None]
