"""What the page shows of a result: small 8-bit copies of its maps under names that nobody can guess."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asd.errors import ZelligeError
from ui.locks import IMAGE_FORMATS
from ui.output import MANIFESTS
from ui.request import Kind, Request
from ui.web.kept import places
from ui.web.uploads import check_image, inside, printable, slug

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ui.scoring import ImageScore

LARGEST = 2048
"""Pixels along a side of a copy: what the canvas and graphics chips of phones take."""
LARGEST_PICTURE = 4096
"""The same of pictures, which are looked at pixel by pixel."""
THUMBNAIL = 256
KEPT = 120
"""Folders of copies that are kept; the oldest go first."""
THUMBNAILS = 2000
"""Small copies that are kept."""
NAMES: dict[Kind, str] = {"material": "Material", "image": "Image", "upscale": "Enlargement", "maps": "Maps of a photo"}
"""Titles of what has no prompt."""
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
MAPS = ("basecolor", "normal", "height", "roughness", "metallic", "ao")


class Views:
    """A folder of the process with copies for the browser. The results themselves are never served from their place:
    browsers bend maps that say they are linear, show 16 bits as 8, and need no path of this machine."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="zellige-ui-"))
        self._folders: list[Path] = []
        self._thumbnails: dict[tuple[Path, int, int], str] = {}
        weakref.finalize(self, shutil.rmtree, self.root, True)

    def folder(self) -> Path:
        """A new empty folder inside `root`."""
        made = self.root / secrets.token_hex(16)
        made.mkdir()
        self._folders.append(made)
        while len(self._folders) > KEPT:
            shutil.rmtree(self._folders.pop(0), ignore_errors=True)
        return made

    def result(self, folder: Path, out: Path | None = None) -> dict[str, Any]:
        """Copies of a result's pictures, its score and seams, for the preview: plain JSON values.

        Beside it what it was made of, where that is kept in `out`. Raises ZelligeError where `folder` holds no whole
        result.
        """
        told = read_result(folder)
        request = _object(told.get("request"))
        source = None if out is None else _source(request.get("image"), out)
        item = self._material(folder, told, source) if "maps" in told else self._picture(folder, told, source)
        title = str(request.get("prompt") or (NAMES[_kind(told)] if request else folder.name))
        return item | {"title": title, "seed": str(request.get("seed", ""))}

    def _material(self, folder: Path, told: dict[str, Any], source: Path | None) -> dict[str, Any]:
        to = self.folder()
        maps = {}
        for name in MAPS:
            path = _map_file(folder, told, name)
            if path is not None:
                maps[name] = self._copy(path, to / f"{name}.png")
        if "basecolor" not in maps:
            raise ZelligeError(f"Expected a whole result, but {folder.name} has no basecolor")
        if (lit := folder / "tiled.png").is_file():
            maps["lit"] = self._copy(lit, to / "lit.png", quarter=True)
        height = _object(told["maps"].get("height"))
        item = self._scored(folder / "basecolor.png", to, maps)
        if source is not None and _kind(told) == "maps":
            maps["photo"] = self._copy(source, to / "photo.png", photo=True)
            item["before"] = _score(to / "photo.png")
        remade = _object(told.get("remade"))
        if remade:
            item["facts"] = [["Untouched", f"{100 * _number(remade.get('untouched'), 0.0):.0f} % of the photo"]]
        return item | {
            "size_m": _pair(told.get("size_m"), (1.0, 1.0)),
            "depth_m": _number(height.get("depth_m"), 0.0),
            "kind": "material",
        }

    def _picture(self, folder: Path, told: dict[str, Any], source: Path | None) -> dict[str, Any]:
        path = _file(folder, told["files"].get("image"))
        if path is None:
            raise ZelligeError(f"Expected a whole result, but {folder.name} has no picture")
        if path.suffix != ".png":
            raise ZelligeError(f"Expected a picture that browsers show, but {path.name} in {folder.name} is too large")
        to = self.folder()
        maps = {"picture": self._copy(path, to / "picture.png", largest=LARGEST_PICTURE)}
        request = _object(told.get("request"))
        name = slug(str(request.get("prompt") or ""), _kind(told))
        shutil.copyfile(path, to / f"{name}.png")
        axes = told.get("seamless") if told.get("seamless") in ("x", "y", "xy") else "none"
        if axes == "none":
            width, height = _pair(told.get("size"), (0.0, 0.0))
            item: dict[str, Any] = {"maps": maps, "score": None, "size": [int(width), int(height)]}
        else:
            item = self._scored(path, to, maps)
        facts = []
        if source is not None:
            maps["before"] = self._copy(source, to / "before.png", largest=LARGEST_PICTURE, photo=True)
            facts.append(["Before", " × ".join(map(str, picture_size(source))) + " px"])
        shown = _object(told.get("tiles")).get("border_ratio")
        ratios = [_number(value, 0.0) for value in shown.values() if value] if isinstance(shown, dict) else []
        if ratios:
            facts.append(["Tile borders", f"{max(ratios):.2f} (1: invisible)"])
        download = str(to / f"{name}.png")
        return item | {"kind": "picture", "axes": axes, "facts": facts, "download": download}

    def image(self, path: Path, title: str, scored: ImageScore) -> dict[str, Any]:
        """A copy of an image of any origin with its score and seams."""
        to = self.folder()
        item = self._scored(path, to, {"basecolor": self._copy(path, to / "basecolor.png")}, scored)
        return item | {"title": title, "seed": "", "size_m": [1.0, 1.0], "depth_m": 0.0, "kind": "image"}

    def uploaded(self, request: Request) -> Request:
        """The request with copies of its images, which the browser may hand in again."""
        to = self.folder()
        copies = {
            name: str(shutil.copyfile(path, to / f"{name}{Path(path).suffix}"))
            for name, path in (("image", request.image), ("mask", request.mask))
            if path is not None
        }
        return replace(request, **copies) if copies else request

    def thumbnail(self, path: Path) -> str:
        """A small copy of an 8-bit image, without torch; its address. Raises ZelligeError for a file that is none."""
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._thumbnails:
            to = self.root / f"{secrets.token_hex(16)}.webp"
            small_copy(path).save(to, format="WEBP", quality=82)
            self._thumbnails[key] = f"/gradio_api/file={to}"
            if len(self._thumbnails) > THUMBNAILS:
                oldest = self._thumbnails.pop(next(iter(self._thumbnails)))
                (self.root / Path(oldest).name).unlink(missing_ok=True)
        return self._thumbnails[key]

    def _scored(self, path: Path, to: Path, maps: dict[str, str], scored: ImageScore | None = None) -> dict[str, Any]:
        from ui.scoring import ImageScore, overlay, score_file

        found = score_file(path) if scored is None else scored
        if not isinstance(found, ImageScore):
            raise ZelligeError(found.reason)
        seams = overlay(path, to / "seam-full.png")
        maps["seam"] = self._copy(seams, to / "seam.png")
        seams.unlink()
        score = {key: value for key, value in found.to_dict().items() if key not in ("path", "width", "height")}
        return {"size": [found.width, found.height], "score": score, "maps": maps}

    def _copy(self, path: Path, to: Path, *, largest: int = LARGEST, quarter: bool = False, photo: bool = False) -> str:
        from PIL.Image import Resampling

        image = load_photo(path) if photo else load(path)
        if quarter:
            image = image.crop((0, 0, max(1, image.width // 2), max(1, image.height // 2)))
        if max(image.size) > largest:
            scale = largest / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Resampling.BOX)
        image.save(to, format="PNG", compress_level=3)
        return f"/gradio_api/file={to}"


def small_copy(path: Path) -> Image:
    """An 8-bit image, upright, at most `THUMBNAIL` pixels along a side. Raises ZelligeError for a file that is none."""
    from PIL import Image, ImageOps

    check_image(path)
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            small = image.convert("RGBA" if "transparency" in image.info else "RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            return ImageOps.exif_transpose(small)
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        raise ZelligeError(f"Expected a whole image, but {printable(path.name)} is damaged") from error


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image in the folders of the page, upright."""
    from PIL import Image

    with Image.open(check_image(path), formats=IMAGE_FORMATS) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (width, height)


def load(path: Path) -> Image:
    """An image as 8-bit RGB without metadata or colour profile, from a PNG of 8 or 16 bits, an EXR or a photograph."""
    if path.suffix == ".exr":
        import torch

        from materials.exr import read_exr

        values = torch.from_numpy(read_exr(path))[None].expand(3, -1, -1)
    else:
        from textile_metric.images import as_images

        try:
            values = as_images(path)[0]
        except ValueError as error:
            raise ZelligeError(str(error)) from error
    return _bytes(values)


def load_photo(path: Path) -> Image:
    """A photo as it is meant to be seen, as `load` gives it."""
    from materials.photo import read_photo

    return _bytes(read_photo(path))


def _bytes(values: Tensor) -> Image:
    import torch
    from PIL import Image

    return Image.fromarray((values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def read_result(folder: Path) -> dict[str, Any]:
    """`material.json` or `image.json` of a result folder; raises ZelligeError where it has none."""
    for name, key in zip(MANIFESTS, ("maps", "files"), strict=True):
        if not (folder / name).is_file():
            continue
        try:
            told = json.loads((folder / name).read_bytes())
            if not isinstance(told, dict) or not isinstance(told[key], dict):
                raise ValueError(f"no object with {key}")
        except (OSError, ValueError, KeyError, RecursionError) as error:
            raise ZelligeError(f"Expected a whole result, but {folder.name} has no readable {name}") from error
        return told
    raise ZelligeError(f"Expected a whole result, but {folder.name} has no readable {' or '.join(MANIFESTS)}")


def _map_file(folder: Path, told: dict[str, Any], name: str) -> Path | None:
    entry = told["maps"].get(name)
    return _file(folder, entry.get("file") if isinstance(entry, dict) else None)


def _file(folder: Path, file: Any) -> Path | None:
    if not isinstance(file, str) or Path(file).name != file:
        return None
    path = folder / file
    return path if path.is_file() and not path.is_symlink() else None


def _source(path: Any, out: Path) -> Path | None:
    """The picture that something was made of, where the page keeps it."""
    if not isinstance(path, str) or not inside(path, places(out)):
        return None
    try:
        return check_image(path)
    except ZelligeError:
        return None


def _kind(told: dict[str, Any]) -> Kind:
    kind = _object(told.get("request")).get("kind")
    for name in NAMES:
        if name == kind:
            return name
    return "material"


def _score(path: Path) -> dict[str, float] | None:
    from ui.scoring import ImageScore, score_file

    found = score_file(path)
    return {"both": found.both, "x": found.x, "y": found.y} if isinstance(found, ImageScore) else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e6 else default


def _pair(value: Any, default: tuple[float, float]) -> list[float]:
    if isinstance(value, list) and len(value) == 2:
        return [_number(value[0], default[0]) or default[0], _number(value[1], default[1]) or default[1]]
    return list(default)
