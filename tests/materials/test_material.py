from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asd.errors import ZelligeError
from materials import Material
from materials.material import MIN_NORMAL_Z


def network(seed: int = 0, size: tuple[int, int] = (12, 20)) -> Tensor:
    x = torch.rand(8, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    x[3:5] *= 0.6
    return x


def material(seed: int = 0, size: tuple[int, int] = (12, 20)) -> Material:
    return Material.from_network(network(seed, size), depth_m=0.02, size_m=(1.0, 0.6))


def test_network_round_trip() -> None:
    x = network()
    torch.testing.assert_close(material().to_network(), x, atol=1e-6, rtol=0)
    assert material().size == (20, 12)


def test_layout() -> None:
    m = material()
    x = m.to_network()
    expected = torch.cat([m.basecolor * 2 - 1, m.normal[:2], m.height * 2 - 1, m.roughness * 2 - 1, m.metallic * 2 - 1])
    torch.testing.assert_close(x, expected, atol=0, rtol=0)


def test_any_float_input_gives_a_valid_material() -> None:
    wild = (torch.randn(8, 9, 7, generator=torch.Generator().manual_seed(1)) * 3).to(torch.float16)
    m = Material.from_network(wild, depth_m=0.0, size_m=(1.0, 1.0), seamless="none")
    torch.testing.assert_close(m.normal.norm(dim=0), torch.ones(9, 7), atol=1e-5, rtol=0)
    assert float(m.normal[2].min()) >= MIN_NORMAL_Z - 1e-6
    assert round((float(m.normal[2].min()) * 0.5 + 0.5) * 255) > 127.5  # blue above one half, in 8 bits too


def test_from_network_does_not_keep_the_caller_memory() -> None:
    x = network()
    m = Material.from_network(x, depth_m=0.02, size_m=(1.0, 1.0))
    before = m.basecolor.clone()
    x.fill_(0)
    torch.testing.assert_close(m.basecolor, before, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"basecolor": torch.zeros(1, 12, 20)}, r"basecolor of shape \(3, 12, 20\)"),
        ({"basecolor": torch.zeros(3, 12)}, r"basecolor of shape \(3, H, W\)"),
        ({"height": torch.zeros(1, 12, 21)}, r"height of shape \(1, 12, 20\), but got \(1, 12, 21\)"),
        ({"roughness": torch.zeros(1, 12, 20, dtype=torch.float64)}, "roughness as float32"),
        ({"metallic": torch.full((1, 12, 20), 1.5)}, r"metallic in \[0, 1\], but got 1.5"),
        ({"height": torch.full((1, 12, 20), float("nan"))}, r"height in \[0, 1\]"),
        ({"normal": torch.zeros(3, 12, 20)}, "unit normals"),
        ({"normal": torch.tensor([0.0, 0.0, -1.0])[:, None, None].repeat(1, 12, 20)}, "out of the surface"),
        ({"depth_m": -1.0}, "depth_m of 0 or more"),
        ({"depth_m": float("inf")}, "depth_m of 0 or more"),
        ({"size_m": (0.0, 1.0)}, "size_m as two lengths"),
        ({"size_m": (1.0,)}, "size_m as two lengths"),
        ({"seamless": "z"}, "none, x, y, xy, but got 'z'"),
    ],
)
def test_invalid_values_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ZelligeError, match=words):
        replace(material(), **change)


@pytest.mark.parametrize("shape", [(7, 4, 4), (1, 8, 4, 4)])
def test_from_network_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ZelligeError, match="8, H, W"):
        Material.from_network(torch.zeros(shape), depth_m=0.0, size_m=(1.0, 1.0))


def test_from_network_refuses_nan() -> None:
    with pytest.raises(ZelligeError, match="NaN"):
        Material.from_network(torch.full((8, 4, 4), float("nan")), depth_m=0.0, size_m=(1.0, 1.0))
