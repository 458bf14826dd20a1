"""Shading of points in linear light: the glTF BRDF, a studio of lights and soft boxes, tone mapping.

BRDF: glTF 2.0 specification, Appendix B (GGX, height-correlated Smith visibility, Schlick Fresnel). Environment:
spherical Gaussians (Wang et al. 2009) with the specular integral of Karis (2014). Tone curve: Khronos PBR Neutral.

Directions and colours are (3, P) tensors, scalars (P,); light directions point from the surface to the light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DIELECTRIC_F0 = 0.04
_MIN_ALPHA = 0.003


@dataclass(frozen=True)
class Surface:
    """What is lit: `base` (3, P) linear, `normal` and `view` (3, P) unit vectors, the rest (P,) in [0, 1]."""

    base: Tensor
    normal: Tensor
    view: Tensor
    roughness: Tensor
    metallic: Tensor
    occlusion: Tensor


@dataclass(frozen=True)
class Light:
    """A directional light: unit `direction`, irradiance `colour` on a surface that faces it, over pi."""

    direction: tuple[float, float, float]
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Lobe:
    """A soft box: radiance `colour` * exp(sharpness * (cos - 1)) around `direction`."""

    direction: tuple[float, float, float]
    colour: tuple[float, float, float]
    sharpness: float


@dataclass(frozen=True)
class Studio:
    """Lights, soft boxes, and a vertical gradient of radiance from `ground` to `sky`."""

    lights: tuple[Light, ...]
    lobes: tuple[Lobe, ...]
    ground: tuple[float, float, float]
    sky: tuple[float, float, float]


def shade(surface: Surface, studio: Studio, visibility: tuple[Tensor | float, ...]) -> Tensor:
    """(3, P) outgoing radiance under `studio`; `visibility` says per light how much of it arrives, in [0, 1]."""
    alpha = surface.roughness.square().clamp_min(_MIN_ALPHA)
    n_v = dot(surface.normal, surface.view).clamp(1e-3, 1)
    f0 = DIELECTRIC_F0 + (surface.base - DIELECTRIC_F0) * surface.metallic
    diffuse = surface.base * (1 - surface.metallic)
    out = _ambient(surface, studio, alpha, n_v, f0, diffuse)
    for light, arrives in zip(studio.lights, visibility, strict=True):
        out += _reflected(surface, light, alpha, n_v, f0, diffuse, arrives)
    return out


def reflect(surface: Surface, light: Light) -> Tensor:
    """(3, P) radiance that one light causes: the glTF BRDF times the cosine times pi times the light's colour."""
    alpha = surface.roughness.square().clamp_min(_MIN_ALPHA)
    n_v = dot(surface.normal, surface.view).clamp(1e-3, 1)
    f0 = DIELECTRIC_F0 + (surface.base - DIELECTRIC_F0) * surface.metallic
    return _reflected(surface, light, alpha, n_v, f0, surface.base * (1 - surface.metallic), 1.0)


def _reflected(
    surface: Surface, light: Light, alpha: Tensor, n_v: Tensor, f0: Tensor, diffuse: Tensor, arrives: Tensor | float
) -> Tensor:
    direction = column(light.direction, surface.base)
    n_l = dot(surface.normal, direction)
    half = unit(surface.view + direction)
    n_h = dot(surface.normal, half).clamp(0, 1)
    fresnel = (1 - dot(surface.view, half).clamp(0, 1)).pow(5)
    lit = n_l.clamp(0, 1) * arrives
    a2 = alpha.square()
    distribution = a2 / (math.pi * ((n_h * n_h) * (a2 - 1) + 1).square())
    n_l = n_l.clamp(1e-3, 1)
    smith = n_l * torch.sqrt(n_v * n_v * (1 - a2) + a2) + n_v * torch.sqrt(n_l * n_l * (1 - a2) + a2)
    specular = (distribution * 0.5 / smith) * math.pi
    reflected = f0 + (1 - f0) * fresnel
    glossy = diffuse * (1 - (DIELECTRIC_F0 + (1 - DIELECTRIC_F0) * fresnel)) + reflected * specular
    return glossy * lit * column(light.colour, surface.base)


def _ambient(
    surface: Surface, studio: Studio, alpha: Tensor, n_v: Tensor, f0: Tensor, diffuse: Tensor
) -> Tensor:
    like = surface.base
    reflected = 2 * n_v * surface.normal - surface.view
    ground, sky = column(studio.ground, like), column(studio.sky, like)
    irradiance = ground + (sky - ground) * (surface.normal[1] * 0.5 + 0.5)
    # a rough surface sees a flatter gradient
    sharp = reflected[1] / (0.35 + 0.65 * surface.roughness)
    radiance = ground + (sky - ground) * (sharp * 0.5 + 0.5).clamp(0, 1)
    lobe_of_brdf = (0.5 / (alpha.square() * n_v.clamp_min(0.1))).clamp(0.5, 4000)
    for lobe in studio.lobes:
        direction, colour = column(lobe.direction, like), column(lobe.colour, like)
        wrap = 1 / (1 + lobe.sharpness)
        energy = 2 / lobe.sharpness * (1 - math.exp(-2 * lobe.sharpness))
        facing = ((dot(surface.normal, direction) + wrap) / (1 + wrap)).clamp_min(0)
        irradiance = irradiance + colour * (energy * facing)
        wide = lobe.sharpness * lobe_of_brdf / (lobe.sharpness + lobe_of_brdf)
        seen = wide / lobe.sharpness * torch.exp(wide * (dot(reflected, direction) - 1))
        radiance = radiance + colour * seen
    scale, bias = _specular_integral(surface.roughness, n_v)
    hidden = (n_v + surface.occlusion).pow(torch.exp2(-16 * alpha - 1)) - 1 + surface.occlusion
    specular = radiance * (f0 * scale + bias) * hidden.clamp(0, 1)
    return diffuse * irradiance * surface.occlusion + specular


def _specular_integral(roughness: Tensor, n_v: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and bias of F0 in the environment's specular term (Karis, Physically Based Shading on Mobile, 2014)."""
    x, y = 1 - roughness, -0.0275 * roughness + 0.0425
    a = torch.minimum(x * x, torch.exp2(-9.28 * n_v)) * x + y
    return -1.04 * a + (-0.572 * roughness + 1.04), 1.04 * a + (0.022 * roughness - 0.04)


def tone_map(colour: Tensor) -> Tensor:
    """Linear radiance (3, ...) to linear [0, 1] by the Khronos PBR Neutral tone mapper."""
    start, desaturation = 0.8 - 0.04, 0.15
    low = colour.amin(0)
    colour = colour - torch.where(low < 0.08, low - 6.25 * low * low, torch.full_like(low, 0.04))
    peak = colour.amax(0).clamp_min(1e-6)
    room = 1 - start
    squeezed = 1 - room * room / (peak + room - start).clamp_min(room)
    pale = 1 - 1 / (desaturation * (peak - squeezed) + 1)
    bright = colour * (squeezed / peak)
    bright = bright + (squeezed - bright) * pale
    return torch.where(peak < start, colour, bright).clamp(0, 1)


def srgb_to_linear(x: Tensor) -> Tensor:
    """sRGB-encoded [0, 1] to linear [0, 1] (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0) + 0.055) / 1.055).pow(2.4))


def linear_to_srgb(x: Tensor) -> Tensor:
    """Linear [0, 1] to sRGB-encoded [0, 1] (IEC 61966-2-1)."""
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp_min(0.0031308).pow(1 / 2.4) - 0.055)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product over the first axis."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def norm(a: Tensor) -> Tensor:
    """Lengths (P,) of vectors (3, P); several times faster than `vector_norm` over the first axis."""
    return dot(a, a).clamp_min(1e-30).sqrt()  # the root has no slope at 0


def unit(a: Tensor) -> Tensor:
    """Vectors of length 1 along the first axis."""
    return a / norm(a).clamp_min(1e-12)


def column(values: tuple[float, float, float], like: Tensor) -> Tensor:
    """(3, 1) tensor of `values`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _aim(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


BALL_STUDIO = Studio(
    lights=(
        Light(_aim(-0.80, 0.95, 0.70), (1.75, 1.66, 1.52)),
        Light(_aim(1.0, 0.35, 0.45), (0.20, 0.23, 0.29)),
        Light(_aim(0.7, 0.65, -0.9), (1.1, 1.15, 1.25)),
    ),
    lobes=(
        Lobe(_aim(-0.85, 0.70, 0.75), (3.2, 3.05, 2.85), 30.0),
        Lobe(_aim(1.0, 0.35, 0.30), (1.7, 1.85, 2.1), 40.0),
        Lobe(_aim(0.1, 1.0, -0.25), (1.0, 1.0, 1.05), 7.0),
    ),
    ground=(0.07, 0.067, 0.064),
    sky=(0.34, 0.36, 0.39),
)
"""Key light from the upper left, cool fill, rim from behind; x right, y up, z to the camera."""

FLAT_STUDIO = Studio(
    lights=(
        Light(_aim(-0.75, 0.80, 0.70), (1.35, 1.29, 1.20)),
        Light(_aim(0.9, 0.1, 0.7), (0.16, 0.18, 0.22)),
        Light(_aim(0.1, -0.7, 0.8), (0.08, 0.08, 0.08)),
    ),
    lobes=(Lobe(_aim(-0.45, 0.5, 0.8), (0.9, 0.87, 0.83), 14.0), Lobe(_aim(0.6, 0.1, 0.8), (0.4, 0.44, 0.48), 14.0)),
    ground=(0.20, 0.20, 0.20),
    sky=(0.30, 0.31, 0.33),
)
"""For a tile that lies in the image plane: x right, y up, z to the viewer."""
