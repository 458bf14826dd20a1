"""Folders of maps, this program's and other tools', to a `MapSet`: which file is which map, by its name."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from materials.errors import ZelligeError
from materials.files import MANIFEST, SCHEMA_VERSION
from materials.mapset import SUFFIXES, FoundMap, MapSet, read_image
from materials.material import CHANNELS, MAPS, Seamlessness

_WORDS: dict[str, tuple[str, ...]] = {
    "basecolor": ("basecolor", "basecolour", "albedo", "diffuse", "diff", "color", "colour", "col", "bc", "basemap"),
    "normal": ("normalgl", "norgl", "normalopengl", "nrmgl", "normal", "normals", "nrm", "nor", "n"),
    "normal_dx": ("normaldx", "nordx", "normaldirectx", "nrmdx"),
    "height": ("height", "heightmap", "displacement", "disp", "displace", "h"),
    "roughness": ("roughness", "rough", "rgh", "r"),
    "gloss": ("glossiness", "gloss", "smoothness"),
    "metallic": ("metallic", "metalness", "metal", "mtl", "m"),
    "ao": ("ao", "ambientocclusion", "occlusion"),
    "orm": ("orm", "arm", "occlusionroughnessmetallic"),
}
"""Ends of file names, the usual tools': Substance, Poly Haven, ambientCG, Quixel, Unreal, Unity, Blender."""

_CHANNELS = ("red", "green", "blue")
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words}
_RESOLUTION = re.compile(r"\d+k|\d+x\d+|png|jpg|jpeg|tif|tiff|exr|8bit|16bit|2d")


@dataclass(frozen=True)
class _File:
    path: Path
    kind: str
    prefix: str


def read_maps(
    folder: str | Path,
    *,
    depth_m: float | None = None,
    size_m: tuple[float, float] | None = None,
    directx: bool = False,
) -> MapSet:
    """The maps in `folder`: those that its `material.json` lists, else those whose names say what they are.

    Names are taken by their last words, whatever their case and separators: `Rock_1K-PNG_NormalDX.png` is a normal map
    of DirectX, which is turned to OpenGL; `wall_arm_2k.png` holds occlusion, roughness and metallic in red, green and
    blue; glossiness is turned to roughness. `MapSet.notes` says so.

    Args:
        folder: where the files are; folders in it are not looked into.
        depth_m: metres between height 0 and 1, over what the folder says.
        size_m: physical (width, height) in metres, over what the folder says.
        directx: whether normals that do not say which kind they are (`T_Rock_N.png`) are DirectX.

    Raises:
        ZelligeError: where the folder or its `material.json` cannot be read, holds no map or the maps of two
            materials, or an image is damaged.
    """
    folder = Path(folder)
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise ZelligeError(f"Expected a folder of maps, but got {folder} ({error.strerror}).") from error
    found = _listed(folder) if MANIFEST in names else _named(folder, names, directx)
    return MapSet(
        source=str(folder),
        maps=found.maps,
        depth_m=found.depth_m if depth_m is None else depth_m,
        size_m=found.size_m if size_m is None else size_m,
        seamless=found.seamless,
        locked=found.locked,
        complete=found.complete,
        notes=found.notes,
    )


def kind_of(name: str) -> str | None:
    """Which map a file's name says it is: one of `MAPS`, ao, normal_dx, gloss, orm; None where it says nothing."""
    kind = _split(name)[0]
    return kind or None


def _split(name: str) -> tuple[str, str]:
    """(kind or "", what the name holds before the words that say so)."""
    stem = name.rpartition(".")[0] or name
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", stem)
    words = [word for word in re.split(r"[^A-Za-z0-9]+", stem) if word]
    lowered = [word.lower() for word in words]
    while lowered and _RESOLUTION.fullmatch(lowered[-1]):
        lowered.pop()
    for count in (3, 2, 1):
        word = "".join(lowered[-count:])
        # one letter says something only behind a name: T_Rock_N
        if len(lowered) >= count and word in _KINDS and (len(word) > 1 or len(lowered) > 1):
            return _KINDS[word], "_".join(lowered[:-count])
    return "", ""


def _named(folder: Path, names: list[str], directx: bool) -> MapSet:
    files = []
    for name in names:
        kind, prefix = _split(name)
        if kind and Path(name).suffix.lower() in SUFFIXES:
            files.append(_File(folder / name, kind, prefix))
    if not files:
        raise ZelligeError(f"Expected a folder with {MANIFEST} or with maps such as wall_basecolor.png and "
                           f"wall_normal.png, but {folder} holds none.")  # fmt: skip
    chosen: dict[str, _File] = {}
    notes: list[str] = []
    for file in files:
        if file.kind not in chosen:
            chosen[file.kind] = file
        elif _materials_differ(chosen[file.kind], file):
            raise ZelligeError(f"Expected the maps of one material in {folder}, but got {chosen[file.kind].path.name} "
                               f"and {file.path.name}.")  # fmt: skip
        else:
            chosen[file.kind] = _better(chosen[file.kind], file)
            notes.append(f"{file.kind}: {chosen[file.kind].path.name} taken of two")
    if directx and "normal" in chosen and not re.search("(?i)gl(_|$)", chosen["normal"].path.stem):
        chosen["normal_dx"] = chosen.pop("normal")
    maps = {kind: _read(file.path, kind) for kind, file in chosen.items()}
    return MapSet(source=str(folder), maps=_unpacked(maps, notes), complete=False, notes=tuple(notes))


def _materials_differ(a: _File, b: _File) -> bool:
    return re.sub(r"_?\d+k.*$", "", a.prefix) != re.sub(r"_?\d+k.*$", "", b.prefix)


def _better(a: _File, b: _File) -> _File:
    """The first of the words that `_WORDS` lists (basecolor before diffuse); of two formats the one with more bits."""
    order = _WORDS[a.kind]
    rank = {file: (_word_rank(file, order), file.path.suffix.lower() not in (".exr", ".png")) for file in (a, b)}
    return a if rank[a] <= rank[b] else b


def _word_rank(file: _File, order: tuple[str, ...]) -> int:
    squeezed = re.sub(r"[^a-z0-9]", "", file.path.stem.lower())
    return min((i for i, word in enumerate(order) if word in squeezed), default=len(order))


def _unpacked(maps: dict[str, FoundMap], notes: list[str]) -> dict[str, FoundMap]:
    """Only this program's names: DirectX normals turned, packed channels taken apart, gloss turned."""
    out = {name: maps[name] for name in (*MAPS, "ao") if name in maps}
    if "orm" in maps:
        packed = maps["orm"]
        for channel, name in enumerate(("ao", "roughness", "metallic")):
            if name not in out:
                values = packed.values[channel : channel + 1]
                out[name] = FoundMap(values=values, bits=packed.bits, file=packed.file)
                notes.append(f"{name}: {_CHANNELS[channel]} of {packed.file}")
    if "gloss" in maps and "roughness" not in out:
        gloss = maps["gloss"]
        out["roughness"] = FoundMap(values=1 - gloss.values, bits=gloss.bits, file=gloss.file)
        notes.append(f"roughness: 1 - {gloss.file}")
    if "normal_dx" in maps and "normal" not in out:
        out["normal"] = _flipped(maps["normal_dx"])
        notes.append(f"normal: {out['normal'].file} turned from DirectX to OpenGL")
    return out


def _listed(folder: Path) -> MapSet:
    """By the manifest; a file that it lists and that is gone is left out."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        listed = {str(name): folder / Path(entry["file"]).name for name, entry in manifest["maps"].items()}
        directx = manifest["maps"].get("normal", {}).get("convention") == "directx"
        depth = manifest["maps"].get("height", {}).get("depth_m")
        width, length = (float(v) for v in manifest["size_m"])
        seamless: Seamlessness = manifest["seamless"]
        locks = manifest.get("request", {}).get("lock") or {}
        depth = None if depth is None else float(depth)
        if manifest["schema"] != SCHEMA_VERSION:
            raise ValueError(f"its schema is {manifest['schema']!r}, not {SCHEMA_VERSION}")
        if seamless not in get_args(Seamlessness) or not isinstance(locks, dict):
            raise ValueError(f"seamless is {seamless!r}")
        if not all(math.isfinite(v) and v > 0 for v in (width, length)):
            raise ValueError(f"the size is {width} by {length} metres")
        if depth is not None and not (math.isfinite(depth) and depth >= 0):
            raise ValueError(f"the depth is {depth} metres")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ZelligeError(f"Expected a material, but {folder / MANIFEST} is damaged ({error}).") from error
    maps = {name: _read(path, name) for name, path in listed.items() if name in (*MAPS, "ao") and path.is_file()}
    if directx and "normal" in maps:
        maps["normal"] = _flipped(maps["normal"])
    return MapSet(
        source=str(folder),
        maps=maps,
        depth_m=depth,
        size_m=(width, length),
        seamless=seamless,
        locked=frozenset(name for name, value in locks.items() if _is_plain(value)),
        notes=(f"as {MANIFEST} lists them",),
    )


def _is_plain(value: object) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and value.startswith("#"))


def _read(path: Path, kind: str) -> FoundMap:
    values, bits = read_image(path)
    wanted = 3 if kind in ("normal_dx", "orm") else CHANNELS.get(kind, 1)
    if values.shape[0] < wanted:
        if kind != "basecolor":
            raise ZelligeError(f"Expected {wanted} channels in {path}, but got {values.shape[0]}.")
        values = np.repeat(values, 3, axis=0)
    values = values[:wanted]
    if kind in ("normal", "normal_dx"):
        values = values * 2 - 1
    return FoundMap(values=values, bits=bits, file=path.name)


def _flipped(found: FoundMap) -> FoundMap:
    values = found.values * np.array([1, -1, 1], np.float32)[:, None, None]
    return FoundMap(values=values, bits=found.bits, file=found.file)
