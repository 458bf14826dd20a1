"""`render`: a material on a plane, a sphere or cloth under any lights, differentiable; `relight` for losses.

Both shade with the glTF BRDF (`materials.shading`). The camera is orthographic and looks along -Z; x is right, y is up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from materials.errors import SizeError, ZelligeError
from materials.material import NETWORK_CHANNELS, Material, normal_from_xy
from materials.preview import render as render_studio
from materials.shading import (
    BALL_STUDIO,
    FLAT_STUDIO,
    Light,
    Studio,
    Surface,
    linear_to_srgb,
    reflect,
    shade,
    srgb_to_linear,
    tone_map,
    unit,
)
from materials.texture import Texture, surface

Shape = Literal["studio", "plane", "sphere", "cloth"]

_TILES = {"studio": 2.0, "plane": 1.0, "sphere": 2.0, "cloth": 3.0}
_SPHERE_RADIUS = 0.94
_BACKDROP = 0.035
_FOLDS = ((0.16, 4.4, 1.5, 0.4), (0.055, 8.9, -3.4, 1.9), (0.014, 17.0, 6.1, 4.4))
"""Waves of the cloth: height, radians per unit across and up, and phase; the picture is 2 units wide."""


def render(
    material: Material,
    size: tuple[int, int] = (512, 512),
    *,
    shape: Shape = "studio",
    lights: Sequence[Light] | None = None,
    ambient: float = 0.0,
    repeat: float | None = None,
    linear: bool = False,
) -> Tensor:
    """A picture of `material`; gradients reach every map that requires them (height by its occlusion).

    Args:
        material: what to show.
        size: (width, height) of the picture in pixels, 16 to 4096 each (plane: 1 to 4096).
        shape: "studio" is the ball with parallax and shadows on its own ground that previews show; "plane" lies in the
            picture, texel on pixel where the sizes agree; "sphere"; "cloth" has folds.
        lights: directional lights in place of the studio's lights and soft boxes; not for shape "studio".
        ambient: with `lights`, radiance of white surroundings, darkened by the occlusion.
        repeat: tiles across the picture (studio, sphere: across the visible half of the ball); by default 2, plane 1,
            cloth 3.
        linear: the radiance itself in place of a tone-mapped picture, with black around the shape.

    Returns:
        (3, height, width) float32: sRGB-encoded in [0, 1], or `linear` radiance of 0 and more.

    Raises:
        ZelligeError: for an unknown shape, an unusable size, or options that "studio" does not have.
        ValueError: for a repeat that is not above 0, or an ambient below 0.
    """
    if shape not in get_args(Shape):
        raise ZelligeError(f"Expected a shape among {', '.join(get_args(Shape))}, but got {shape!r}.")
    tiles = _TILES[shape] if repeat is None else repeat
    if shape == "studio":
        if lights is not None or linear or ambient:
            raise ZelligeError("Expected no lights, ambient or linear for the shape studio, which has its own; "
                               "plane, sphere and cloth take them.")  # fmt: skip
        return render_studio(material, size, repeat=tiles)
    width, height = size
    least = 1 if shape == "plane" else 16
    if not (least <= width <= 4096 and least <= height <= 4096):
        raise SizeError(f"Expected a picture of {least} to 4096 pixels a side, but got {width}x{height}.")
    if not (math.isfinite(tiles) and tiles > 0):
        raise ValueError(f"Expected repeat above 0, but got {repeat}.")
    if not (math.isfinite(ambient) and ambient >= 0):
        raise ValueError(f"Expected an ambient radiance of 0 or more, but got {ambient}.")
    if lights is None:
        studio = FLAT_STUDIO if shape == "plane" else BALL_STUDIO
    else:
        around = (ambient, ambient, ambient)
        studio = Studio(tuple(lights), (), around, around)
    across = 2.0 if shape != "sphere" else _SPHERE_RADIUS * math.pi
    texture = _texture(material, across / tiles, across / tiles if shape == "plane" else None)
    points = {"plane": _plane, "sphere": _sphere, "cloth": _cloth}[shape](width, height)
    uv = torch.stack([points.place[0] / texture.tile[0], -points.place[1] / texture.tile[1]])
    if shape == "plane":  # its upper left corner is the tile's
        uv = uv - torch.tensor([[-1 / texture.tile[0]], [-height / width / texture.tile[1]]])
    view = torch.tensor((0.0, 0.0, 1.0))[:, None].expand(3, width * height)
    footprint = 2 / width / points.frame[2, 2].clamp_min(0.12).sqrt()
    level = texture.level(footprint)
    level = torch.where(level < 1e-3, torch.zeros_like(level), level)
    lit = shade(surface(texture.read_smooth(uv, level), view, points.frame), studio, (1.0,) * len(studio.lights))
    if linear:
        return (lit * points.coverage).reshape(3, height, width)
    picture = _BACKDROP + points.coverage * (lit - _BACKDROP)
    return linear_to_srgb(tone_map(picture)).reshape(3, height, width)


def relight(maps: Tensor, lights: Sequence[Light]) -> Tensor:
    """Radiance of flat tiles seen from above under each light: a loss or a figure on what the maps do together.

    Args:
        maps: (N, 8, H, W) in [-1, 1] as `Material.to_network` gives them, any float dtype and device.
        lights: directional lights above the plane, one or more.

    Returns:
        (N, L, 3, H, W) linear radiance of 0 and more; finite gradients to every channel but height, which has no part.

    Raises:
        ZelligeError: for another shape, or no lights.
    """
    if maps.ndim != 4 or maps.shape[1] != NETWORK_CHANNELS or not maps.is_floating_point():
        raise ZelligeError(f"Expected float maps of shape (N, 8, H, W), but got {maps.dtype} {tuple(maps.shape)}.")
    if not lights:
        raise ZelligeError("Expected one light or more, but got none.")
    count, _, rows, columns = maps.shape
    unit_range = maps * 0.5 + 0.5
    flat = unit_range.transpose(0, 1).flatten(1)
    normal = normal_from_xy(maps[:, 3:5]).transpose(0, 1).flatten(1)
    view = torch.zeros_like(normal)
    view[2] = 1
    one = torch.ones_like(flat[0])
    lit = Surface(srgb_to_linear(flat[:3].clamp(0, 1)), normal, view, flat[6].clamp(0, 1), flat[7].clamp(0, 1), one)
    pictures = [reflect(lit, light).reshape(3, count, rows, columns).transpose(0, 1) for light in lights]
    return torch.stack(pictures, dim=1)


def ring_of_lights(count: int = 16, elevation: float = 35.0, strength: float = 1.5) -> tuple[Light, ...]:
    """White lights of one elevation in degrees above the plane, evenly around it: the relighting of figures."""
    if count < 1 or not 0 < elevation <= 90:
        raise ZelligeError(f"Expected 1 light or more, above 0 to 90 degrees, but got {count} at {elevation}.")
    up, out = math.sin(math.radians(elevation)), math.cos(math.radians(elevation))
    angles = [2 * math.pi * (i + 0.5) / count for i in range(count)]
    white = (strength, strength, strength)
    return tuple(Light((out * math.cos(a), out * math.sin(a), up), white) for a in angles)


class _Points(NamedTuple):
    """What each pixel sees: `place` (2, P) on the cloth in scene units, `frame` (3, 3, P), `coverage` (P,)."""

    place: Tensor
    frame: Tensor
    coverage: Tensor


def _texture(material: Material, tile: float, width: float | None) -> Texture:
    """With `width` the tile is as wide as that, whatever its aspect; else its longer side is `tile`."""
    aspect = material.size_m[1] / material.size_m[0]
    if width is not None and aspect > 1:
        tile = width * aspect
    return Texture.of(material, tile)


def _grid(width: int, height: int) -> tuple[Tensor, Tensor]:
    """x and y (P,) of the pixels' centres; the picture is 2 units wide, and y grows upwards."""
    x = (torch.arange(width) + 0.5) * (2 / width) - 1
    y = height / width - (torch.arange(height) + 0.5) * (2 / width)
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return grid_x.flatten(), grid_y.flatten()


def _plane(width: int, height: int) -> _Points:
    x, y = _grid(width, height)
    frame = torch.eye(3)[:, :, None].expand(3, 3, len(x))
    return _Points(torch.stack([x, y]), frame, torch.ones_like(x))


def _sphere(width: int, height: int) -> _Points:
    x, y = _grid(width, height)
    radius = _SPHERE_RADIUS * min(1.0, height / width)
    x, y = x / radius, y / radius
    distance = torch.sqrt(x * x + y * y).clamp_min(1e-6)
    coverage = ((1 - distance) * (radius * width / 2) + 0.5).clamp(0, 1)
    inside = distance.clamp(max=0.999)
    c, s = x / distance, y / distance
    cosine = torch.sqrt(1 - inside * inside)
    angle = torch.asin(inside)
    # azimuthal equidistant map around the axis to the camera: no poles, and its cut lies behind
    place = torch.stack([angle * c, angle * s]) * _SPHERE_RADIUS
    zero = torch.zeros_like(c)
    outward = torch.stack([cosine * c, cosine * s, -inside])
    around = torch.stack([-s, c, zero])
    normal = torch.stack([inside * c, inside * s, cosine])
    return _Points(place, torch.stack([c * outward - s * around, s * outward + c * around, normal]), coverage)


def _cloth(width: int, height: int) -> _Points:
    x, y = _grid(width, height)
    slope_x, slope_y = torch.zeros_like(x), torch.zeros_like(y)
    for depth, across, up, phase in _FOLDS:
        wave = depth * torch.cos(across * x + up * y + phase)
        slope_x, slope_y = slope_x + across * wave, slope_y + up * wave
    normal = unit(torch.stack([-slope_x, -slope_y, torch.ones_like(x)]))
    tangent = unit(torch.stack([torch.ones_like(x), torch.zeros_like(x), slope_x]))
    bitangent = torch.linalg.cross(normal, tangent, dim=0)
    # the texture lies on the cloth, not in the picture: coordinates are lengths along it, counted from the middle
    along = torch.sqrt(1 + slope_x**2).reshape(height, width).cumsum(1) * (2 / width)
    upwards = torch.sqrt(1 + slope_y**2).reshape(height, width).flip(0).cumsum(0).flip(0) * (2 / width)
    along = along - along[:, width // 2, None]
    upwards = upwards - upwards[height // 2, None, :]
    place = torch.stack([along.flatten(), upwards.flatten()])
    return _Points(place, torch.stack([tangent, bitangent, normal]), torch.ones_like(x))
