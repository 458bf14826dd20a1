"""How much of the tiles shows: pure functions of an image, and of a reference where there is one.

An image is (C, H, W), float in [0, 1], on any device. `pitch` is the distance of tile borders in pixels, and `phase`
the first pixel of some tile: borders lie between pixels phase - 1 and phase, and at each pitch from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import SizeError, ZelligeError
from .seamless import SeamlessAxes, parse_axes

FLAT = 1e-12
"""A mean step below this is an image without any, on values 0..1."""
LINEAR_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""sRGB primaries and white (IEC 61966-2-1)."""
WHITE = (0.95047, 1.0, 1.08883)


class ReportError(ZelligeError):
    """Images that can't be measured or compared."""


class Axes(NamedTuple):
    """A figure for borders crossed along x (upright ones) and along y."""

    x: float
    y: float


class Difference(NamedTuple):
    """Tiled against whole: PSNR in dB near borders and away from them, their gap (0: none shows), largest error."""

    border_psnr: float
    inner_psnr: float
    gap: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class SeamReport:
    """The figures of `seam_report`; those that need a reference are None without one."""

    pitch: int
    border_ratio: Axes
    phase_z: Axes
    border_excess: Axes | None = None
    psnr_b: float | None = None
    tone_drift: float | None = None
    difference: Difference | None = None

    def as_dict(self) -> dict[str, object]:
        """For JSON: pairs become objects, and the infinite PSNR of an error that is zero becomes None."""
        made: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Axes | Difference):
                made[field.name] = {name: _finite(part) for name, part in value._asdict().items()}
            else:
                made[field.name] = _finite(value)
        return made


def seam_report(
    image: Tensor, pitch: int, *, reference: Tensor | None = None, phase: int = 0, seamless: SeamlessAxes = "none"
) -> SeamReport:
    """Every figure of this module. The reference is the picture without tiles: the truth, or an untiled run.

    Raises:
        ReportError: shapes that don't fit, or values that are not finite.
        SizeError: a pitch below 2, or above both sides of the image.
    """
    report = SeamReport(
        pitch=pitch,
        border_ratio=border_ratio(image, pitch, phase=phase, seamless=seamless),
        phase_z=phase_z(image, pitch, seamless=seamless),
    )
    if reference is None:
        return report
    return SeamReport(
        pitch=pitch,
        border_ratio=report.border_ratio,
        phase_z=report.phase_z,
        border_excess=border_excess(image, reference, pitch, phase=phase, seamless=seamless),
        psnr_b=psnr_b(image, reference, pitch),
        tone_drift=tone_drift(image, reference, pitch, phase=phase),
        difference=tiled_against_whole(image, reference, pitch, phase=phase, seamless=seamless),
    )


def steps(image: Tensor, seamless: SeamlessAxes = "none") -> tuple[Tensor, Tensor]:
    """Mean absolute difference of neighbouring columns, (W - 1,), and rows, (H - 1,), in float64.

    Step i is between pixels i and i + 1; on an axis that wraps there is one more, between the last pixel and the first.
    """
    image = _checked(image)
    wraps = parse_axes(seamless)
    made = []
    for dim, wrap in zip((-1, -2), wraps, strict=True):
        other = image.roll(-1, dim)
        step = (other - image).abs().mean([d for d in range(3) if d != dim % 3])
        made.append(step if wrap else step[:-1])
    return made[0], made[1]


def border_ratio(image: Tensor, pitch: int, *, phase: int = 0, seamless: SeamlessAxes = "none") -> Axes:
    """Mean step at tile borders over the mean step half a tile away; 1 where none shows, or there is no border."""
    _check_pitch(pitch, image)
    figures = []
    for step in steps(image, seamless):
        border, middle = step[_at(step, pitch, phase)], step[_at(step, pitch, phase + pitch // 2)]
        even = not len(border) or not len(middle) or float(middle.mean()) < FLAT
        figures.append(1.0 if even else float(border.mean() / middle.mean()))
    return Axes(*figures)


def border_excess(
    image: Tensor, reference: Tensor, pitch: int, *, phase: int = 0, seamless: SeamlessAxes = "none"
) -> Axes:
    """(Mean step at borders - the reference's there) / the reference's half a tile away; 0 where none shows.

    Unlike the ratio it owes nothing to what happens to lie at a border.
    """
    _alike(image, reference)
    _check_pitch(pitch, image)
    figures = []
    for mine, other in zip(steps(image, seamless), steps(reference, seamless), strict=True):
        border, middle = _at(mine, pitch, phase), other[_at(other, pitch, phase + pitch // 2)]
        even = not len(border) or not len(middle) or float(middle.mean()) < FLAT
        figures.append(0.0 if even else float((mine[border] - other[border]).mean() / middle.mean()))
    return Axes(*figures)


def phase_spectrum(image: Tensor, pitch: int, *, seamless: SeamlessAxes = "none") -> tuple[Tensor, Tensor]:
    """The mean step at each place in a tile, (pitch,) for x and for y: place p is before pixel p of a tile.

    It needs no phase, and so suits methods that move their grid. An axis shorter than a tile gives (0,).
    """
    _check_pitch(pitch, image)
    made = []
    for step in steps(image, seamless):
        if len(step) < pitch:
            made.append(step[:0])
            continue
        place = (torch.arange(len(step), device=step.device) + 1) % pitch
        total = torch.zeros(pitch, dtype=step.dtype, device=step.device).index_add_(0, place, step)
        made.append(total / torch.bincount(place, minlength=pitch))
    return made[0], made[1]


def phase_z(image: Tensor, pitch: int, *, seamless: SeamlessAxes = "none") -> Axes:
    """(max - mean) / std of the phase spectrum: chance alone stays below 4 at any pitch up to a thousand or so."""
    figures = []
    for spectrum in phase_spectrum(image, pitch, seamless=seamless):
        spread = float(spectrum.std(correction=0)) if len(spectrum) else 0.0
        figures.append(float(spectrum.max() - spectrum.mean()) / spread if spread > FLAT else 0.0)
    return Axes(*figures)


def psnr_b(image: Tensor, reference: Tensor, block: int) -> float:
    """Peak signal-to-noise ratio with blocked effect, dB (Yim & Bovik 2011), borders at multiples of `block`.

    The block effect factor of the image is added to its squared error; several channels count as one signal. Counts of
    pairs are the paper's N_V (N_H / B) - 1.
    """
    _alike(image, reference)
    _check_pitch(block, image)
    image, reference = _checked(image), _checked(reference)
    channels, height, width = image.shape
    sums = [0.0, 0.0]
    counts = [0.0, 0.0]
    for dim, length, across in ((-1, width, height), (-2, height, width)):
        squares = image.diff(dim=dim).square().sum([d for d in range(3) if d != dim % 3])
        border = _at(squares, block, 0)
        sums[0] += float(squares[border].sum())
        sums[1] += float(squares.sum() - squares[border].sum())
        counts[0] += across * (length / block) - 1
        counts[1] += across * (length - 1) - (across * (length / block) - 1)
    between, within = (total / (count * channels) for total, count in zip(sums, counts, strict=True))
    weight = math.log2(block) / math.log2(min(height, width)) if between > within else 0.0
    return _decibels(float((image - reference).square().mean()) + weight * (between - within))


def tone_drift(image: Tensor, reference: Tensor, pitch: int, *, phase: int = 0) -> float:
    """Standard deviation over tiles of their mean colour's error against the reference, in CIELAB units (delta E).

    The error that all tiles share is a shift of tone, not a drift, and doesn't count. One channel is taken as grey.
    """
    _alike(image, reference)
    _check_pitch(pitch, image)
    error = lab(image) - lab(reference)
    rows = _parts(error, pitch, phase, -2)
    means = [cell.mean((-2, -1)) for row in rows for cell in _parts(row, pitch, phase, -1)]
    return float(torch.stack(means).var(0, correction=0).sum().sqrt())


def tiled_against_whole(
    tiled: Tensor, whole: Tensor, pitch: int, *, phase: int = 0, band: int = 8, seamless: SeamlessAxes = "none"
) -> Difference:
    """The error of a tiled run against the untiled one with the same noise, `band` pixels around borders and elsewhere.

    Without an error both PSNR are infinite and the gap is 0.
    """
    _alike(tiled, whole)
    _check_pitch(pitch, tiled)
    error = (_checked(tiled) - _checked(whole)).abs()
    near = []
    for size, wrap in zip(error.shape[-2:], parse_axes(seamless)[::-1], strict=True):
        place = torch.arange(size, device=error.device)
        distance = (place - phase + band) % pitch
        border = distance < 2 * band
        if not wrap:
            # at the image's own border no tile meets another
            first = phase % pitch or pitch
            last = phase + (size - 1 - phase) // pitch * pitch
            border &= (place >= first - band) & (place < last + band) & (first < size)
        near.append(border)
    mask = near[0][:, None] | near[1][None]
    border, inner = (error[:, part].square() for part in (mask, ~mask))
    # a region without pixels has no error of its own: the other's stands for both
    border, inner = (part if part.numel() else rest for part, rest in ((border, inner), (inner, border)))
    figures = [_decibels(float(part.mean())) for part in (border, inner)]
    gap = 0.0 if figures[0] == figures[1] else figures[1] - figures[0]
    return Difference(figures[0], figures[1], gap, float(error.max()))


def lab(image: Tensor) -> Tensor:
    """sRGB (3, H, W), or grey (1, H, W), in [0, 1] to CIELAB (3, H, W) under D65, float64."""
    image = _checked(image)
    if image.shape[0] not in (1, 3):
        raise ReportError(f"Expected 1 or 3 channels of colour, but got {image.shape[0]}.")
    image = image.expand(3, -1, -1).clamp(0, 1)
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(LINEAR_TO_XYZ, dtype=image.dtype, device=image.device)
    xyz = torch.einsum("ij,jhw->ihw", matrix, linear)
    xyz = xyz / torch.tensor(WHITE, dtype=image.dtype, device=image.device)[:, None, None]
    f = torch.where(xyz > (6 / 29) ** 3, xyz ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _at(step: Tensor, pitch: int, phase: int) -> Tensor:
    """Indices of the steps onto pixels phase, phase + pitch, ..."""
    first = min((phase - 1) % pitch, len(step))  # a side may be shorter than a tile
    return torch.arange(first, len(step), pitch, device=step.device)


def _parts(x: Tensor, pitch: int, phase: int, dim: int) -> list[Tensor]:
    """`x` cut at the tile borders along `dim`."""
    size = x.shape[dim]
    bounds = sorted({0, *range(phase % pitch, size, pitch), size})
    return [x.narrow(dim, start, stop - start) for start, stop in pairwise(bounds)]


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _decibels(error: float) -> float:
    return 10 * math.log10(1 / error) if error > 0 else math.inf


def _checked(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.numel() == 0 or not image.is_floating_point():
        raise ReportError(f"Expected a float image of shape (C, H, W), but got {tuple(image.shape)} of {image.dtype}.")
    image = image.detach().double()
    if not bool(image.isfinite().all()):
        raise ReportError("Expected an image of finite values, but got NaN or infinity.")
    return image


def _alike(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape:
        raise ReportError(
            f"Expected a reference of the image's shape {tuple(image.shape)}, but got {tuple(reference.shape)}."
        )


def _check_pitch(pitch: int, image: Tensor) -> None:
    longest = max(image.shape[-2:])
    if not 2 <= pitch <= longest:
        raise SizeError(f"Expected a pitch of 2 to {longest} pixels, the image's longer side, but got {pitch}.")
