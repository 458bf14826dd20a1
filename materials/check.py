"""Checks that a material is fit for use: `check_material` and the `Report` it gives. Each check is one function."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from materials.errors import ZelligeError
from materials.maps import fit_depth, normal_from_height
from materials.mapset import MapSet
from materials.material import MAPS, Material
from materials.recognise import read_maps
from textile_metric.seam import seam_ratio

Status = Literal["pass", "fail", "skip"]

SEAM_BAR = 1.5
"""Largest `seam_ratio` that passes at once. A straight joint on the edge of an exact tile scores far higher (brick,
planks: up to 96), so that a higher ratio passes as well if `SEAM_STEP` holds. Measured at 192 pixels on two samples of
each of 48 exactly periodic procedural families: 91 of 96 pass in all maps and axes, and 8 of 96 crops that do not tile;
with the ratio alone, at a bar of 2, 63 and 3 of 96."""
SEAM_STEP = 1.25
"""Largest mean step across the wrap edge that passes, over the largest mean step between neighbours inside."""
UNIT_TOLERANCE = 0.02
"""Largest | |n| - 1 | of a normal: 8 bits alone give 0.007."""
UNIT_SHARE = 0.005
"""Largest share of texels whose normal may be further from unit length."""
NORMAL_DEGREES = (1.0, 10.0)
"""The mean angle between the normals and those of the height may be half the mean tilt, within these limits: a map
whose green points the wrong way is off by more than that, and a flat one by all of it."""
DIELECTRIC_SRGB = (30, 240)
METAL_SRGB = (155, 255)
"""Brightness of base colour, 8-bit sRGB of its luminance. The wider of the two ranges of Allegorithmic's Comprehensive
PBR Guide (volume 2) and its validation filter: dielectrics 30 (strict: 50) to 240, metals 155 (strict: 180) to
255, that is 60 % (70 %) reflectance and more."""
BASECOLOR_SHARE = 0.1
"""Largest share of texels outside those ranges: cavities and a few stains are dark."""
METALLIC_GREY = (0.1, 0.9)
METALLIC_SHARE = 0.15
"""Largest share of texels whose metallic lies between: worn edges. Procedural metals at 192 pixels reach 0.12."""
FLAT_RANGE = 1.5 / 255
"""A map whose values span no more than one step of 8 bits is flat."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding: which check on which map (and axis), how it ended, the figure and its bar, and a sentence."""

    name: str
    map: str = ""
    axis: str = ""
    status: Status
    value: float | None = None
    bar: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings on one material; `maps` says per map the file, its bits and its (width, height)."""

    source: str
    checks: tuple[Check, ...]
    maps: dict[str, dict[str, Any]]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The findings that failed."""
        return tuple(check for check in self.checks if check.status == "fail")

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable: source, passed, maps, notes, checks."""
        checks = [{key: value for key, value in asdict(check).items() if value not in ("", None)}
                  for check in self.checks]  # fmt: skip
        return {"source": self.source, "passed": self.passed, "maps": self.maps, "notes": list(self.notes),
                "checks": checks}  # fmt: skip

    def _shown(self) -> Iterator[Check]:
        """One line stands for a check that all maps pass with nothing to say."""
        for name in dict.fromkeys(check.name for check in self.checks):
            same = [check for check in self.checks if check.name == name]
            if len(same) > 1 and all(c.status == "pass" and not c.message and not c.axis for c in same):
                yield Check(name=name, map=f"all {len(same)}", status="pass")
            else:
                yield from same

    def table(self) -> str:
        """The findings as aligned text, failures said in words, then a verdict."""
        rows = [("check", "map", "value", "bar", "")]
        for check in self._shown():
            where = f"{check.map} {check.axis}".strip()
            value, bar = ("" if figure is None else f"{figure:.4g}" for figure in (check.value, check.bar))
            rows.append((check.name, where, value, bar, check.status + (f": {check.message}" if check.message else "")))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        aligned = [
            "  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]),
                       row[3].rjust(widths[3]), row[4]]).rstrip()
            for row in rows
        ]  # fmt: skip
        seen = [f"{name}: {entry['file']}, {entry['bits']} bits, {entry['size'][0]}x{entry['size'][1]}"
                for name, entry in self.maps.items() if entry["file"]]  # fmt: skip
        verdict = f"{len(self.failed)} of {len(self.checks)} checks failed" if self.failed else "all checks passed"
        return "\n".join([self.source, *seen, *self.notes, *aligned, verdict])


def check_material(
    material: Material | MapSet | str | Path,
    *,
    skip: Collection[str] = (),
    depth_m: float | None = None,
    size_m: tuple[float, float] | None = None,
    directx: bool = False,
) -> Report:
    """Check the maps of a material, or of a folder of maps from this program or another (`materials.recognise`).

    A figure that is exactly at its bar passes. Maps that are broken are reported by the check that is about that, and
    left out of the others.

    Args:
        material: what to check.
        skip: names of checks (`CHECKS`) to leave out.
        depth_m: metres between height 0 and 1, for a folder that does not say.
        size_m: physical (width, height) in metres, for a folder that does not say.
        directx: whether the normals of a folder that does not say are DirectX.

    Raises:
        ZelligeError: for a folder that holds no material, an unreadable image, or an unknown check to skip.
    """
    if unknown := sorted(set(skip) - set(CHECKS)):
        raise ZelligeError(f"Expected checks to skip among {', '.join(CHECKS)}, but got {', '.join(unknown)}.")
    if depth_m is not None and not (math.isfinite(depth_m) and depth_m >= 0):
        raise ZelligeError(f"Expected a depth of 0 or more metres, but got {depth_m}.")
    if size_m is not None and not all(math.isfinite(v) and v > 0 for v in size_m):
        raise ZelligeError(f"Expected a size of two lengths above 0 metres, but got {size_m}.")
    if isinstance(material, Material):
        found = MapSet.of(material)
    elif isinstance(material, MapSet):
        found = material
    else:
        found = read_maps(material, depth_m=depth_m, size_m=size_m, directx=directx)
    checks = tuple(check for name, run in CHECKS.items() if name not in skip for check in run(found))
    maps = {name: {"file": m.file, "bits": m.bits, "size": list(m.size)} for name, m in found.maps.items()}
    return Report(source=found.source, checks=checks, maps=maps, notes=found.notes)


def _verdict(good: bool) -> Status:
    return "pass" if good else "fail"


def _maps(found: MapSet) -> Iterator[Check]:
    for name in MAPS:
        if name in found.maps:
            yield Check(name="maps", map=name, status="pass")
        elif name == "metallic" and not found.complete:
            yield Check(name="maps", map=name, status="skip", message="there is none: no metal")
        else:
            yield Check(name="maps", map=name, status="fail", message="there is none")


def _size(found: MapSet) -> Iterator[Check]:
    sizes = [m.size for m in found.maps.values()]
    common = max(set(sizes), key=sizes.count) if sizes else (0, 0)
    for name, m in found.maps.items():
        same = m.size == common
        message = "" if same else f"is {m.size[0]}x{m.size[1]}, others are {common[0]}x{common[1]}"
        yield Check(name="size", map=name, status=_verdict(same), message=message)


def _finite(found: MapSet) -> Iterator[Check]:
    for name, m in found.maps.items():
        broken = int(np.count_nonzero(~np.isfinite(m.values)))
        message = f"{broken} values are NaN or infinite" if broken else ""
        yield Check(name="finite", map=name, status=_verdict(not broken), value=broken, bar=0, message=message)


def _range(found: MapSet) -> Iterator[Check]:
    for name, values in _whole(found, *found.maps):
        floor = -1.0 if name == "normal" else 0.0
        beyond = max(0.0, floor - float(values.min()), float(values.max()) - 1)
        good = beyond <= 1e-4
        message = "" if good else f"spans {values.min():.4g} to {values.max():.4g}, not {floor:g} to 1"
        yield Check(name="range", map=name, status=_verdict(good), value=beyond, bar=1e-4, message=message)


def _flat(found: MapSet) -> Iterator[Check]:
    for name, values in _whole(found, "basecolor", "normal", "height", "roughness"):
        span = float(np.ptp(values.reshape(len(values), -1), axis=1).max())
        if name in found.locked:
            yield Check(name="flat", map=name, status="skip", value=span, message="asked to be one value")
        elif name in ("normal", "height") and found.depth_m == 0:
            yield Check(name="flat", map=name, status="skip", value=span, message="the depth is 0")
        else:
            good = span > FLAT_RANGE
            message = "" if good else "the same value everywhere"
            yield Check(name="flat", map=name, status=_verdict(good), value=span, bar=FLAT_RANGE, message=message)


def _seam(found: MapSet) -> Iterator[Check]:
    declared = "xy" if found.seamless is None else found.seamless
    for name, values in _whole(found, *found.maps):
        if name == "normal":
            shown = values * 0.5 + 0.5
        elif name == "height":  # a height file in metres is the business of `range`
            shown = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
        else:
            shown = values
        shown = np.clip(shown, 0, 1)
        ratios = seam_ratio(shown)[0]
        for axis, ratio, dim in (("x", float(ratios[0]), 2), ("y", float(ratios[1]), 1)):
            at = {"name": "seam", "map": name, "axis": axis, "value": ratio, "bar": SEAM_BAR}
            if axis not in declared:
                yield Check(**at, status="skip", message="not said to repeat")
                continue
            beside = _wrap_over_largest(shown, dim)
            good = ratio <= SEAM_BAR or beside <= SEAM_STEP
            if not good:
                message = f"the step across the edge is {beside:.3g} times the largest inside"
            else:
                message = "" if ratio <= SEAM_BAR else "an edge such as there are inside"
            yield Check(**at, status=_verdict(good), message=message)


def _unit(found: MapSet) -> Iterator[Check]:
    for _, values in _whole(found, "normal"):
        length = np.sqrt(np.square(values, dtype=np.float64).sum(0))
        share = float((np.abs(length - 1) > UNIT_TOLERANCE).mean())
        good = share <= UNIT_SHARE
        message = "" if good else f"lengths from {length.min():.3f} to {length.max():.3f}"
        yield Check(name="unit", map="normal", status=_verdict(good), value=share, bar=UNIT_SHARE, message=message)


def _blue(found: MapSet) -> Iterator[Check]:
    for _, values in _whole(found, "normal"):
        share = float((values[2] <= 0).mean())
        message = f"{share:.2%} of the texels have blue of 0.5 or less, which glTF forbids" if share else ""
        yield Check(name="blue", map="normal", status=_verdict(share == 0), value=share, bar=0, message=message)


def _agreement(found: MapSet) -> Iterator[Check]:
    pair = dict(_whole(found, "normal", "height"))
    if len(pair) < 2 or pair["normal"].shape[1:] != pair["height"].shape[1:]:
        return
    normal, height = (torch.from_numpy(pair[name][None]) for name in ("normal", "height"))
    normal = normal / normal.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    rows, columns = height.shape[-2:]
    axes = "xy" if found.seamless is None else found.seamless
    size = found.size_m or (1.0, rows / columns)
    given = None if found.size_m is None else found.depth_m

    def error(candidate: torch.Tensor) -> float:
        depth = fit_depth(candidate, height, size_m=size, seamless=axes) if given is None else given
        return _mean_angle(candidate, normal_from_height(height, depth_m=depth, size_m=size, seamless=axes))

    angle, tilt = error(normal), float(torch.rad2deg(torch.acos(normal[:, 2].clamp(-1, 1))).mean())
    bar = min(NORMAL_DEGREES[1], max(NORMAL_DEGREES[0], 0.5 * tilt))
    good = angle <= bar
    message = "at the depth that fits best" if given is None else ""
    if not good:
        turned = error(normal * torch.tensor([1.0, -1.0, 1.0])[:, None, None])
        message = f"mean angle in degrees, of a mean tilt of {tilt:.3g}"
        if turned < 0.7 * angle:
            message = f"mean angle in degrees; turned from DirectX it would be {turned:.3g}"
    yield Check(name="agreement", map="normal", status=_verdict(good), value=angle, bar=bar, message=message)


def _depth(found: MapSet) -> Iterator[Check]:
    if "height" not in found.maps:
        return
    given = found.depth_m is not None and found.size_m is not None
    message = "" if given else "nobody says how many metres height 1 and the sides are"
    yield Check(name="depth", map="height", status=_verdict(given), value=found.depth_m, message=message)


def _basecolor(found: MapSet) -> Iterator[Check]:
    maps = dict(_whole(found, "basecolor", "metallic"))
    if "basecolor" not in maps:
        return
    shown = np.clip(maps["basecolor"], 0, 1)
    light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    luminance = np.tensordot(np.array([0.2126, 0.7152, 0.0722], np.float32), light, 1)
    encoded = np.where(luminance <= 0.0031308, 12.92 * luminance, 1.055 * luminance ** (1 / 2.4) - 0.055) * 255
    metallic = maps.get("metallic", np.zeros((1, *luminance.shape)))[0]
    if metallic.shape != luminance.shape:
        metallic = np.zeros_like(luminance)
    kinds = (("dielectric", metallic < METALLIC_GREY[0], DIELECTRIC_SRGB),
             ("metal", metallic > METALLIC_GREY[1], METAL_SRGB))  # fmt: skip
    for axis, chosen, (low, high) in kinds:
        if not chosen.any():
            continue
        values = encoded[chosen]
        # half a step of 8 bits: the limits themselves are inside
        dark, bright = float((values < low - 0.5).mean()), float((values > high + 0.5).mean())
        good = dark + bright <= BASECOLOR_SHARE
        message = "" if good else f"{dark:.0%} below {low} and {bright:.0%} above {high} of 255"
        yield Check(name="basecolor", map="basecolor", axis=axis, status=_verdict(good), value=dark + bright,
                    bar=BASECOLOR_SHARE, message=message)  # fmt: skip


def _metallic(found: MapSet) -> Iterator[Check]:
    for _, values in _whole(found, "metallic"):
        share = float(((values > METALLIC_GREY[0]) & (values < METALLIC_GREY[1])).mean())
        good = share <= METALLIC_SHARE
        message = "" if good else "neither metal nor not: between 0.1 and 0.9"
        yield Check(name="metallic", map="metallic", status=_verdict(good), value=share, bar=METALLIC_SHARE,
                    message=message)  # fmt: skip


CHECKS: dict[str, Callable[[MapSet], Iterator[Check]]] = {
    "maps": _maps,
    "size": _size,
    "finite": _finite,
    "range": _range,
    "flat": _flat,
    "seam": _seam,
    "unit": _unit,
    "blue": _blue,
    "agreement": _agreement,
    "depth": _depth,
    "basecolor": _basecolor,
    "metallic": _metallic,
}
"""Name of each check to the function that carries it out, in the order of the report."""


def _whole(found: MapSet, *names: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Those of the named maps that are there and finite."""
    for name in names:
        if name in found.maps and bool(np.isfinite(found.maps[name].values).all()):
            yield name, found.maps[name].values


def _wrap_over_largest(values: NDArray[np.float32], dim: int) -> float:
    """Mean step across the wrap edge over the largest mean step between neighbouring rows or columns."""
    if values.shape[dim] < 2:
        return 0.0
    others = tuple(i for i in range(3) if i != dim)
    inner = float(np.abs(np.diff(values, axis=dim)).mean(others).max())
    wrap = float(np.abs(np.take(values, 0, dim) - np.take(values, -1, dim)).mean())
    return wrap / max(inner, 1e-3 / 255)


def _mean_angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """Degrees between unit vectors (1, 3, H, W), by atan2: acos loses half the digits near 0."""
    (ax, ay, az), (bx, by, bz) = a[0], b[0]  # by component: several times faster than over that axis
    sine = ((ay * bz - az * by).square() + (az * bx - ax * bz).square() + (ax * by - ay * bx).square()).sqrt()
    return float(torch.rad2deg(torch.atan2(sine, ax * bx + ay * by + az * bz)).double().mean())
