"""What goes into a pack: one `Source` per material, found in the texture list or in folders, and its decoding."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import images
from .images import ByteArray, FloatArray

ALPHA_OF_NORMAL = "alpha of normal"
TILES_BELOW = 1.5
_FOLLOWS_NORMAL, _FOLLOWS_HEIGHT, _CONSTANT, _AGREES = 0.8, 0.9, 0.02, 0.2
_COLUMNS = {"package", "path", "licence", "caption", "class", "split", "dup_cluster", "seam_x", "seam_y"}
_COLUMNS |= {"normal_path", "normal_y", "height_source", "normal_lum_corr"}
# Map suffixes of MatSynth, ambientCG and Poly Haven, the better source of a map first.
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "basecolor": ("basecolor", "base_color", "albedo", "color", "col", "diffuse", "diff"),
    "normal": ("normal", "normalgl", "normal_gl", "nor_gl", "normaldx", "normal_dx", "nor_dx", "norm"),
    "height": ("height", "displacement", "disp"),
    "roughness": ("roughness", "rough"),
    "metallic": ("metallic", "metalness", "metal"),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files and facts of one material. normal_y: "GL" or "DX". derived: maps may be filters of the colour image."""

    id: str
    path: str
    caption: str
    class_name: str = "other"
    split: str = "train"
    dup_cluster: int
    tiles_x: bool = False
    tiles_y: bool = False
    licence: str = ""
    basecolor: Path
    normal: Path | None = None
    normal_y: str = "GL"
    height: Path | None = None
    height_in_alpha: bool = False
    roughness: Path | None = None
    metallic: Path | None = None
    size_m: tuple[float, float] | None = None
    derived: bool = False


@dataclass(frozen=True)
class Decoded:
    """basecolor (H, W, 3) uint8; maps: normal (h, w, 3) float32 OpenGL, the others (h, w) float32 in [0, 1]."""

    basecolor: ByteArray
    maps: dict[str, FloatArray]
    dropped: list[str] = field(default_factory=list)


def read_list(path: Path) -> list[dict[str, str]]:
    """Rows of a texture list. Raises ValueError when it is missing, empty or lacks a column."""
    if not path.is_file():
        raise ValueError(f"Expected a texture list, but got no file at {path}")
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    if not rows or _COLUMNS - set(rows[0]):
        raise ValueError(
            f"Expected the columns {sorted(_COLUMNS)} in {path}, but got {sorted(rows[0]) if rows else []}"
        )
    return rows


def members(row: dict[str, str]) -> list[str]:
    """Files that a row of the texture list needs, as paths after unpacking."""
    files = [row["path"]]
    if row["normal_path"]:
        files.append(row["normal_path"])
    if row["height_source"] not in ("", ALPHA_OF_NORMAL):
        files.append(row["height_source"])
    return files


def from_list(rows: Iterable[dict[str, str]], root: Path) -> list[Source]:
    """Sources of texture-list rows whose files lie below root.

    A normal map is kept if its direction is known and it is not a filter of the colour image (|correlation| <= 0.8).
    """
    sources = []
    for number, row in enumerate(rows):
        usable = row["normal_y"] in ("GL", "DX") and abs(float(row["normal_lum_corr"] or 0)) <= _FOLLOWS_NORMAL
        normal = root / row["normal_path"] if row["normal_path"] and usable else None
        in_alpha = row["height_source"] == ALPHA_OF_NORMAL
        height = normal if in_alpha else root / row["height_source"] if row["height_source"] else None
        sources.append(
            Source(
                id=f"t{number:05d}",
                path=row["path"],
                caption=row["caption"],
                class_name=row["class"],
                split=row["split"],
                dup_cluster=int(row["dup_cluster"]),
                tiles_x=float(row["seam_x"]) < TILES_BELOW,
                tiles_y=float(row["seam_y"]) < TILES_BELOW,
                licence=row["licence"],
                basecolor=root / row["path"],
                normal=normal,
                normal_y=row["normal_y"] or "GL",
                height=height,
                height_in_alpha=in_alpha and height is not None,
                derived=True,
            )
        )
    return sources


def _split_of(name: str) -> str:
    return "val" if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 10 == 0 else "train"


def _words_of(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.findall(r"[a-z]{2,}", spaced.lower())) or "texture"


def _images_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"Expected a folder of images, but got {folder}")
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES and p.is_file())


def from_images(folder: Path) -> list[Source]:
    """One source per image below a folder; caption from the file name, a tenth by hash of the name is validation.

    Raises ValueError where there is no image.
    """
    files = _images_below(folder)
    if not files:
        raise ValueError(f"Expected at least one image below {folder}, but got none")
    names = [file.relative_to(folder).as_posix() for file in files]
    return [
        Source(
            id=f"i{number:05d}",
            path=name,
            caption=_words_of(file.stem),
            split=_split_of(name),
            dup_cluster=number,
            basecolor=file,
        )
        for number, (name, file) in enumerate(zip(names, files, strict=True))
    ]


def _map_of(file: Path) -> tuple[str, int] | None:
    parts = re.findall(r"[a-z]+", file.stem.lower())
    # Poly Haven puts the resolution last: rock_nor_gl_1k.
    while parts and parts[-1] in ("k", "png", "jpg"):
        parts.pop()
    for ending in ("_".join(parts[-1:]), "_".join(parts[-2:])):
        for name, suffixes in _SUFFIXES.items():
            if ending in suffixes:
                return name, suffixes.index(ending)
    return None


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected JSON in {path}, but got: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"Expected a JSON object in {path}, but got a {type(data).__name__}")
    return data


def _size_m(value: Any, path: Path) -> tuple[float, float] | None:
    if value is None:
        return None
    pair = value if isinstance(value, list) else [value, value]
    try:
        width, height = (float(v) for v in pair)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected physical_size in metres in {path}, but got {value!r}") from error
    if not (0 < width < 1e4 and 0 < height < 1e4):
        raise ValueError(f"Expected a positive physical_size in metres in {path}, but got {value!r}")
    return width, height


def from_materials(folder: Path) -> list[Source]:
    """One source per folder with a basecolor file, as MatSynth, ambientCG and Poly Haven lay their maps out.

    `metadata.json` may hold name, tags, category, license and physical_size (metres, a number or [width, height]).
    Materials of such sets tile. Raises ValueError where no folder holds a basecolor file or metadata is damaged.
    """
    found: dict[Path, dict[str, tuple[int, Path]]] = {}
    for file in _images_below(folder):
        kind = _map_of(file)
        if kind is not None:
            maps = found.setdefault(file.parent, {})
            maps[kind[0]] = min(maps.get(kind[0], (99, file)), (kind[1], file))
    sources = []
    for number, place in enumerate(sorted(p for p, m in found.items() if "basecolor" in m)):
        data, name = _metadata(place), place.relative_to(folder).as_posix()
        files = {kind: file for kind, (_, file) in found[place].items()}
        tags = data.get("tags")
        words = [_words_of(str(data.get("name") or place.name)), *(map(str, tags) if isinstance(tags, list) else [])]
        dx = "normal" in files and found[place]["normal"][0] in (4, 5, 6)
        sources.append(
            Source(
                id=f"m{number:05d}",
                path=name,
                caption=" ".join(dict.fromkeys(" ".join(words).lower().split())),
                class_name=str(data.get("category") or "other"),
                split=_split_of(name),
                dup_cluster=number,
                tiles_x=True,
                tiles_y=True,
                licence=str(data.get("license") or data.get("licence") or ""),
                normal_y="DX" if dx else "GL",
                size_m=_size_m(data.get("physical_size"), place / "metadata.json"),
                basecolor=files["basecolor"],
                normal=files.get("normal"),
                height=files.get("height"),
                roughness=files.get("roughness"),
                metallic=files.get("metallic"),
            )
        )
    if not sources:
        raise ValueError(f"Expected folders with a file named like *basecolor.png below {folder}, but got none")
    return sources


def decode(source: Source, size: int, map_size: int) -> Decoded:
    """A source's images, scaled down to short sides of at most `size` (colour) and `map_size` (maps), never up.

    Heights that are constant, that follow the colour image or that contradict the normal map are dropped, and so are
    normal maps whose slopes point against the height; `Decoded.dropped` says why. Raises ValueError for damaged files.
    """
    wrap = {"wrap_x": source.tiles_x, "wrap_y": source.tiles_y}
    colour = images.to_rgb(images.open_image(source.basecolor))
    full = (colour.shape[1], colour.shape[0])
    basecolor = np.rint(images.resize(colour, images.fitted(*full, size), **wrap)).astype(np.uint8)
    files = {"normal": source.normal, "height": source.height}
    files |= {"roughness": source.roughness, "metallic": source.metallic}
    opened = {name: images.open_image(path) for name, path in files.items() if path is not None}
    if not opened:
        return Decoded(basecolor, {})
    target = images.fitted(*max(image.size for image in opened.values()), map_size)
    target = _with_ratio(target, images.fitted(*full, map_size))
    maps: dict[str, FloatArray] = {}
    dropped: list[str] = []
    for name, image in opened.items():
        if name == "normal":
            vectors = images.to_normal(image, source.normal_y)
            maps[name] = images.level(images.unit(images.resize(vectors, target, **wrap)))
            continue
        raw = images.alpha(image) if name == "height" and source.height_in_alpha else images.to_grey(image)
        if raw is None:
            dropped.append("height: the normal map has no alpha channel")
        else:
            maps[name] = images.resize(raw, target, **wrap)
    if "height" in maps:
        light = images.resize(images.luminance(colour), target, **wrap)
        dropped += _check_height(maps, light if source.derived else None)
    return Decoded(basecolor, maps, dropped)


def _with_ratio(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The largest size with the proportions of `wanted` that exceeds neither argument."""
    scale = min(1.0, size[0] / wanted[0], size[1] / wanted[1])
    return max(1, round(wanted[0] * scale)), max(1, round(wanted[1] * scale))


def _check_height(maps: dict[str, FloatArray], light: FloatArray | None) -> list[str]:
    """Remove an unusable height, and a normal map that points against it; returns the reasons."""
    height = maps["height"]
    low, high = np.percentile(height, (1, 99))
    if high - low < _CONSTANT:
        del maps["height"]
        return ["height: constant"]
    reasons = []
    if "normal" in maps:
        along_x, along_y = images.slope_agreement(maps["normal"], height)
        if min(along_x, along_y) < -_AGREES:
            reasons.append(f"normal: slopes against the height ({along_x:.2f}, {along_y:.2f})")
            del maps["normal"]
        if min(along_x, along_y) < _AGREES:
            reasons.append(f"height: slopes unlike the normal map's ({along_x:.2f}, {along_y:.2f})")
            del maps["height"]
            return reasons
    follows = images.correlation(height, light) if light is not None else 0.0
    if abs(follows) > _FOLLOWS_HEIGHT:
        reasons.append(f"height: follows the colour image ({follows:.2f})")
        del maps["height"]
    return reasons
