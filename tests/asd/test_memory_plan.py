"""Plans of memory for tiny checkpoints."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asd import AnySizePipeline
from asd.errors import SizeError, ZelligeError
from asd.exact_vae import ExactTiledVAE
from asd.memory_plan import CPU_RESERVE, GIB, _plans, parse_bytes, plan_memory
from tests import tiny_sd


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> AnySizePipeline:
    made = AnySizePipeline(tiny_sd.pipeline("xl", tmp_path_factory.mktemp("words")))
    made.set_progress_bar_config(disable=True)
    return made


def test_less_memory_takes_slower_plans(pipe: AnySizePipeline) -> None:
    given: dict[str, Any] = {"device": "cuda", "canvas": (512, 512)}
    every = list(_plans(pipe.base, GIB, "cuda", (512, 512), True))
    for i, wanted in enumerate(every):
        plan = plan_memory(pipe.base, wanted.peak, **given)
        place = next(k for k, each in enumerate(every) if replace(each, budget=plan.budget) == plan)
        # the first, and so the fastest, that fits
        assert place <= i and all(each.peak > wanted.peak for each in every[:place])
    assert {plan.offload for plan in every} == {"none", "model", "sequential"}
    assert min(plan.peak for plan in every) < every[0].peak


def test_canvases_are_held_on_cuda_alone_and_counted(pipe: AnySizePipeline) -> None:
    every = list(_plans(pipe.base, GIB, "cuda", (512, 512), True))
    grid = 512 * 512 * pipe.base.vae.config.block_out_channels[-1] * 4  # XL's autoencoder runs in float32
    assert [plan.hold for plan in every[:3]] == [4 * grid, grid, 0]
    assert every[0].peak >= every[2].peak and every[0].peak > 2 * 4 * grid
    assert f"canvases up to {4 * grid / GIB:.2f} GiB held" in str(every[0])
    for device in ("cpu", "mps"):
        others = list(_plans(pipe.base, GIB, device, (512, 512), True))
        assert all(plan.hold is None and "held" not in str(plan) for plan in others)


def test_what_the_plan_holds_reaches_the_autoencoder(pipe: AnySizePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    made = ExactTiledVAE.__init__

    def watched(self: ExactTiledVAE, *args: Any, **options: Any) -> None:
        seen.append((options["hold"], options["spill"]))
        made(self, *args, **options)

    monkeypatch.setattr(ExactTiledVAE, "__init__", watched)
    plan = plan_memory(pipe.base, 4 * GIB, device="cuda", canvas=(8, 8))
    assert plan.hold is not None
    monkeypatch.setattr(pipe, "plan", plan)
    options: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 1, "output_type": "pt"}
    pipe("a", **options)
    pipe("a", spill=tempfile.gettempdir(), **options)
    assert seen == [(plan.hold, None), (None, tempfile.gettempdir())]


def test_a_plan_that_cannot_be_says_what_would(pipe: AnySizePipeline) -> None:
    with pytest.raises(SizeError, match=r"at least 0\.\d+ GiB .* layers take turns.*but got 0\.10 GiB"):
        plan_memory(pipe.base, GIB // 10, device="cuda", canvas=(64, 64))
    with pytest.raises(SizeError, match="all models stay"):
        plan_memory(pipe.base, int(CPU_RESERVE), device="cpu", canvas=(64, 64))


def test_a_plan_is_kept_to(pipe: AnySizePipeline, tmp_path: Path) -> None:
    made = pipe("a", width=100, height=60, num_inference_steps=2, output_type="pt", generator=torch.Generator())
    plan = pipe.keep_to(4 * GIB, (100, 60))
    assert pipe.plan is plan and plan.dtype == "float32" and plan.device == "cpu" and "4.00 GiB" in str(plan)
    again = pipe("a", width=100, height=60, num_inference_steps=2, output_type="pt", generator=torch.Generator())
    assert (made.images - again.images).abs().max() < 1e-4


@pytest.mark.parametrize("text", ["", "4 apples", "-1GiB", "0", "GiB", "1e9"])
def test_amounts_that_are_none(text: str) -> None:
    with pytest.raises(ZelligeError, match="amount of memory"):
        parse_bytes(text)
