"""Previews rendered on the CPU: a ball on its own ground in a studio, and a flat lit view of repeated tiles.

The relief is shown by parallax occlusion mapping (Tatarchuk 2006) with self-shadows of the key light; textures are read
from mipmaps whose shortened mean normals widen the highlight (Toksvig 2005).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from materials.errors import SizeError
from materials.material import Material
from materials.shading import (
    BALL_STUDIO,
    FLAT_STUDIO,
    column,
    dot,
    linear_to_srgb,
    shade,
    tone_map,
    unit,
)
from materials.texture import Texture, stack, surface

_RADIUS = 1.0
_CAMERA = (0.0, 2.15, 5.4)
_TARGET = (0.0, 0.86, 0.0)
_FIELD_OF_VIEW = math.radians(27.5)
_BACKDROP = ((0.030, 0.031, 0.034), (0.105, 0.110, 0.118))
_RELIEF_STEPS = 18
_SHADOW_STEPS = 10


def render(
    material: Material, size: tuple[int, int] = (512, 512), *, repeat: float = 2.0, occlusion: Tensor | None = None
) -> Tensor:
    """A ball of the material on ground of the same material, under three lights and soft boxes.

    Args:
        material: what to show.
        size: (width, height) of the picture in pixels, 16 to 4096 each.
        repeat: tiles across the visible half of the ball.
        occlusion: (1, H, W), where it is known already (`materials.maps.ambient_occlusion`).

    Returns:
        (3, height, width) float32 in [0, 1], sRGB-encoded.
    """
    width, height = size
    if not (16 <= width <= 4096 and 16 <= height <= 4096):
        raise SizeError(f"Expected a preview of 16 to 4096 pixels a side, but got {width}x{height}.")
    if not (math.isfinite(repeat) and repeat > 0):
        raise ValueError(f"Expected repeat above 0, but got {repeat}.")
    texture = Texture.of(material, _RADIUS * math.pi / repeat, occlusion)
    eye, rays, pixel = _camera(width, height)
    centre = torch.tensor((0.0, _RADIUS, 0.0))[:, None]
    to_centre = centre - eye
    along = dot(rays, to_centre)
    miss = torch.sqrt((dot(to_centre, to_centre) - along.square()).clamp_min(0))
    coverage = ((_RADIUS - miss) / (along * pixel).clamp_min(1e-6) + 0.5).clamp(0, 1)
    picture = _background(texture, eye, rays, pixel, centre, skip=coverage >= 1)
    on_ball = coverage > 0
    picture[:, on_ball] += coverage[on_ball] * (
        _ball(texture, eye, rays[:, on_ball], along[on_ball], miss[on_ball], pixel, centre) - picture[:, on_ball]
    )
    return linear_to_srgb(tone_map(picture)).reshape(3, height, width)


def flat(
    material: Material, repeat: tuple[int, int] = (2, 2), *, largest: int = 1024, occlusion: Tensor | None = None
) -> Tensor:
    """The tile repeated `repeat` (across, down) times, seen from above under raking light.

    One pixel of the map is one pixel of the picture unless that would exceed `largest` a side; `occlusion` is as in
    `render`.
    Returns (3, h, w) float32 in [0, 1], sRGB-encoded.
    """
    width, height = material.size
    scale = min(1.0, largest / max(width * repeat[0], height * repeat[1]))
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    maps = stack(material, (rows, columns), occlusion)
    texels = (material.size_m[0] / columns, material.size_m[1] / rows)
    key = FLAT_STUDIO.lights[0].direction
    ones = torch.ones(rows * columns)
    view = torch.stack([ones * 0, ones * 0, ones])
    visible = _tile_shadow(maps[6], material, texels, key)
    lit = shade(surface(maps.flatten(1), view, None), FLAT_STUDIO, (visible, 1.0, 1.0))
    return linear_to_srgb(tone_map(lit)).reshape(3, rows, columns).repeat(1, repeat[1], repeat[0])


def _tile_shadow(
    height: Tensor, material: Material, texels: tuple[float, float], direction: tuple[float, float, float]
) -> Tensor:
    """(P,) share of a directional light that passes the relief, on the torus."""
    across = math.hypot(direction[0], direction[1])
    rise = direction[2] / across * min(texels)
    seen = torch.ones_like(height)
    for step in range(1, 25):
        shift = (round(step * direction[1] / across), round(-step * direction[0] / across))
        above = torch.roll(height, shift, (0, 1)) * material.depth_m - height * material.depth_m - rise * step
        seen = torch.minimum(seen, 1 - above / (1.5 * rise + 0.12 * rise * step))
    return seen.clamp(0, 1).flatten()


def _camera(width: int, height: int) -> tuple[Tensor, Tensor, float]:
    """Eye (3, 1), unit ray directions (3, height * width), and the size of a pixel at distance 1."""
    eye = torch.tensor(_CAMERA)[:, None]
    forward = unit(torch.tensor(_TARGET)[:, None] - eye)
    right = unit(torch.linalg.cross(forward, torch.tensor((0.0, 1.0, 0.0))[:, None], dim=0))
    up = torch.linalg.cross(right, forward, dim=0)
    pixel = 2 * math.tan(_FIELD_OF_VIEW / 2) / min(width, height)
    x = (torch.arange(width) + 0.5 - width / 2) * pixel
    y = (height / 2 - 0.5 - torch.arange(height)) * pixel
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return eye, unit(forward + right * grid_x.flatten() + up * grid_y.flatten()), pixel


def _lit(
    texture: Texture, uv: Tensor, frame: Tensor, view: Tensor, footprint: Tensor, shadow: Tensor | float
) -> Tensor:
    """(3, P) radiance of relief-mapped points with tangent `frame` (3, 3, P), seen along `view` (3, P)."""
    level = texture.level(footprint)
    coarse = int(level.median())
    seen = torch.stack([dot(view, axis) for axis in frame])
    uv, height = _relief(texture, uv, seen, coarse)
    maps = texture.read_smooth(uv, level)
    key = column(BALL_STUDIO.lights[0].direction, view)
    towards = torch.stack([dot(key, axis) for axis in frame])
    visible = _self_shadow(texture, uv, height, towards, coarse) * shadow
    return shade(surface(maps, view, frame), BALL_STUDIO, (visible, 1.0, 1.0))


def _relief(texture: Texture, uv: Tensor, seen: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Where the view rays meet the relief: uv (2, P) and the height there (P,)."""
    slope = seen[:2] / seen[2].clamp_min(0.3) * texture.relief
    full = torch.stack([-slope[0] / texture.tile[0], slope[1] / texture.tile[1]])
    depth = torch.zeros_like(seen[2])
    gap = 1 - texture.read(uv, level, slice(6, 7))[0]
    found = gap <= 0
    for step in range(1, _RELIEF_STEPS + 1):
        at = step / _RELIEF_STEPS
        below = (1 - at) - texture.read(uv + full * at, level, slice(6, 7))[0]
        crossed = ~found & (below <= 0)
        # between the last point above the relief (gap) and the first one below it
        share = gap / (gap - below).clamp_min(1e-6)
        depth = torch.where(crossed, at - (1 - share) / _RELIEF_STEPS, depth)
        found |= crossed
        gap = below
    return uv + full * depth, 1 - depth


def _self_shadow(texture: Texture, uv: Tensor, height: Tensor, towards: Tensor, level: int) -> Tensor:
    """(P,) share of the key light that passes the relief."""
    if texture.relief <= 0:
        return torch.ones_like(height)
    slope = towards[:2] / towards[2].clamp_min(0.15) * texture.relief
    full = torch.stack([slope[0] / texture.tile[0], -slope[1] / texture.tile[1]])
    seen = torch.ones_like(height)
    for step in range(1, _SHADOW_STEPS + 1):
        at = 0.55 * step / _SHADOW_STEPS
        above = texture.read(uv + full * at, level, slice(6, 7))[0] - (height + at)
        seen = torch.minimum(seen, 1 - above / (0.06 + 0.25 * at))
    return seen.clamp(0, 1)


def _ball(
    texture: Texture, eye: Tensor, rays: Tensor, along: Tensor, miss: Tensor, pixel: float, centre: Tensor
) -> Tensor:
    distance = along - torch.sqrt((_RADIUS**2 - miss.square()).clamp_min(0))
    normal = unit(eye + rays * distance - centre)
    axis = unit(eye - centre)
    right = unit(torch.linalg.cross(torch.tensor((0.0, 1.0, 0.0))[:, None], axis, dim=0))
    up = torch.linalg.cross(axis, right, dim=0)
    # azimuthal equidistant map around the axis to the camera: no poles, and its cut lies behind
    x, y, cosine = dot(normal, right), dot(normal, up), dot(normal, axis).clamp(-1, 1)
    sine = torch.sqrt(x * x + y * y).clamp_min(1e-6)
    angle, c, s = torch.atan2(sine, cosine), x / sine, y / sine
    outward = -sine * axis + cosine * (c * right + s * up)
    around = c * up - s * right
    frame = torch.stack([c * outward - s * around, s * outward + c * around, normal])
    uv = torch.stack([angle * c * _RADIUS / texture.tile[0] + 0.5, 0.5 - angle * s * _RADIUS / texture.tile[1]])
    facing = -dot(normal, rays)
    footprint = distance * pixel / facing.clamp_min(0.12).sqrt()
    colour = _lit(texture, uv, frame, -rays, footprint, 1.0)
    return colour * (0.45 + 0.55 * (normal[1] * 0.9 + 0.9).clamp(0, 1))  # the ground takes light from the lower half


def _background(
    texture: Texture, eye: Tensor, rays: Tensor, pixel: float, centre: Tensor, skip: Tensor
) -> Tensor:
    """(3, P) the ground, fading into a plain backdrop."""
    low, high = (torch.tensor(c)[:, None] for c in _BACKDROP)
    picture = low + (high - low) * torch.exp(-6 * (rays[1] + 0.12).square())
    on_ground = ~skip & (rays[1] < -1e-3)
    down = rays[:, on_ground]
    distance = -eye[1] / down[1]
    point = eye + down * distance
    radius = torch.sqrt(point[0].square() + (point[2] + 0.2).square())
    fade = 1 - ((radius - 1.6) / 2.6).clamp(0, 1)
    fade = fade * fade * (3 - 2 * fade)
    near = fade > 0
    chosen = torch.nonzero(on_ground).flatten()[near]
    point, down, distance, fade = point[:, near], down[:, near], distance[near], fade[near]
    uv = torch.stack([point[0] / texture.tile[0] + 0.5, point[2] / texture.tile[1] + 0.5])
    axes = torch.tensor(((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)))[:, :, None]
    footprint = distance * pixel / (-down[1]).clamp_min(0.1).sqrt()
    # soft shadow of the ball under the key light, and the share of the sky that the ball hides
    key = torch.tensor(BALL_STUDIO.lights[0].direction)[:, None]
    to_ball = centre - point
    passing = dot(to_ball, key)
    clearance = torch.sqrt((dot(to_ball, to_ball) - passing.square()).clamp_min(0))
    shadow = ((clearance - 0.80 * _RADIUS) / (0.34 * _RADIUS)).clamp(0, 1)
    shadow = torch.where(passing > 0, shadow * shadow * (3 - 2 * shadow), torch.ones_like(shadow))
    span = torch.sqrt(dot(to_ball, to_ball))
    open_sky = 1 - (to_ball[1] / span) * (_RADIUS / span).square().clamp(0, 1)
    colour = _lit(texture, uv, axes.expand(3, 3, point.shape[1]), -down, footprint, shadow)
    colour = colour * (0.12 + 0.88 * open_sky) * 0.85
    picture[:, chosen] += fade * (colour - picture[:, chosen])
    return picture
