"""A material as a folder: one file per map, two previews, and `material.json`, written last."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from materials.atomic import make_folder, replacing
from materials.errors import OutputError, ZelligeError
from materials.exr import read_exr, write_exr
from materials.maps import ambient_occlusion
from materials.material import CHANNELS, MAPS, Material
from materials.png import Pixels, read_png, write_png
from materials.preview import flat, render
from materials.provenance import Source, describe
from textile_metric.seam import seam_ratio

SCHEMA_VERSION = "1"
MANIFEST = "material.json"
HeightFormat = Literal["png16", "exr"]

_BITS = {"basecolor": 8, "normal": 16, "height": 16, "roughness": 8, "metallic": 8, "ao": 8}
_LARGEST_FLAT = 1024


def save_material(
    material: Material,
    folder: str | Path,
    *,
    request: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    height_format: HeightFormat = "png16",
    previews: bool = True,
    metadata: bool = True,
    source: Source = "trainedAlgorithmicMedia",
) -> list[Path]:
    """Write every map of `material`, ambient occlusion, previews and `material.json` into `folder`.

    Files: `basecolor.png` (8-bit sRGB), `normal.png` (16-bit linear, OpenGL, blue above one half), `height.png` (16-bit
    linear, the depth in metres in its text) or `height.exr` (32-bit float), `roughness.png`, `metallic.png`, `ao.png`
    (8-bit linear), `preview.png` (a lit ball), `tiled.png` (2x2 tiles, lit), `material.json`. Each file appears whole
    or not at all, and an older `material.json` is removed first: a folder that has one is complete. Every image carries
    text that says where it comes from (`materials.provenance`).

    Args:
        material: what to save.
        folder: where; it is made if need be, and files of an earlier save are replaced.
        request: what was asked for, JSON-serialisable; kept in `material.json` and in every PNG. The keys `prompt`,
            `steps`, `seed` and `guidance` also go into `parameters`.
        extra: further top-level entries of `material.json`, such as scores; none of its own names.
        height_format: "png16" or "exr".
        previews: whether to render `preview.png` and `tiled.png`.
        metadata: whether prompt, seed, origin and versions go into the files. Without, images have no text, and of the
            request `material.json` keeps which maps are locked to one value.
        source: what made the material, in IPTC's words.

    Returns:
        The files written, `material.json` last.

    Raises:
        OutputError: where the folder cannot be made or written, or is full.
        ZelligeError: for a height format that does not exist, or values that are not JSON.
    """
    if height_format not in ("png16", "exr"):
        raise ZelligeError(f"Expected a height format of png16 or exr, but got {height_format!r}.")
    folder = Path(folder)
    request = dict(request or {})
    manifest = _manifest(material, request if metadata else _plain_locks(request))
    if not metadata:
        manifest["versions"] = {}
    if clash := sorted(set(manifest) & set(extra or {})):
        raise ZelligeError(f"Expected extra entries beside those of material.json, but got {', '.join(clash)}.")
    manifest |= dict(extra or {})
    text = _text(manifest, source) if metadata else {}
    make_folder(folder)
    height_file = "height.exr" if height_format == "exr" else "height.png"
    _retire(folder, {*(f"{name}.png" for name in _BITS if name != "height"), height_file, *_previews(previews)})
    written: list[Path] = []
    maps = _maps(material)
    for name, values in maps.items():
        more = {"depth_m": repr(material.depth_m)} if name == "height" and metadata else {}
        if name == "height" and height_format == "exr":
            path = write_exr(folder / height_file, values[0].contiguous().numpy(), text=text | more)
            seams = seam_ratio(values)
        else:
            pixels = quantise(values, _BITS[name], signed=name == "normal")
            path = folder / f"{name}.png"
            write_png(path, pixels, colour="srgb" if name == "basecolor" else "linear", text=text | more)
            seams = seam_ratio(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32) / 65535)
        manifest["maps"][name] = _entry(path, name, height_format, material)
        manifest["seam"][name] = {"x": round(float(seams[0, 0]), 4), "y": round(float(seams[0, 1]), 4)}
        written.append(path)
    if previews:
        pictures = {
            "preview": render(material, occlusion=maps["ao"]),
            "tiled": flat(material, largest=_LARGEST_FLAT, occlusion=maps["ao"]),
        }
        for name, picture in pictures.items():
            path = write_png(folder / f"{name}.png", quantise(picture, 8), colour="srgb", text=text)
            manifest["previews"][name] = path.name
            written.append(path)
    written.append(folder / MANIFEST)
    with replacing(written[-1]) as handle:
        handle.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    return written


def load_material(folder: str | Path) -> Material:
    """Read a folder that `save_material` wrote (its maps may have been edited since, at their size).

    Raises ZelligeError where `material.json` or a map is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        schema, listed, physical = manifest["schema"], manifest["maps"], manifest["size_m"]
        files = {name: folder / Path(listed[name]["file"]).name for name in MAPS}
        depth, seamless = float(listed["height"]["depth_m"]), manifest["seamless"]
        width_m, height_m = float(physical[0]), float(physical[1])
    except OSError as error:
        reason = error.strerror
        raise ZelligeError(f"Expected a material folder with {MANIFEST}, but got {folder} ({reason}).") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ZelligeError(f"Expected a material, but {folder / MANIFEST} is damaged ({error!r}).") from error
    if schema != SCHEMA_VERSION:
        raise ZelligeError(f"Expected {MANIFEST} of schema {SCHEMA_VERSION}, but got {schema!r}.")
    maps = {name: _read_map(path, CHANNELS[name]) for name, path in files.items()}
    normal = maps.pop("normal") * 2 - 1
    normal[2].clamp_(min=1e-5)
    normal /= torch.linalg.vector_norm(normal, dim=0, keepdim=True)
    return Material(**maps, normal=normal, depth_m=depth, size_m=(width_m, height_m), seamless=seamless)


def quantise(values: Tensor, bits: int, *, signed: bool = False) -> Pixels:
    """Round values (C, H, W) in [0, 1], or [-1, 1] where `signed`, to 8 or 16 bits.

    Signed values are unit normals: their third channel stays above one half, as glTF asks.
    """
    top = 255 if bits == 8 else 65535
    array = values.detach().to(torch.float64 if bits == 16 else torch.float32).numpy()
    array = array * 0.5 + 0.5 if signed else array
    pixels = np.rint(np.clip(array, 0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16)
    if signed:
        pixels[2] = np.maximum(pixels[2], top // 2 + 1)
    return pixels


def _previews(wanted: bool) -> tuple[str, ...]:
    return ("preview.png", "tiled.png") if wanted else ()


def _maps(material: Material) -> dict[str, Tensor]:
    relief = {"depth_m": material.depth_m, "size_m": material.size_m, "seamless": material.seamless}
    maps = {name: getattr(material, name) for name in MAPS}
    return maps | {"ao": ambient_occlusion(material.height[None], **relief)[0]}


def _manifest(material: Material, request: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "request": request,
        "size": list(material.size),
        "size_m": list(material.size_m),
        "seamless": material.seamless,
        "maps": {},
        "previews": {},
        "seam": {},
        "versions": _versions(),
    }


def _text(manifest: dict[str, Any], source: Source) -> dict[str, str]:
    described = {key: manifest[key] for key in ("schema", "request", "size", "size_m", "seamless", "versions")}
    try:
        json.dumps(manifest)
    except (TypeError, ValueError) as error:
        raise ZelligeError(f"Expected a request and extra entries that JSON can hold, but got {error}.") from error
    return describe(described, source)


def _plain_locks(request: Mapping[str, Any]) -> dict[str, Any]:
    """Of a request, that some maps are one value by intent, which `check` asks for."""
    locks = {name: value for name, value in dict(request.get("lock") or {}).items()
             if not isinstance(value, str) or value.startswith("#")}  # fmt: skip
    return {"lock": locks} if locks else {}


def _entry(path: Path, name: str, height_format: HeightFormat, material: Material) -> dict[str, Any]:
    is_float = name == "height" and height_format == "exr"
    entry: dict[str, Any] = {
        "file": path.name,
        "colour_space": "srgb" if name == "basecolor" else "linear",
        "bits": 32 if is_float else _BITS[name],
        "channels": CHANNELS.get(name, 1),
        "sha256": _digest(path),
    }
    if name == "normal":
        entry["convention"] = "opengl"
    if name == "height":
        entry["depth_m"] = material.depth_m
    return entry


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"Expected to read {path} back, but the system refused: {error.strerror}.") from error


def _retire(folder: Path, kept: set[str]) -> None:
    """Take an older save's manifest away, then the files it lists that the new save will not replace."""
    manifest = folder / MANIFEST
    try:
        old = json.loads(manifest.read_bytes())
        stale = {Path(entry["file"]).name for entry in old["maps"].values()}
        stale |= {Path(name).name for name in old["previews"].values()}
        manifest.unlink()
        for name in stale - kept:
            (folder / name).unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"Expected to replace {manifest}, but the system refused: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"Expected a new folder or an earlier one, but {manifest} describes no material.") from error


def _read_map(path: Path, channels: int) -> Tensor:
    if path.suffix == ".exr":
        values = torch.from_numpy(read_exr(path))[None]
    else:
        pixels = read_png(path).pixels
        top = 255 if pixels.dtype == np.uint8 else 65535
        values = torch.from_numpy((pixels / top).astype(np.float32))
    if values.shape[0] == channels:
        return values
    if channels == 1:
        return values[:1].clone()
    raise ZelligeError(f"Expected {channels} channels in {path}, but got {values.shape[0]}.")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("zellige", "torch", "diffusers", "numpy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
