"""The CUDA C++ kernels without a GPU: what NVRTC makes of them, and turing.cu's arithmetic in an emulated block."""

from __future__ import annotations

import ctypes
import functools
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kernels.gpu import hopper, nvrtc, turing

HERE = Path(__file__).parent


def loaded(source: Path, library: Path, optimise: str) -> ctypes.CDLL:
    """`source`, which emulates a kernel's block or cluster, compiled for this machine."""
    flags = ["-std=c++20", optimise, "-w", "-shared", "-fPIC", "-pthread", f"-I{HERE}"]
    subprocess.run(["g++", *flags, "-o", str(library), str(source)], check=True, timeout=120)
    return ctypes.CDLL(str(library))


@pytest.fixture
def nvrtc_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if not nvrtc.available():
        pytest.skip("no NVRTC: the nvidia-cuda-nvrtc package is for Linux and Windows")
    monkeypatch.setenv("ZELLIGE_CACHE", str(tmp_path))
    return tmp_path


def usage(cubin: bytes, folder: Path) -> tuple[dict[str, int], str]:
    """(registers, stack and local bytes, machine code), read with the tools inside Triton."""
    pytest.importorskip("triton", reason="Triton has wheels for Linux alone")
    from kernels.gpu.aot import nvidia_tool

    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    said = subprocess.run(
        [nvidia_tool("cuobjdump"), "-res-usage", str(file)], capture_output=True, text=True, check=True
    )
    code = subprocess.run([nvidia_tool("nvdisasm"), "-c", str(file)], capture_output=True, text=True, check=True)
    return {k: int(v) for k, v in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said.stdout + said.stderr)}, code.stdout


@pytest.mark.parametrize(("d", "is_causal"), [(d, d in (40, 160, 512)) for d in turing.PLANS] + [(512, False)])
def test_turing_compiles_for_the_card(d: int, is_causal: bool, nvrtc_here: Path) -> None:
    plan = turing.PLANS[d]
    assert plan.shared <= 64 * 1024
    cubin = nvrtc.compile_source(turing.source(), "sm_75", plan.defines(is_causal))
    used, code = usage(cubin, nvrtc_here)
    assert used["STACK"] == 0 and used.get("LOCAL", 0) == 0
    assert "HMMA.1688.F32" in code
    assert not re.search(r"\b(LDGSTS|LDL|STL)\b", code)


def test_turing_as_ptx_stays_with_turing(nvrtc_here: Path) -> None:
    text = nvrtc.compile_source(turing.source(), "compute_75", turing.PLANS[64].defines(False)).decode()
    assert ".target sm_75" in text
    assert "mma.sync.aligned.m16n8k8" in text
    assert "cp.async" not in text


def test_compiled_code_is_kept(nvrtc_here: Path) -> None:
    plan = turing.PLANS[40]
    first = nvrtc.compile_source(turing.source(), "sm_75", plan.defines(False))
    (file,) = (nvrtc_here / "kernels").iterdir()
    file.write_bytes(b"kept")
    assert nvrtc.compile_source(turing.source(), "sm_75", plan.defines(False)) == b"kept" != first
    with pytest.raises(nvrtc.CompilerError, match="refused a kernel"):
        nvrtc.compile_source("this is no kernel", "sm_75", {})


@pytest.mark.parametrize(("bfloat", "partial", "cluster"), [(False, False, 2), (True, True, 2), (False, False, 1)])
def test_hopper_compiles_to_overlapping_multiplications(
    bfloat: bool, partial: bool, cluster: int, nvrtc_here: Path
) -> None:
    cubin = nvrtc.compile_source(hopper.source(), "sm_90a", hopper.defines(bfloat, partial, cluster))
    used, code = usage(cubin, nvrtc_here)
    assert used["STACK"] == 0 and used.get("LOCAL", 0) == 0
    assert code.count("HGMMA.64x32x16") == 64 and code.count("HGMMA.64x256x16") == 8
    assert ("UTMALDG.5D.MULTICAST" in code) == (cluster > 1) and "UTMALDG.5D" in code and "USETMAXREG" in code
    # ptxas that gives up on overlap waits after each multiplication, dozens of times
    assert code.count("WARPGROUP.DEPBAR") == 4
    assert hopper.SHARED <= 232448


def emulated(d: int, is_causal: bool, folder: Path) -> ctypes.CDLL:
    """turing.cu with its few PTX functions replaced by those of emulator.hpp."""
    text = turing.source()
    first, after = text.index("__device__ __forceinline__ u32 shared_address"), text.index("// keys x D halves")
    defines = "".join(f"#define {k} {v}\n" for k, v in turing.PLANS[d].defines(is_causal).items())
    call = """
    extern "C" void run(int block, const unsigned short* q, const unsigned short* k, const unsigned short* v,
                        unsigned short* out, float* lse, const long long* s, int heads, int nq, int nk, int blocks,
                        float scale) {
        run_block(block, THREADS, [=] { attention(q, k, v, out, lse, s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7],
        s[8], s[9], s[10], s[11], heads, nq, nk, blocks, scale); });
    }"""
    source = folder / "turing.cpp"
    source.write_text(f'#include "emulator.hpp"\n{defines}{text[:first]}{text[after:]}{call}')
    library = folder / "turing.so"
    return loaded(source, library, "-O1")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ for the emulated block")
@pytest.mark.parametrize(("d", "is_causal"), [(40, True), (160, False), (512, True)])
def test_turing_emulated_against_float64(d: int, is_causal: bool, tmp_path: Path) -> None:
    plan = turing.PLANS[d]
    library = emulated(d, is_causal, tmp_path)
    torch.manual_seed(d)
    n_queries = plan.block_m + 11  # a whole block and a part of one, whole tiles of keys and a part of one
    n_keys = n_queries if is_causal else 2 * plan.block_n + 5
    q = torch.randn(1, n_queries, 2, d).half().transpose(1, 2)
    k, v = torch.randn(2, 1, 2, n_keys, d).half()
    out = torch.full((1, 2, n_queries, d), math.nan).half()
    lse = torch.full((1, 2, n_queries), math.nan)
    strides = (ctypes.c_longlong * 12)(*(t.stride(i) for t in (q, k, v, out) for i in range(3)))
    blocks = -(-n_queries // plan.block_m)
    scale = d**-0.5
    for block in range(blocks * 2):
        library.run(
            block,
            *(ctypes.c_void_p(t.data_ptr()) for t in (q, k, v, out, lse)),
            strides,
            2,
            n_queries,
            n_keys,
            blocks,
            ctypes.c_float(scale * math.log2(math.e)),
        )
    scores = q.double() @ k.double().mT * scale
    if is_causal:
        scores = scores.masked_fill(~torch.ones(n_queries, n_keys, dtype=torch.bool).tril(), -math.inf)
    wanted = scores.softmax(-1) @ v.double()
    assert (out.double() - wanted).norm() < 5e-4 * wanted.norm()  # float16 operands and output: about 2.5e-4
    assert torch.allclose(lse.double(), scores.logsumexp(-1), atol=1e-5)


@pytest.fixture(scope="module")
def emulated_cluster(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], ctypes.CDLL]:
    """hopper.cu with its assembly replaced by cluster.hpp, for whole or for split keys; each is compiled once."""
    return functools.cache(lambda partial: _emulated_cluster(partial, tmp_path_factory.mktemp("hopper")))


def _emulated_cluster(partial: bool, folder: Path) -> ctypes.CDLL:
    text = hopper.source()
    first, after = text.index("// ---- the assembly"), text.index("// ---- from here on, no assembly")
    kernel = text[after:].replace(
        "extern __shared__ __align__(1024) unsigned char storage[];", "unsigned char* storage = block_of().memory;"
    )
    kernel = kernel.replace("(u32)__cvta_generic_to_shared(storage)", "0")
    call = """
    extern "C" void run(int cluster, int grid, const u64* words, unsigned short* out, float* lse, float* parts,
                        float* part_lse, u32* counters, int heads, int nq, int nk, int blocks, int splits, int tiles,
                        float scale) {
        TensorMap maps[3];
        for (int i = 0; i < 24; ++i) maps[i / 8].words[i % 8] = words[i];
        run_cluster(cluster, grid, [=] { attention(maps[0], maps[1], maps[2], out, lse, parts, part_lse, counters,
                                                   heads, nq, nk, blocks, splits, tiles, scale); });
    }"""
    source = folder / "hopper.cpp"
    source.write_text(
        f"#define BFLOAT 0\n#define PARTIAL {int(partial)}\n#define CLUSTER 2\n{text[:first]}"
        + f'#include "cluster.hpp"\n{kernel}{call}'
    )
    library = folder / "hopper.so"
    return loaded(source, library, "-O2")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ for the emulated cluster")
@pytest.mark.parametrize(
    ("batch", "heads", "n_queries", "n_keys", "splits", "amplitude"),
    [(1, 2, 70, 150, 1, 1.0), (1, 1, 130, 200, 2, 3.0), (2, 1, 20, 150, 3, 1.0), (2, 1, 20, 31, 1, 1.0)],
)
def test_hopper_emulated_against_float64(
    batch: int,
    heads: int,
    n_queries: int,
    n_keys: int,
    splits: int,
    amplitude: float,
    emulated_cluster: Callable[[bool], ctypes.CDLL],
) -> None:
    library = emulated_cluster(splits > 1)
    torch.manual_seed(n_keys)
    q = torch.randn(batch, n_queries, heads, 512).half().transpose(1, 2) * amplitude
    k, v = (torch.randn(batch, n_keys, heads, 512).half().transpose(1, 2) for _ in "kv")
    out, lse = torch.full(q.shape, math.nan).half(), torch.full((batch, heads, n_queries), math.nan)
    parts, part_lse = torch.full((splits, *q.shape), math.nan), torch.full((splits, *lse.shape), math.nan)
    words = [
        word
        for t, box in ((q, (64, 8)), (k, (32, 1)), (v, (16, 2)))
        for word in (t.data_ptr(), t.shape[2], t.stride(2), t.stride(1), t.stride(0), *box, 0)
    ]
    blocks = hopper._blocks_m(n_queries)
    counters = torch.zeros(batch * heads * blocks, dtype=torch.int32)
    grid = blocks * splits * batch * heads
    tiles = -(-n_keys // hopper.BLOCK)
    per_split = -(-tiles // splits)
    scale = 512**-0.5
    for cluster in range(grid // 2):
        library.run(
            cluster,
            grid,
            (ctypes.c_uint64 * 24)(*words),
            *(ctypes.c_void_p(t.data_ptr()) for t in (out, lse, parts, part_lse, counters)),
            heads,
            n_queries,
            n_keys,
            blocks,
            splits,
            per_split,
            ctypes.c_float(scale * math.log2(math.e)),
        )
    scores = q.double() @ k.double().mT * scale
    wanted = scores.softmax(-1) @ v.double()
    assert (out.double() - wanted).norm() < 5e-4 * wanted.norm()  # float16 probabilities and output: below 3e-4
    assert torch.allclose(lse.double(), scores.logsumexp(-1), atol=2e-5)
    assert not counters.any()  # ready for the next call


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "says"),
    [
        ((1, 1, 8, 48), torch.float16, ValueError, "Expected a head size of 40, 64, 80, 128, 160, 512, but got 48"),
        ((1, 1, 8, 64), torch.bfloat16, TypeError, "Expected float16 for all"),
        ((1, 1, 8, 64), torch.float16, ValueError, "Expected one CUDA device, but got cpu"),
        ((1, 1, 0, 64), torch.float16, ValueError, "Expected no empty dimension"),
    ],
)
def test_turing_refuses(shape: tuple[int, ...], dtype: torch.dtype, error: type[Exception], says: str) -> None:
    q = torch.zeros(shape, dtype=dtype)
    with pytest.raises(error, match=says):
        turing.forward(q, q, q, scale=1.0)


def test_hopper_refuses_the_cpu() -> None:
    q = torch.zeros(1, 1, 8, 512, dtype=torch.float16)
    assert not hopper.supports(q, q, q)
    with pytest.raises(ValueError, match="Expected aligned float16 or bfloat16"):
        hopper.forward(q, q, q, scale=1.0)


def test_splits_fill_the_gpu_and_are_never_empty() -> None:
    for n_keys in (1, 63, 64, 65, 700, 5000):
        for n_queries in (1, 200, 4096):
            splits = hopper.split_count(n_queries, n_keys, 1, 132)
            tiles = -(-n_keys // hopper.BLOCK)
            per_split = -(-tiles // splits)
            assert (splits - 1) * per_split < tiles <= splits * per_split
