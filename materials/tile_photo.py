"""A photo that does not tile to one that does: its borders are made anew from its own pixels, the rest is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asd.resample import resample
from asd.seamless import SeamlessAxes, parse_axes
from materials.errors import SizeError
from materials.min_cut import cheapest_paths, closed_path
from textile_metric.score import tileability
from textile_metric.seam import seam_ratio

LEAST_SIDE = 32
"""Pixels that an axis needs."""
LEAST_OVERLAP = 0.06
"""As a share of the side; the tile is smaller than the photo by the overlap."""
LARGEST_OVERLAP = (0.31, 0.2)
"""The same, for one axis that is made to tile and for two: half of the tile's pixels and more stay untouched."""
CANDIDATES = 6
"""Periods that are tried out, the best tile of which is kept."""
CLEAR = 0.1
"""Difference of two scores that counts."""
APART = 0.02
"""Least difference between them, as a share of the side."""
JUDGED_SIDE = 512
"""Short side in pixels at which tiles are judged."""
SEARCH_SIDE = 160
"""Short side in pixels at which the period is looked for."""
REFINEMENT = 4
"""By how much finer each step is on the way to the photo's own pixels."""
GRADIENT = 2.0
"""Weight of the luma's slopes beside the colours in the cost of a cut."""
AGREEMENT = 0.3
"""Weight of the mean cost of the whole overlap beside that of the cut: patterns should repeat at their own period."""


TILES_BELOW = (1.5, 0.05)
"""Largest seam ratio and least score of an axis that counts as tiling: of 144 axes of textures that tile and 206 of
crops these take 74 % and 13 %."""


@dataclass(frozen=True)
class TiledPhoto:
    """A tile made of a photo."""

    image: Tensor
    """(3, h, w) in [0, 1]; pixel (r, c) lies where the photo's pixel (r, c) lay."""
    touched: Tensor
    """(h, w) bool: pixels that were made anew."""
    cut_x: Tensor | None = None
    """(h,) int64, for each row the first column after the cut along which left and right were joined, if they were."""
    cut_y: Tensor | None = None
    """(w,) int64, for each column the first row after the cut along which top and bottom were joined, if they were."""

    @property
    def untouched(self) -> float:
        """Share of the tile's pixels that are the photo's, in their place."""
        return 1 - float(self.touched.float().mean())


def tile_photo(image: Tensor, axes: SeamlessAxes, *, tiles: SeamlessAxes = "none") -> TiledPhoto:
    """Make an image (3, H, W) in [0, 1] repeat on `axes`; `tiles` are those on which it does already.

    On each axis both ends of the photo are laid over each other, by as much as fits best, and joined along the
    cheapest cut (image quilting: Efros & Freeman 2001), closed around the other axis if that wraps. Inside the overlap
    the colours are then adjusted so that there is no step (Poisson blending: Pérez, Gangnet & Blake 2003, eq. 7). The
    tile is smaller than the photo by the overlap, a fifth of the side at most; all else stays as it was.

    Raises:
        SizeError: an axis that is to be made to tile has fewer than LEAST_SIDE pixels.
    """
    (want_x, want_y), (has_x, has_y) = parse_axes(axes), parse_axes(tiles)
    height, width = image.shape[-2:]
    if (want_x and not has_x and width < LEAST_SIDE) or (want_y and not has_y and height < LEAST_SIDE):
        raise SizeError(f"Expected a photo of at least {LEAST_SIDE} pixels along an axis that is to tile, "
                        f"but got {width}x{height}.")  # fmt: skip
    touched = torch.zeros(height, width, dtype=torch.bool)
    both = want_x and want_y and not has_x and not has_y
    largest = LARGEST_OVERLAP[int(both)]
    cut_x = cut_y = None
    if want_x and not has_x:
        image, touched, cut_x = _joined(image, touched, largest, wrap=has_y)
    if want_y and not has_y:
        turned, flipped, cut_y = _joined(image.transpose(1, 2), touched.T, largest, wrap=want_x)
        image, touched = turned.transpose(1, 2).contiguous(), flipped.T.contiguous()
        cut_x = None if cut_x is None else cut_x[: image.shape[1]]
    return TiledPhoto(image, touched, cut_x, cut_y)


def tiling_axes(image: Tensor) -> SeamlessAxes:
    """The axes on which an image (3, H, W) in [0, 1] seems to repeat without a seam; an axis of one pixel does."""
    ratios, (ratio, score) = seam_ratio(image)[0].tolist(), TILES_BELOW
    x, y = (r <= ratio and tile_score(image, axis) >= score for r, axis in zip(ratios, ("x", "y"), strict=True))
    return "xy" if x and y else "x" if x else "y" if y else "none"


def tile_score(image: Tensor, axes: SeamlessAxes) -> float:
    """`textile_metric.tileability` of an image (3, H, W), a large one at JUDGED_SIDE; 1 for no axes."""
    if axes == "none":
        return 1.0
    factor = min(1.0, JUDGED_SIDE / min(image.shape[1:]))
    size = round(image.shape[1] * factor), round(image.shape[2] * factor)
    wrap_x, wrap_y = parse_axes(axes)
    return float(tileability(resample(image[None], size, wrap_x=wrap_x, wrap_y=wrap_y).clamp(0, 1), axes))


def _joined(image: Tensor, touched: Tensor, largest: float, *, wrap: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Make columns repeat; `wrap`: rows do already, and shall go on."""
    best, path = _overlaid(image, _best_overlap(image, largest, wrap=wrap), wrap=wrap)
    touched = touched[:, : best.shape[2]].clone()
    touched[:, : image.shape[2] - best.shape[2]] = True
    return best, touched, path


def _overlaid(image: Tensor, overlap: int, *, wrap: bool) -> tuple[Tensor, Tensor]:
    """Both ends of the rows laid over each other by `overlap` columns, and the cut."""
    period = image.shape[2] - overlap
    right, left = image[:, :, period:], image[:, :, :overlap]
    cost = _cut_cost(right, left)
    path = closed_path(cost) if wrap else cheapest_paths(cost[None])[0][0]
    from_left = torch.arange(overlap) >= path[:, None]
    strip = _blended(right, left, from_left, wrap=wrap)
    return torch.cat([strip.clamp(0, 1), image[:, :, overlap:period]], 2), path


def _features(image: Tensor) -> Tensor:
    """(5, H, W): colours, and the luma's slopes."""
    luma = image.mean(0, keepdim=True)
    across = torch.nn.functional.pad(luma.diff(dim=2), (0, 1))
    down = torch.nn.functional.pad(luma.diff(dim=1), (0, 0, 0, 1))
    return torch.cat([image, GRADIENT * across, GRADIENT * down])


def _cut_cost(right: Tensor, left: Tensor) -> Tensor:
    """(H, W) cost of changing from `right` to `left` before each column; a cut keeps at least one column of each."""
    error = (_features(right) - _features(left)).square().sum(0)
    cost = error + torch.nn.functional.pad(error[:, :-1], (1, 0))
    cost[:, 0] = torch.inf
    return cost + 1e-8


def _best_overlap(image: Tensor, largest: float, *, wrap: bool) -> int:
    """The overlap in columns at which the photo's ends fit over each other best: coarse to fine, to the pixel."""
    short, columns = min(image.shape[1:]), image.shape[2]
    shares: list[float] = []
    side = SEARCH_SIDE
    while True:
        level = image if side >= short else _shrunk(image, side / short)
        width = level.shape[2]
        limits = range(max(2, round(width * LEAST_OVERLAP)), int(width * largest) + 1)
        shares = _refined(level, limits, [share * width for share in shares])
        if (level is image or side > SEARCH_SIDE) and len(shares) > 1:
            tiles = [_overlaid(level, round(share * width), wrap=wrap)[0] for share in shares]
            scores = [tile_score(tile, "x") for tile in tiles]
            # the cheapest comes first, and is left only for one that is clearly better
            shares = [next(share for share, score in zip(shares, scores, strict=True) if score >= max(scores) - CLEAR)]
        if level is image:
            return round(shares[0] * columns)
        side *= REFINEMENT


def _refined(image: Tensor, limits: range, near: list[float]) -> list[float]:
    """Overlaps as shares of the width: the cheapest ones that lie apart, or the cheapest near each of those given."""
    width = image.shape[2]
    if not near:
        cost, found = _overlap_costs(image, limits), list[int]()
        for place in cost.argsort().tolist():
            if len(found) < CANDIDATES and all(abs(limits[place] - other) > APART * width for other in found):
                found.append(limits[place])
        return [overlap / width for overlap in found]
    out = []
    for middle in near:
        around = range(round(middle) - REFINEMENT - 1, round(middle) + REFINEMENT + 2)
        fine = range(max(limits[0], around[0]), min(limits[-1], around[-1]) + 1)
        out.append(fine[int(_overlap_costs(image, fine).argmin())] / width)
    return out


def _shrunk(image: Tensor, factor: float) -> Tensor:
    size = max(8, round(image.shape[1] * factor)), max(8, round(image.shape[2] * factor))
    return resample(image[None], size, wrap_x=False, wrap_y=False)[0]


def _overlap_costs(image: Tensor, overlaps: range) -> Tensor:
    """Cost per pixel of each overlap of both ends: of its cut, and of all of it."""
    widest, width = overlaps[-1], image.shape[2]
    costs = []
    for overlap in overlaps:
        cost = _cut_cost(image[:, :, width - overlap :], image[:, :, :overlap])
        costs.append(torch.nn.functional.pad(cost, (0, widest - overlap), value=torch.inf))
    stack = torch.stack(costs)
    cut = cheapest_paths(stack)[1] / image.shape[1]
    finite = stack.isfinite()
    return cut + AGREEMENT * torch.where(finite, stack, 0).sum((1, 2)) / finite.sum((1, 2))


def _blended(right: Tensor, left: Tensor, from_left: Tensor, *, wrap: bool) -> Tensor:
    """The composite (3, H, W) with the slopes of its two sources and no step; beside it nothing changes."""
    made = torch.where(from_left, left, right)
    force = torch.zeros_like(made)
    # an edge that crosses the cut should be as steep as it is in both sources on average
    for dim in (1, 2):
        ahead, other_right, other_left = (x.roll(-1, dim) for x in (made, right, left))
        excess = ((other_right - right) + (other_left - left)) / 2 - (ahead - made)
        crossing = from_left != from_left.roll(-1, dim - 1)
        excess = torch.where(crossing, excess, 0)
        if dim == 2 or not wrap:
            excess.select(dim, excess.shape[dim] - 1).zero_()
        force += excess - excess.roll(1, dim)
    return made + _membrane(force, wrap=wrap)


def _membrane(force: Tensor, *, wrap: bool) -> Tensor:
    """u (3, H, W) whose five-point Laplacian is `force`: 0 beyond the first and last column, free or wrapping rows."""
    rows, columns = force.shape[-2:]
    work = force.double()
    if not wrap:
        work = torch.cat([work, work.flip(1)], 1)
    step = torch.arange(1, columns + 1, dtype=torch.float64) * (torch.pi / (columns + 1))
    sine = torch.sin(step[:, None] * torch.arange(1, columns + 1, dtype=torch.float64))
    spectrum = torch.fft.rfft(work, dim=1) @ sine.to(torch.complex128)
    turn = 2 * torch.cos(2 * torch.pi * torch.fft.rfftfreq(work.shape[1], dtype=torch.float64)) - 2
    spectrum = spectrum / (turn[:, None] + (2 * torch.cos(step) - 2)) @ sine.to(torch.complex128)
    solved = torch.fft.irfft(spectrum, n=work.shape[1], dim=1)[:, :rows]
    return (solved * (2 / (columns + 1))).to(force.dtype)
