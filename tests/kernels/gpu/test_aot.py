"""Every Triton kernel, compiled for every architecture without a GPU: tensor cores used, nothing spilled, memory
fits."""

from __future__ import annotations

import os

import pytest

from kernels.gpu import tiles
from kernels.gpu.config import HEAD_SIZES, Config

pytest.importorskip("triton", reason="Triton has wheels for Linux alone")
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset")  # about Triton's own next default

from kernels.gpu.aot import Compiled, compile_backward, compile_forward, compile_linear  # noqa: E402  # after the skip

ARCHS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120", "gfx942", "gfx1100")
# the heads that press each family most; ZELLIGE_AOT=all compiles every head for every architecture (six minutes)
FORWARD = {
    "sm_80": (512,), "sm_86": (80, 160, 512), "sm_89": (512,), "sm_90": (64,), "sm_120": (512,), "gfx942": (512,),
    "gfx1100": (160,),
}  # fmt: skip
BACKWARD = {"sm_80": (512,), "sm_90": (512,), "sm_120": (40,), "gfx1100": (80,)}
EVERYTHING = os.environ.get("ZELLIGE_AOT") == "all"


def cases(chosen: dict[str, tuple[int, ...]]) -> list[tuple[str, int]]:
    return [(arch, d) for arch in ARCHS for d in (HEAD_SIZES if EVERYTHING else chosen.get(arch, ()))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # a compilation left by another version proves nothing


def faults(made: dict[str, Compiled]) -> dict[str, tuple[str, ...]]:
    return {name: report.problems for name, report in made.items() if report.problems}


@pytest.mark.parametrize(("arch", "d"), cases(FORWARD))
def test_forward(arch: str, d: int) -> None:
    assert not compile_forward(arch, d, tiles.defaults(arch, d)).problems


@pytest.mark.parametrize(("arch", "d"), cases(BACKWARD))
def test_backward(arch: str, d: int) -> None:
    assert not faults(compile_backward(arch, d, tiles.backward_config(arch, d)))


@pytest.mark.parametrize("arch", ARCHS if EVERYTHING else ("sm_86", "gfx942"))
def test_linear(arch: str) -> None:
    assert not faults(compile_linear(arch, 128, 128, tiles.linear_config(arch)))


@pytest.mark.parametrize("config", tiles.HOPPER_VARIANTS)
def test_variants_of_the_widest_head(config: Config) -> None:
    report = compile_forward("sm_90", 512, config)
    assert not report.problems
    assert "wgmma.mma_async" in report.listing
    assert ("cp.async.bulk.tensor" in report.listing) == (config.variant == "descriptor")


def test_causal_and_split_keys_and_bfloat16() -> None:
    config = Config(64, 64, 64, 256, 8, 2, splits=3)
    assert not compile_forward("sm_86", 512, config, is_causal=True).problems
    assert not compile_forward("sm_86", 160, tiles.defaults("sm_86", 160), is_causal=True, dtype="bf16").problems


def test_old_cards_get_no_tensor_cores_from_triton() -> None:
    """Why turing.cu exists: the gate sees what it is there to see."""
    report = compile_forward("sm_75", 64, Config(64, 32, 64, 64, 4, 1))
    assert "no tensor-core instruction" in report.problems
