"""Tiles and things that only look like tiles: views of periodic sources with a truth per axis, drawn on any device.

After TexTile's recipe (Rodriguez-Pardo et al., CVPR 2024): changes that keep a tile a tile, changes that break it.
Every geometric change is one map from output pixels to the plane that the source repeats over, so that tiles and
non-tiles are resampled alike and interpolation gives nothing away. A view is a non-tile only where the break shows:
what follows the last column in the plane is compared with the first column, beside the texture's own steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

KINDS = (
    "tile", "crop", "one_axis", "rotation", "shear", "hue", "feathered", "lighting", "vignette", "mirrored", "scale",
    "line",
)  # fmt: skip
"""What is done to a source; swapped halves need no kind of their own, since every view is rolled."""
_WEIGHTS = (0.28, 0.09, 0.08, 0.04, 0.04, 0.08, 0.14, 0.07, 0.06, 0.04, 0.05, 0.03)
CONTEXT = 28
"""Columns and rows that are rendered beyond the view: what the plane goes on with, to look at and to fade into."""
VISIBLE = 1.6
"""Mismatch over natural step: above it the axis is broken; below, nobody can say and the label is dropped."""


@dataclass(frozen=True)
class Views:
    """images (N, 3, H, W) in [0, 1], with their truth.

    tiles (N, 2), x and y: 1 tiles, 0 doesn't, -1 nobody can say. kinds (N,): index into KINDS. seams (N, 2): the column
    and the row that lie behind the border of the image before it was rolled, where breaks show.
    """

    images: Tensor
    tiles: Tensor
    kinds: Tensor
    seams: Tensor


def draw(sources: Tensor, size: tuple[int, int], generator: torch.Generator, plain: float = 0.0) -> Views:
    """One view of (height, width) = `size` of each source.

    Args:
        sources: (N, 3, S, S) in [0, 1], each a tile on both axes.
        size: of the views.
        generator: of the sources' device.
        plain: share of the views whose light, colours and noise are left as they are.
    """
    n, device = len(sources), sources.device
    kinds = torch.multinomial(torch.tensor(_WEIGHTS, device=device), n, replacement=True, generator=generator)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator, device=device) * (high - low) + low

    def chance(p: float) -> Tensor:
        return torch.rand(n, generator=generator, device=device) < p

    def of(*names: str) -> Tensor:
        chosen = torch.zeros(n, dtype=torch.bool, device=device)
        for name in names:
            chosen |= kinds == KINDS.index(name)
        return chosen

    height, width = size
    side = sources.shape[-1]
    # geometry: periods covered by the view along x and y; whole numbers tile
    crop = of("crop", "one_axis", "feathered")
    x_only = chance(0.5)
    broken_x = crop & ~(of("one_axis", "feathered") & ~x_only)
    broken_y = crop & ~(of("one_axis", "feathered") & x_only)
    whole = torch.where(chance(0.25), 2.0, 1.0)
    sharp = chance(0.5)  # texels to pixels one to one, where that is possible

    def periods(broken: Tensor, length: int) -> Tensor:
        part = uniform(0.25, 0.97)
        part = torch.where(chance(0.2), 1 - uniform(0.02, 0.08), part) * torch.where(chance(0.2), 2.0, 1.0)
        native = length / side
        part = torch.where(sharp & (native < 0.97) & (native >= 0.2), native, part)
        return torch.where(broken, part, whole)

    px, py = periods(broken_x, width), periods(broken_y, height)
    angle = torch.where(of("rotation"), uniform(4, 41) * (1 - 2 * chance(0.5).float()) + 90 * chance(0.5), 0.0)
    shear = torch.where(of("shear"), uniform(0.06, 0.45) * (1 - 2 * chance(0.5).float()), 0.0)
    warp = torch.where(of("scale"), uniform(0.25, 0.6), 0.0)
    warp_x, warp_y = torch.where(x_only, warp, 0.0), torch.where(x_only, 0.0, warp)
    row = torch.arange(-CONTEXT, height + CONTEXT, device=device) / height
    column = torch.arange(-CONTEXT, width + CONTEXT, device=device) / width

    def warped(t: Tensor, amount: Tensor) -> Tensor:
        # from 0 to 1 with slope 1 - a to 1 + a: the positions meet at the wrap, the scales don't
        return t[None] * (1 - amount[:, None]) + amount[:, None] * t[None].square()

    u = (warped(column, warp_x) * px[:, None])[:, None, :]
    v = (warped(row, warp_y) * py[:, None])[:, :, None]
    u, v = u + shear[:, None, None] * v, v.expand(-1, -1, width + 2 * CONTEXT)
    turn = angle[:, None, None] * (math.pi / 180)
    u, v = u * turn.cos() - v * turn.sin(), u * turn.sin() + v * turn.cos()
    offset = torch.randint(side, (2, n, 1, 1), generator=generator, device=device) / side
    images = _plane(sources, u + offset[0], v + offset[1], max(side / width, side / height))
    # a shear or a rotation breaks what it breaks; the rest is read off the plane's own continuation
    wide = images
    natural, images, beyond_x, beyond_y = _steps(images)
    seen_x, seen_y = beyond_x / natural[0], beyond_y / natural[1]
    tiles = torch.stack([_verdict(seen_x), _verdict(seen_y)], 1)
    scale = of("scale")
    grown_x, grown_y = _grows(images), _grows(images.transpose(2, 3))
    tiles[scale, 0] = torch.where(grown_x, 0.0, -1.0)[scale]  # the axis that is not warped is set below
    tiles[scale, 1] = torch.where(grown_y, 0.0, -1.0)[scale]
    for axis, whole_axis in ((0, ~broken_x), (1, ~broken_y)):
        sound = whole_axis & ~of("rotation", "shear") & ~(scale & (x_only if axis == 0 else ~x_only))
        tiles[sound, axis] = 1.0
    tiles[of("shear"), 0] = 1.0
    # content
    faded, fraction = of("feathered") & chance(0.75), uniform(1, 5)
    folded = of("feathered") & ~faded
    images = _folded(images, folded & broken_x, uniform(0.5, 4), 3)
    images = _folded(images, folded & broken_y, uniform(0.5, 4), 2)
    images, middle_x = _faded(images, wide, faded & broken_x, fraction, 3)
    images, middle_y = _faded(images, wide, faded & broken_y, fraction, 2)
    mirrored = of("mirrored")
    if bool(mirrored.any()) and height % 2 == 0 and width % 2 == 0:
        half = images[mirrored][:, :, : height // 2, : width // 2]
        half = torch.cat([half, half.flip(3)], 3)
        images[mirrored] = torch.cat([half, half.flip(2)], 2)
        tiles[mirrored] = 1.0
    altered = _photometric(images, generator)
    images = torch.where(chance(plain)[:, None, None, None], images, altered) if plain else altered
    # light and colour, which break without moving anything
    x = (torch.arange(width, device=device) + 0.5) / width
    y = (torch.arange(height, device=device) + 0.5) / height
    both = chance(0.3)
    on_x, on_y = x_only | both, ~x_only | both
    saw = _saw(x, on_x)[:, None, None, :] + _saw(y, on_y)[:, None, :, None]
    strength = (uniform(0.12, 0.6) * (1 - 2 * chance(0.5).float()))[:, None, None, None]
    light = of("lighting")
    images = torch.where(light[:, None, None, None], images * (1 + strength * saw), images)
    radius = ((x - 0.5)[None, :] * 2).square()[:, None, :] + ((y - 0.5) * 2).square()[None, :, None]
    dark = of("vignette")
    falloff = 1 - (uniform(0.15, 0.6)[:, None, None] * (radius / 2).clamp(max=1.0))[:, None]
    images = torch.where(dark[:, None, None, None], images * falloff, images)
    hue = of("hue")
    steps = torch.where(chance(0.5)[:, None, None, None], saw, saw.sign() * 0.5)
    images = torch.where(hue[:, None, None, None], _shift_hue(images, steps, generator), images)
    for kind in (light, hue):
        tiles[kind & on_x, 0] = 0.0
        tiles[kind & on_y, 1] = 0.0
    tiles[dark] = 0.0
    line = of("line")
    images = _lined(images, line, x_only, generator)
    tiles[line & x_only, 0] = 0.0
    tiles[line & ~x_only, 1] = 0.0
    images = images.clamp(0, 1)
    roll_x = int(torch.randint(width, (1,), generator=generator, device=device))
    roll_y = int(torch.randint(height, (1,), generator=generator, device=device))
    images = images.roll((roll_y, roll_x), (2, 3))
    seams = torch.stack([(middle_x + roll_x) % width, (middle_y + roll_y) % height], 1)
    if bool(torch.rand(1, generator=generator, device=device) < 0.5):
        images = images.flip(3)
        seams[:, 0] = (width - seams[:, 0]) % width
    # eight bits, as files have: what a seam hides in
    return Views((images * 255).round() / 255, tiles, kinds, seams)


def _plane(sources: Tensor, u: Tensor, v: Tensor, minification: float) -> Tensor:
    """The plane that repeats `sources` (N, 3, S, S) at (u, v) (N, H, W) in periods, bilinear, a mip level if needed."""
    while minification > 1.5 and sources.shape[-1] % 2 == 0 and sources.shape[-1] > 32:
        sources, minification = F.avg_pool2d(sources, 2), minification / 2
    side = sources.shape[-1]
    padded = F.pad(sources, (0, 1, 0, 1), mode="circular")
    # a position of k / S lands on the centre of texel k
    x = (u - u.floor()) * side
    y = (v - v.floor()) * side
    grid = torch.stack([(2 * x + 1) / (side + 1) - 1, (2 * y + 1) / (side + 1) - 1], -1)
    return F.grid_sample(padded, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _steps(images: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """Natural steps (x, y) by scale, the view without its context, and mismatches at the wrap in x and y, by scale."""
    view = images[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
    natural, beyond = [], []
    for axis in (3, 2):
        strip = images[:, :, CONTEXT:-CONTEXT] if axis == 3 else images[:, :, :, CONTEXT:-CONTEXT].transpose(2, 3)
        length = strip.shape[3] - 2 * CONTEXT
        inner, across = [], []
        for k in (1, 4, 12):
            boxes = F.avg_pool2d(strip, (k, k), stride=(k, 1), ceil_mode=True)
            inner.append((boxes[..., k:] - boxes[..., :-k]).abs().mean((1, 2)).median(1).values + 2 / 255)
            # what the plane goes on with after the last column, against the first columns, and the mirror image of that
            after = boxes[..., CONTEXT + length] - boxes[..., CONTEXT]
            before = boxes[..., CONTEXT - k] - boxes[..., CONTEXT + length - k]
            across.append(((after.abs() + before.abs()) / 2).mean((1, 2)))
        natural.append(torch.stack(inner, 1))
        beyond.append(torch.stack(across, 1))
    return (natural[0], natural[1]), view.clone(), beyond[0], beyond[1]


def _verdict(ratios: Tensor) -> Tensor:
    """(N, scales) mismatch over natural step to 0 or -1."""
    return torch.where(ratios.max(1).values > VISIBLE, 0.0, -1.0)


def _folded(images: Tensor, chosen: Tensor, fraction: Tensor, dim: int) -> Tensor:
    """A crop whose borders are faded into each other's mirror image over a thin band: the step is gone."""
    if not bool(chosen.any()):
        return images
    out = images.clone()
    length = images.shape[dim]
    for i in chosen.nonzero().flatten().tolist():
        band = max(1, min(length // 8, round(float(fraction[i]) / 100 * length) + 1))
        image = images[i].movedim(dim - 1, -1)
        weight = (torch.arange(band, device=images.device) + 1) / (band + 1) / 2 + 0.5
        left, right = image[..., :band], image[..., -band:].flip(-1)
        # both sides go towards their mean at the border
        new = image.clone()
        new[..., :band] = left * weight + right * (1 - weight)
        new[..., -band:] = (right * weight + left * (1 - weight)).flip(-1)
        out[i] = new.movedim(-1, dim - 1)
    return out


def _grows(images: Tensor) -> Tensor:
    """(N,) whether the last columns have visibly finer grain than the first, as a texture that is squeezed has."""
    energy = images.diff(dim=3).abs().mean((1, 2))
    ends = max(4, images.shape[3] // 10)
    return (energy.mean(1) > 3 / 255) & (energy[:, -ends:].mean(1) > 1.2 * energy[:, :ends].mean(1))


def _faded(images: Tensor, wide: Tensor, chosen: Tensor, fraction: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The views whose first columns fade out of what follows the last ones in `wide`, which has the context.

    That is how photos are made to tile: no step is left, two pictures lie over each other in a thin band. Returns the
    middle of the band (N,), 0 where there is none, too.
    """
    middle = torch.zeros(len(images), dtype=torch.long, device=images.device)
    out = images.clone()
    length = images.shape[dim]
    for i in chosen.nonzero().flatten().tolist():
        band = max(2, min(length // 8, CONTEXT, round(float(fraction[i]) / 100 * length)))
        whole = wide[i].narrow(4 - dim, CONTEXT, images.shape[5 - dim]).movedim(dim - 1, -1)
        beyond = whole[..., CONTEXT + length : CONTEXT + length + band]
        weight = (torch.arange(band, device=images.device) + 1) / (band + 1)
        image = out[i].movedim(dim - 1, -1)  # a view of it
        image[..., :band] = weight * image[..., :band] + (1 - weight) * beyond
        middle[i] = band // 2
    return out, middle


def _saw(t: Tensor, on: Tensor) -> Tensor:
    return torch.where(on[:, None], t[None] - 0.5, 0.0)


def _photometric(images: Tensor, generator: torch.Generator) -> Tensor:
    """What keeps a tile: gamma, contrast, colour balance and saturation, noise, inversion, a blur that wraps."""
    n, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator, device=device) * (high - low) + low

    images = images.clamp(1e-4, 1).pow(2 ** uniform(-0.8, 0.8, 1, 1, 1))
    images = images * uniform(0.5, 1.1, 1, 1, 1) + uniform(0, 0.2, 1, 1, 1)
    images = images * (1 + uniform(-0.15, 0.15, 3, 1, 1))
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * uniform(0.0, 1.5, 1, 1, 1)
    images = torch.where(uniform(0, 1, 1, 1, 1) < 0.1, 1 - images, images)
    blurred = F.conv2d(
        F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="circular"), images.new_full((1, 1, 3, 3), 1 / 9)
    ).view_as(images)
    images = torch.where(uniform(0, 1, 1, 1, 1) < 0.2, blurred, images)
    noise = torch.randn(images.shape, generator=generator, device=device)
    return images + noise * torch.where(uniform(0, 1, 1, 1, 1) < 0.3, uniform(0, 0.04, 1, 1, 1), 0.0)


def _shift_hue(images: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """`images` with a colour added that leaves the luma (Rec. 601) alone: `amount` (N, 1, H, W) around 0."""
    n, device = len(images), images.device
    angle = torch.rand(n, generator=generator, device=device) * 2 * math.pi
    strength = 0.012 * 15 ** torch.rand(n, generator=generator, device=device)
    red, blue = angle.cos() * strength, angle.sin() * strength
    green = -(0.299 * red + 0.114 * blue) / 0.587
    return images + torch.stack([red, green, blue], 1)[:, :, None, None] * amount * 2


def _lined(images: Tensor, chosen: Tensor, on_x: Tensor, generator: torch.Generator) -> Tensor:
    """A line one or two pixels wide along the border, as exporters and resizers leave behind."""
    for i in chosen.nonzero().flatten().tolist():
        wide = int(torch.randint(1, 3, (1,), generator=generator, device=images.device))
        shift = float(torch.rand(1, generator=generator, device=images.device)) * 0.3 + 0.12
        towards = 0.0 if float(images[i].mean()) > 0.5 else 1.0
        image = images[i] if bool(on_x[i]) else images[i].transpose(1, 2)
        image[..., :wide] = image[..., :wide] * (1 - shift) + shift * towards
    return images
