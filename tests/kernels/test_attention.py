"""`attention` on random calls against float64, with PyTorch's own error as the measure; edges and errors."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.attention_fuzz import error_of_pytorch
from kernels import attention, explain, linear_attention
from kernels.paths import Path, paths
from kernels.tiled import TiledPath
from tests.kernels.reference import Largest, call, exact, peak_bytes

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def tensor(rng: random.Random, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """Random numbers in a random layout of memory."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    b, h, n, d = shape
    layout = rng.choice(["plain", "tokens first", "every other", "columns", "one head for all", "reversed"])
    if layout == "tokens first":  # what diffusers hands in
        return torch.randn(b, n, h, d, generator=generator).to(dtype).transpose(1, 2)
    if layout == "every other":
        return torch.randn(b, h, 2 * n, 2 * d, generator=generator).to(dtype)[:, :, ::2, ::2]
    if layout == "columns":
        return torch.randn(b, h, d, n, generator=generator).to(dtype).transpose(2, 3)
    if layout == "one head for all":
        return torch.randn(b, 1, n, d, generator=generator).to(dtype).expand(shape)
    if layout == "reversed":
        return torch.randn(h, b, n, d, generator=generator).to(dtype).transpose(0, 1)
    return torch.randn(shape, generator=generator).to(dtype)


def random_call(seed: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    rng = random.Random(seed)
    b, h = rng.choice([(1, 1), (1, 3), (2, 2), (3, 1), (2, 5)])
    nq, nk = rng.randint(1, 130), rng.choice([1, 7, 77, rng.randint(1, 300)])
    d = rng.choice([1, 3, 8, 40, 64, 80, 160])
    dv = rng.choice([d, d, d, 24])
    dtype = rng.choice(DTYPES)
    q, k, v = (tensor(rng, s, dtype) for s in ((b, h, nq, d), (b, h, nk, d), (b, h, nk, dv)))
    kwargs: dict[str, Any] = {"scale": rng.choice([None, None, 0.3, -0.1, 1.0])}
    shape = tuple(n if rng.random() < 0.6 else 1 for n in (b, h, nq, nk))[rng.choice([0, 0, 2, 3]) :]
    kind = rng.choice(["none", "none", "causal", "bool", "additive", "float32", "-inf"])
    generator = torch.Generator().manual_seed(seed)
    if kind == "causal":
        kwargs["is_causal"] = True
    elif kind == "bool":
        kwargs["mask"] = torch.rand(shape, generator=generator) < rng.choice([0.1, 0.7])
    elif kind != "none":
        mask = torch.randn(shape, generator=generator).mul(2).round().div(2)  # the same in every dtype
        if kind == "-inf":
            mask = mask.masked_fill(torch.rand(shape, generator=generator) < 0.5, -torch.inf)
        kwargs["mask"] = mask if kind == "float32" else mask.to(dtype)
    return q, k, v, kwargs


def their_mask(q: Tensor, mask: Tensor | None) -> Tensor | None:
    """PyTorch wants at least two dimensions, and the dtype of q."""
    if mask is None or mask.dtype == torch.bool:
        return mask if mask is None or mask.ndim > 1 else mask[None]
    return (mask if mask.ndim > 1 else mask[None]).to(q.dtype)


def without_mask(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "mask"}


def error(made: Tensor, right: Tensor) -> float:
    assert torch.isfinite(made).all()
    return float((made.double() - right).abs().max())


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_random_calls_are_as_exact_as_pytorch(first: int) -> None:
    tiled = TiledPath()
    for seed in range(first, first + 25):
        q, k, v, kwargs = random_call(seed)
        right = exact(q, k, v, **kwargs)
        with sdpa_kernel(SDPBackend.MATH) if kwargs["scale"] == -0.1 else nullcontext():  # else PyTorch may answer NaN
            theirs = F.scaled_dot_product_attention(q, k, v, their_mask(q, kwargs.get("mask")), **without_mask(kwargs))
        # one rounding of the largest output: below that no kernel can tell; float64 is no better than its reference
        rounding = 1e-13 if q.dtype == torch.float64 else torch.finfo(q.dtype).eps
        bound = 1.5 * error(theirs, right) + rounding * float(right.abs().max())
        least = tiled.workspace(call(q, k, v, **kwargs, budget_bytes=0))
        for budget in (None, 4 * least, least)[: 3 if seed % 10 == 0 else 1 + seed % 2]:
            made = attention(q, k, v, **kwargs, budget_bytes=budget)
            assert made.shape == right.shape and made.dtype == q.dtype
            assert error(made, right) <= bound, (seed, budget)
        assert error(tiled.run(call(q, k, v, **kwargs)), right) <= bound, seed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_random_calls_on_a_gpu(first: int) -> None:
    for seed in range(first, first + 25):
        q, k, v, kwargs = random_call(seed)
        right = exact(q, k, v, **kwargs)
        moved: dict[str, Any] = {
            name: value.cuda() if isinstance(value, Tensor) else value for name, value in kwargs.items()
        }
        q, k, v = q.cuda(), k.cuda(), v.cuda()
        added = torch.zeros(q.shape[2], k.shape[2], dtype=torch.float64, device=q.device)
        if kwargs.get("is_causal"):
            added = added.masked_fill(torch.ones_like(added, dtype=torch.bool).triu(1), -torch.inf)
        mask: Any = moved.get("mask")
        if mask is not None:
            added = added.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else added + mask.double()
        scale = kwargs["scale"] or q.shape[3] ** -0.5
        bound = 1.5 * error_of_pytorch(q, k, v, added, scale, right.cuda())
        rounding = 1e-13 if q.dtype == torch.float64 else torch.finfo(q.dtype).eps
        bound += rounding * float(right.abs().max())
        for budget in (None, 300_000):
            made = attention(q, k, v, **moved, budget_bytes=budget).cpu()
            assert error(made, right) <= bound, (seed, budget)


@pytest.mark.parametrize("path", ["sdpa", "tiled"])
def test_a_row_that_sees_no_key_is_zero(path: str) -> None:
    q, k, v = (torch.randn(1, 2, 40, 8, requires_grad=True) for _ in range(3))
    seen = torch.rand(40, 40) < 0.5
    seen[3] = seen[17] = False
    for mask in (seen, torch.zeros(40, 40).masked_fill(~seen, -torch.inf)):
        found = next(p for p in paths() if p.name == path)
        made = found.run(call(q, k, v, mask=mask))
        assert (made[:, :, [3, 17]] == 0).all() and (made[:, :, 4] != 0).any()
        grads = torch.autograd.grad(made.sum(), (q, k, v))
        assert all(torch.isfinite(g).all() for g in grads) and (grads[0][:, :, [3, 17]] == 0).all()


@pytest.mark.parametrize("path", ["sdpa", "tiled"])
def test_nan_reaches_the_rows_that_attend_to_it(path: str) -> None:
    found = next(p for p in paths() if p.name == path)
    q, k, v = (torch.randn(1, 1, 40, 8) for _ in range(3))
    k[0, 0, 5, 2] = torch.nan
    assert found.run(call(q, k, v)).isnan().all()
    made = found.run(call(q, k, v, is_causal=True))
    assert made[:, :, 5:].isnan().all()
    k = torch.randn(1, 1, 40, 8)
    q[0, 0, 7, 1] = torch.nan
    rows = found.run(call(q, k, v)).isnan().all(-1)[0, 0]
    assert rows.nonzero().flatten().tolist() == [7]
    v[0, 0, 9, 3] = torch.nan
    made = found.run(call(q, k, v))
    assert made[..., 3].isnan().all() and not made[0, 0, :7, :3].isnan().any()


@pytest.mark.parametrize(
    "shapes",
    [
        ((0, 2, 5, 4), (0, 2, 6, 4), (0, 2, 6, 4)),
        ((1, 0, 5, 4), (1, 0, 6, 4), (1, 0, 6, 4)),
        ((1, 2, 0, 4), (1, 2, 6, 4), (1, 2, 6, 4)),
        ((1, 2, 5, 4), (1, 2, 0, 4), (1, 2, 0, 4)),
        ((1, 2, 5, 4), (1, 2, 6, 4), (1, 2, 6, 0)),
    ],
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_empty_tensors_give_empty_or_zero_outputs(shapes: tuple[tuple[int, ...], ...], is_causal: bool) -> None:
    q, k, v = (torch.randn(s, requires_grad=True) for s in shapes)
    made = attention(q, k, v, is_causal=is_causal)
    assert made.shape == (*shapes[0][:3], shapes[2][3]) and (made == 0).all()
    for grad, t in zip(torch.autograd.grad(made.sum(), (q, k, v)), (q, k, v), strict=True):
        assert grad.shape == t.shape and (grad == 0).all()
    assert explain(q, k, v, is_causal=is_causal).path == "tiled"


def test_an_empty_grid() -> None:
    q = torch.randn(1, 1, 0, 4)
    assert attention(q, q, q, window=((0, 5), (1, 1)), wrap="xy").shape == q.shape


SMALL = torch.zeros(1, 2, 6, 4)
BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"q": SMALL[0]}, r"shape \(B, H, N, D\), but got q \(2, 6, 4\), k \(1, 2, 6, 4\)"),
    ({"q": torch.zeros(2, 2, 6, 4)}, r"one batch size .* q \(2, 2, 6, 4\)"),
    ({"v": torch.zeros(1, 3, 6, 4)}, r"number of heads.* v \(1, 3, 6, 4\)"),
    ({"k": torch.zeros(1, 2, 6, 5)}, r"one head size .* k \(1, 2, 6, 5\)"),
    ({"q": SMALL[..., :0], "k": SMALL[..., :0]}, r"head size of at least 1, but got q \(1, 2, 6, 0\)"),
    ({"v": torch.zeros(1, 2, 7, 4)}, r"as many keys as values.* v \(1, 2, 7, 4\)"),
    ({"k": SMALL.to("meta")}, "one device.* k on meta"),
    ({"mask": torch.zeros(5, 6)}, r"broadcasts to .*\(1, 2, 6, 6\), but got shape \(5, 6\)"),
    ({"mask": torch.zeros(1, 1, 1, 6, 6)}, r"broadcasts to .* \(1, 1, 1, 6, 6\)"),
    ({"mask": torch.zeros(6, 6, device="meta")}, "device of q, cpu, but got it on meta"),
    ({"mask": torch.zeros(6, 6), "is_causal": True}, "mask or is_causal=True, but got both"),
    ({"scale": float("nan")}, "finite number, but got nan"),
    ({"scale": True}, "finite number, but got True"),
    ({"budget_bytes": -1}, "at least 0, but got -1"),
    ({"budget_bytes": 100}, r"budget_bytes to fit .* \(1, 2, 6, 6\), but got 100 .*sdpa: it needs \d+ bytes.*6 keys"),
    ({"window": (2, 3)}, r"\(\(height, width\), \(radius_y, radius_x\)\), but got \(2, 3\)"),
    ({"window": ((2, 3), (1, -1))}, r"whole numbers of at least 0, but got \(\(2, 3\), \(1, -1\)\)"),
    ({"window": ((2, 3), (1, 0.5))}, "whole numbers"),
    ({"window": ((2, 4), (1, 1))}, "2 x 4 = 8, 6 queries and 6 keys"),
    ({"wrap": "xy"}, "together with a window, but got wrap='xy'"),
    ({"window": ((2, 3), (1, 1)), "wrap": "yx"}, "one of none, x, y, xy, but got 'yx'"),
]
BAD_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"q": [1.0]}, "q to be a tensor, but got list"),
    ({"k": SMALL.half()}, "one dtype .* k torch.float16"),
    ({"q": SMALL.long(), "k": SMALL.long(), "v": SMALL.long()}, "q torch.int64"),
    ({"v": SMALL.to_sparse()}, "dense tensors.* v torch.sparse_coo"),
    ({"mask": [True]}, "mask to be a tensor or None, but got list"),
    ({"mask": torch.zeros(6, 6, dtype=torch.int64)}, "bool or floating point, but got torch.int64"),
    ({"budget_bytes": 1.5}, "int or None, but got 1.5"),
]


@pytest.mark.parametrize("function", [attention, explain])
@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [(ValueError, *bad) for bad in BAD_VALUES] + [(TypeError, *bad) for bad in BAD_TYPES],
)
def test_bad_input_is_named(function: Any, kind: type[Exception], kwargs: dict[str, Any], message: str) -> None:
    tensors = [kwargs.get(name, SMALL) for name in "qkv"]
    with pytest.raises(kind, match=message):
        function(*tensors, **{name: value for name, value in kwargs.items() if name not in "qkv"})


def test_explain_says_what_attention_does() -> None:
    q = torch.randn(1, 2, 600, 16)
    plain, small = explain(q, q, q), explain(q, q, q, budget_bytes=200_000)
    assert plain.path == "sdpa" and plain.tiles is None and plain.flops == 4 * 2 * 600 * 600 * 16
    assert small.path == "tiled" and small.workspace_bytes <= 200_000 and small.tiles is not None
    assert dict(small.refused)["sdpa"].startswith("it needs")
    assert "\n" not in str(small) and "'tiled'" in str(small) and "queries" in str(small)
    assert explain(q, q, q, is_causal=True).flops < 0.51 * plain.flops
    with pytest.raises(FrozenInstanceError):
        plain.path = "other"  # pyright: ignore[reportAttributeAccessIssue] - that it is an error is the point


def test_pytorch_is_not_asked_where_it_would_build_all_scores() -> None:
    q = torch.randn(1, 1, 512, 8)
    assert explain(q, q, q[..., :4]).path == "tiled"  # its kernels want one head size
    assert "copy of the mask" in dict(explain(q, q, q, mask=torch.ones(512, 512, dtype=torch.bool)).refused)["sdpa"]
    learned = torch.zeros(512, 512, requires_grad=True)
    assert explain(q, q, q, mask=learned).path == "tiled"
    with torch.no_grad():
        assert explain(q, q, q, mask=learned).path == "sdpa"
    assert explain(q, q, q, mask=torch.ones(512, dtype=torch.bool)).path == "sdpa"


@pytest.mark.parametrize("kwargs", [{}, {"is_causal": True}, {"mask": torch.ones(1, 300, dtype=torch.bool)}])
def test_rows_spread_over_memory_are_gathered_for_pytorch(kwargs: dict[str, Any]) -> None:
    whole = torch.randn(1, 2, 32, 300).transpose(2, 3)
    part = torch.randn(1, 2, 300, 64)[..., ::2].requires_grad_()
    for tensors in ((whole, whole, whole), (whole, part, part)):
        said = explain(*tensors, **kwargs)
        assert said.path == "sdpa"
        with Largest() as largest:
            made = attention(*tensors, **kwargs)
        assert largest.elements < 300 * 300
        assert error(made.detach(), exact(*tensors, **kwargs).detach()) < 5e-6
        output = made.numel() * made.itemsize
        with torch.no_grad():
            said = explain(*tensors, **kwargs)
            assert peak_bytes(lambda t=tensors: attention(*t, **kwargs)) - output <= said.workspace_bytes


@pytest.mark.parametrize("scale", [-0.5, 0.0, -0.0])
@pytest.mark.parametrize("masked", ["not", "causal", "bool", "-inf"])
def test_scales_that_are_not_positive(scale: float, masked: str) -> None:
    q, k, v = (torch.randn(1, 2, 70, 8) for _ in range(3))
    seen = torch.rand(70, 70) < 0.5
    kwargs: dict[str, Any] = {
        "not": {},
        "causal": {"is_causal": True},
        "bool": {"mask": seen},
        "-inf": {"mask": torch.zeros(70, 70).masked_fill(~seen, -torch.inf)},
    }[masked]
    right = exact(q, k, v, scale=scale, **kwargs)
    assert error(attention(q, k, v, scale=scale, **kwargs), right) < 2e-6
    assert error(attention(q, k, v, scale=scale, **kwargs, budget_bytes=60_000), right) < 2e-6


def test_autocast_does_what_it_does_to_pytorch() -> None:
    q, k, v = torch.randn(1, 2, 70, 8), torch.randn(1, 2, 70, 8).bfloat16(), torch.randn(1, 2, 70, 8)
    mask = torch.randn(70, 70)
    with torch.autocast("cpu", torch.bfloat16):
        made = attention(q, k, v, mask=mask)
        tiled = TiledPath().run(call(q, k, v, mask=mask))
        theirs = F.scaled_dot_product_attention(q, k, v, mask)
    assert made.dtype == tiled.dtype == theirs.dtype == torch.bfloat16
    right = exact(q.bfloat16(), k, v.bfloat16(), mask=mask.bfloat16())
    for found in (made, tiled):
        assert error(found, right) <= 1.5 * error(theirs, right) + torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_tensor_in_all_places(dtype: torch.dtype) -> None:
    q = torch.randn(1, 2, 81, 8).to(dtype).requires_grad_()
    kinds: list[dict[str, Any]] = [{"budget_bytes": 70_000}, {"window": ((9, 9), (1, 1)), "wrap": "x"}]
    for kwargs in kinds:
        made = attention(q, q, q, **kwargs)
        again = attention(q, q.clone(), q.clone(), **kwargs)
        assert torch.equal(made, again)
        for x, y in zip(torch.autograd.grad(made.sum(), q), torch.autograd.grad(again.sum(), q), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=16 * torch.finfo(dtype).eps)  # summed in another order


def test_the_default_device_is_not_where_things_happen() -> None:
    q = torch.randn(1, 2, 30, 8)
    results: list[tuple[Tensor, dict[str, Any]]] = []
    with torch.device("meta"):
        for kwargs in ({"is_causal": True, "budget_bytes": 40_000}, {"is_causal": False, "window": ((5, 6), (1, 1))}):
            arguments: dict[str, Any] = kwargs
            made = attention(q, q, q, **arguments)
            results.append((made, arguments))
        assert linear_attention(q, q, q, causal=True, decay=0.9).device == q.device
    for made, arguments in results:
        assert error(made, exact(q, q, q, **arguments)) < 5e-6


def test_paths_keep_the_protocol() -> None:
    names = [path.name for path in paths()]
    assert len(set(names)) == len(names) and names[-1] == "tiled"
    for path in paths():
        checked: Path = path
        assert checked.why
