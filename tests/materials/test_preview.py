from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asd.errors import ZelligeError
from materials import Material, render
from materials.maps import normal_from_height
from materials.material import MAPS
from materials.preview import flat
from materials.shading import Light, Studio, Surface, linear_to_srgb, shade, srgb_to_linear, tone_map


def plain(
    size: tuple[int, int] = (32, 32), colour: float = 0.5, roughness: float = 0.6, metallic: float = 0.0
) -> Material:
    ones = torch.ones(1, *size)
    return Material(
        basecolor=torch.full((3, *size), colour),
        normal=torch.cat([0 * ones, 0 * ones, ones]),
        height=0.5 * ones,
        roughness=roughness * ones,
        metallic=metallic * ones,
        depth_m=0.0,
        size_m=(1.0, 1.0),
    )


def bumpy(size: int = 64) -> Material:
    x = torch.arange(size) / size * 2 * math.pi
    height = (0.5 + 0.25 * torch.sin(2 * x)[None] + 0.2 * torch.cos(3 * x)[:, None])[None]
    normal = normal_from_height(height[None], depth_m=0.05, size_m=(1.0, 1.0))[0]
    noise = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    return replace(plain((size, size)), height=height, normal=normal, depth_m=0.05, basecolor=0.3 + 0.4 * noise)


def reflectance(normal: Tensor, view: Tensor, light: Tensor, base: float, rough: float, metal: float) -> float:
    """The glTF 2.0 BRDF (Appendix B) times the cosine, written out with plain numbers."""
    half = (view + light) / float((view + light).norm())
    n_l, n_v, n_h, v_h = (float(a @ b) for a, b in ((normal, light), (normal, view), (normal, half), (view, half)))
    a2 = rough**4
    d = a2 / (math.pi * (n_h**2 * (a2 - 1) + 1) ** 2)
    v = 0.5 / (n_l * math.sqrt(n_v**2 * (1 - a2) + a2) + n_v * math.sqrt(n_l**2 * (1 - a2) + a2))
    schlick = (1 - v_h) ** 5
    dielectric = 0.04 + 0.96 * schlick
    metallic = (base + (1 - base) * schlick) * d * v
    plastic = (1 - dielectric) * base / math.pi + dielectric * d * v
    return (plastic + metal * (metallic - plastic)) * n_l


@pytest.mark.parametrize("metal", [0.0, 1.0])
@pytest.mark.parametrize("rough", [0.2, 0.5, 1.0])
def test_brdf_equals_the_gltf_formula(rough: float, metal: float) -> None:
    normal = torch.tensor([0.0, 0.0, 1.0])
    view = torch.nn.functional.normalize(torch.tensor([0.3, -0.2, 0.9]), dim=0)
    light = torch.nn.functional.normalize(torch.tensor([-0.5, 0.4, 0.7]), dim=0)
    one = torch.ones(1)
    surface = Surface(torch.full((3, 1), 0.6), normal[:, None], view[:, None], rough * one, metal * one, one)
    aim = (float(light[0]), float(light[1]), float(light[2]))
    black = (0.0, 0.0, 0.0)
    dark = Studio(lights=(Light(aim, (math.pi, math.pi, math.pi)),), lobes=(), ground=black, sky=black)
    # `colour` is the irradiance over pi
    expected = reflectance(normal, view, light, 0.6, rough, metal) * math.pi * math.pi
    assert shade(surface, dark, (1.0,)).flatten().tolist() == pytest.approx([expected] * 3, rel=1e-4)


def test_colour_curves_invert_each_other() -> None:
    x = torch.linspace(0, 1, 257)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(x)), x, atol=1e-5, rtol=0)
    assert float(srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.21404, abs=1e-4)


def test_tone_curve_is_monotonic_and_bounded() -> None:
    ramp = torch.linspace(0, 50, 2001).repeat(3, 1)
    mapped = tone_map(ramp)
    assert float(mapped.min()) >= 0 and float(mapped.max()) <= 1
    assert bool((mapped.diff(dim=1) >= -1e-6).all())


@pytest.mark.parametrize("size", [(96, 96), (120, 64), (16, 40)])
def test_render_has_the_size_asked_for(size: tuple[int, int]) -> None:
    picture = render(bumpy(), size)
    assert picture.shape == (3, size[1], size[0]) and picture.dtype == torch.float32
    assert bool(torch.isfinite(picture).all()) and float(picture.min()) >= 0 and float(picture.max()) <= 1


def test_render_is_repeatable_and_leaves_the_material_alone() -> None:
    m = bumpy()
    before = m.to_network().clone()
    torch.testing.assert_close(render(m, (64, 64)), render(m, (64, 64)), atol=0, rtol=0)
    torch.testing.assert_close(m.to_network(), before, atol=0, rtol=0)


def test_render_shows_what_the_maps_say() -> None:
    ball = (slice(None), slice(30, 60), slice(38, 58))
    dark, light = render(plain(colour=0.2), (96, 96)), render(plain(colour=0.8), (96, 96))
    assert float(light[ball].mean()) > float(dark[ball].mean()) + 0.2
    glossy, rough = render(plain(roughness=0.1), (96, 96)), render(plain(roughness=1.0), (96, 96))
    assert float(glossy.max()) > float(rough.max()) + 0.05
    red = replace(plain(), basecolor=torch.tensor([0.8, 0.1, 0.1])[:, None, None].repeat(1, 32, 32))
    seen = render(red, (96, 96))[ball].mean((1, 2))
    assert float(seen[0]) > 3 * float(seen[1])
    assert float(render(bumpy(), (96, 96))[ball].std()) > 1.5 * float(render(plain(), (96, 96))[ball].std())


@pytest.mark.parametrize("size", [(1, 64), (64, 1), (1, 1), (33, 17)])
def test_odd_materials_render(size: tuple[int, int]) -> None:
    rows, columns = size
    assert bool(torch.isfinite(render(plain(size), (48, 48))).all())
    assert flat(plain(size)).shape == (3, 2 * rows, 2 * columns)


def test_flat_view_repeats_and_limits_its_size() -> None:
    picture = flat(bumpy(), (2, 3))
    assert picture.shape == (3, 192, 128)
    torch.testing.assert_close(picture[:, :64, :64], picture[:, 128:, 64:], atol=0, rtol=0)
    assert flat(bumpy(), largest=100).shape == (3, 100, 100)


def test_flat_view_rolls_with_the_material() -> None:
    m = bumpy()
    maps = {name: torch.roll(getattr(m, name), (9, 20), (1, 2)) for name in MAPS}
    torch.testing.assert_close(flat(replace(m, **maps)), torch.roll(flat(m), (9, 20), (1, 2)), atol=1e-5, rtol=0)


def test_flat_view_keeps_a_neutral_colour() -> None:
    seen = flat(plain(colour=0.5)).mean((1, 2))
    assert float(seen.mean()) == pytest.approx(0.5, abs=0.12)
    assert float(seen.max() - seen.min()) < 0.04


def test_the_light_of_the_flat_view_comes_from_the_upper_left() -> None:
    tilted = torch.nn.functional.normalize(torch.tensor([-0.4, 0.4, 1.0]), dim=0)
    towards = replace(plain(), normal=tilted[:, None, None].repeat(1, 32, 32))
    away = replace(plain(), normal=(tilted * torch.tensor([-1.0, -1.0, 1.0]))[:, None, None].repeat(1, 32, 32))
    assert float(flat(towards).mean()) > float(flat(away).mean()) + 0.1


@pytest.mark.parametrize("size", [(8, 64), (64, 5000), (0, 0)])
def test_unusable_preview_size(size: tuple[int, int]) -> None:
    with pytest.raises(ZelligeError, match="16 to 4096 pixels"):
        render(plain(), size)


def test_unusable_repeat() -> None:
    with pytest.raises(ValueError, match="repeat above 0"):
        render(plain(), (64, 64), repeat=0)
