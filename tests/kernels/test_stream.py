"""Inputs in host memory: mapped from files, through slots of buffers, exact; on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import attention, explain
from kernels import stream as module
from kernels.stream import StreamedForward, StreamPath
from kernels.tiled import TiledPath
from tests.kernels.reference import Largest, call, exact, peak_bytes

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def mapped(folder: Path, name: str, data: Tensor) -> Tensor:
    """A tensor like `data` whose memory is a file."""
    file = torch.from_file(str(folder / name), shared=True, size=data.numel(), dtype=data.dtype)
    file.copy_(data.flatten())
    return file.view(data.shape)


def inputs(folder: Path, dtype: torch.dtype, tokens: tuple[int, int] = (300, 500), wide: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (tokens[0], 16), "k": (tokens[1], 16), "v": (tokens[1], wide)}
    made = {n: torch.randn(2, 3, *s, generator=generator).to(dtype) for n, s in shapes.items()}
    return [made["q"], mapped(folder, "k", made["k"]), mapped(folder, "v", made["v"])]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", ["plain", "causal", "mask", "window", "other width"])
@pytest.mark.parametrize("budget", [None, 600_000])
def test_mapped_files_are_streamed_exactly(tmp_path: Path, dtype: torch.dtype, kind: str, budget: int | None) -> None:
    square = kind in ("causal", "window")
    q, k, v = inputs(tmp_path, dtype, (500, 500) if square else (300, 500), 24 if kind == "other width" else 16)
    kwargs: dict[str, Any] = {
        "causal": {"is_causal": True},
        "mask": {"mask": torch.rand(300, 500) < 0.5},
        "window": {"window": ((20, 25), (3, 2)), "wrap": "y"},
    }.get(kind, {})
    said = explain(q, k, v, **kwargs, budget_bytes=budget)
    assert said.path == "stream" and (budget is None or said.workspace_bytes <= budget)
    made: list[Tensor] = []
    used = peak_bytes(lambda: made.append(attention(q, k, v, **kwargs, budget_bytes=budget)))
    torch.testing.assert_close(made[0].double(), exact(q, k, v, **kwargs), rtol=0, atol=TOLERANCE[dtype])
    assert used - made[0].numel() * made[0].itemsize <= said.workspace_bytes


def test_a_numpy_memory_map_needs_nothing_special(tmp_path: Path) -> None:
    import numpy as np

    data = np.memmap(tmp_path / "k", dtype=np.float32, mode="w+", shape=(1, 2, 200, 8))
    data[:] = np.random.default_rng(0).normal(size=data.shape)
    k = torch.from_numpy(data)
    q = torch.randn(1, 2, 100, 8)
    torch.testing.assert_close(attention(q, k, k).double(), exact(q, k, k), rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kwargs", [{}, {"is_causal": True}, {"window": ((12, 10), (2, 2)), "wrap": "x"}])
def test_gradients(tmp_path: Path, dtype: torch.dtype, kwargs: dict[str, Any]) -> None:
    leaves = [t.requires_grad_() for t in inputs(tmp_path, dtype, (120, 120))]
    assert explain(*leaves, **kwargs).path == "stream"
    twins = [t.detach().double().requires_grad_() for t in leaves]
    grad = torch.randn(2, 3, 120, 16).to(dtype)
    right = torch.autograd.grad(exact(*twins, **kwargs), twins, grad.double())
    for budget in (None, 300_000):
        made: list[tuple[Tensor, ...]] = []
        used = peak_bytes(
            lambda budget=budget, made=made: made.append(
                torch.autograd.grad(attention(*leaves, **kwargs, budget_bytes=budget), leaves, grad)
            )
        )
        for mine, theirs in zip(made[0], right, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=5 * TOLERANCE[dtype])
        said = explain(*leaves, **kwargs, budget_bytes=budget).workspace_bytes
        assert used - 4 * leaves[0].numel() * leaves[0].itemsize <= said <= (budget or said)


def test_tiles_are_merged_by_their_log_sum_exp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERIES", 128)
    monkeypatch.setattr(module, "KEYS", 64)
    for dtype in (torch.float32, torch.float16):
        for is_causal in (False, True):
            q, k, v = inputs(tmp_path, dtype, (500, 500))
            asked = call(q, k, v, is_causal=is_causal)
            assert StreamPath().tiles(asked) == (6, 64 if is_causal else 128, 64)
            with Largest() as largest:
                made = attention(q, k, v, is_causal=is_causal)
            assert largest.elements <= q.numel()
            right = exact(q, k, v, is_causal=is_causal)
            torch.testing.assert_close(made.double(), right, rtol=0, atol=TOLERANCE[dtype])


def test_nothing_to_stream(tmp_path: Path) -> None:
    q, k, v = (torch.randn(1, 1, 20, 8) for _ in range(3))
    assert "mapped from a file" in dict(explain(q, k, v).refused)["stream"]
    mine = mapped(tmp_path, "k", k)
    with pytest.raises(ValueError, match=r"stream: its smallest tile, \d+ queries by \d+ keys of one head, needs \d+"):
        attention(q, mine, mine, budget_bytes=10)
    assert attention(q[:, :, :0], mine, mine).shape == (1, 1, 0, 8)
    assert (attention(q, mine[:, :, :0], mine[:, :, :0]) == 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kwargs", [{}, {"is_causal": True}, {"window": ((80, 50), (3, 2)), "wrap": "xy"}])
@pytest.mark.parametrize("place", ["keys pinned", "keys pageable", "all pinned"])
def test_on_a_gpu(place: str, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERIES", 2048)
    monkeypatch.setattr(module, "KEYS", 1024)
    q, k, v = (torch.randn(1, 4, 4000, 64).half() for _ in range(3))
    right = exact(q, k, v, **kwargs)
    if place != "keys pageable":
        k, v = k.pin_memory(), v.pin_memory()
    q = q.pin_memory() if place == "all pinned" else q.cuda()
    assert explain(q, k, v, **kwargs).path == "stream"
    made = attention(q, k, v, **kwargs, budget_bytes=64 * 2**20)
    assert made.device == q.device
    torch.testing.assert_close(made.cpu().double(), right, rtol=0, atol=2e-3)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    twins = [t.detach().cpu().double().requires_grad_() for t in leaves]
    found = torch.autograd.grad(attention(*leaves, **kwargs).float().square().sum(), leaves)
    for mine, theirs in zip(found, torch.autograd.grad(exact(*twins, **kwargs).square().sum(), twins), strict=True):
        torch.testing.assert_close(mine.cpu().double(), theirs, rtol=0, atol=1e-2)


def test_the_engine_streams_whatever_it_is_given() -> None:
    # plain tensors, which no path would stream, through the same slots
    q, k, v = (torch.randn(1, 2, 90, 8) for _ in range(3))
    asked = call(q, k, v, mask=torch.randn(90, 90))
    tiling = TiledPath().tiling(asked)
    made, _ = StreamedForward(asked, tiling, torch.device("cpu")).forward(keep_lse=False)
    torch.testing.assert_close(made.double(), exact(q, k, v, mask=asked.mask), rtol=0, atol=2e-6)
