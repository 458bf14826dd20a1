"""What the page shows of a result: small 8-bit copies of its maps under names that nobody can guess."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asd.errors import ZelligeError
from ui.web.uploads import check_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from ui.scoring import ImageScore

LARGEST = 2048
"""Pixels along a side of a copy: what the canvas and graphics chips of phones take."""
THUMBNAIL = 256
KEPT = 120
"""Folders of copies that are kept; the oldest go first."""
THUMBNAILS = 2000
"""Small copies that are kept."""
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

    def result(self, folder: Path, *, title: str | None = None) -> dict[str, Any]:
        """Copies of a result folder's maps, its score and seams, for the preview: plain JSON values.

        Raises ZelligeError where `folder` holds no whole result.
        """
        told = read_result(folder)
        request = _object(told.get("request"))
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
        return item | {
            "title": title or str(request.get("prompt", folder.name)),
            "seed": str(request.get("seed", "")),
            "size_m": _pair(told.get("size_m"), (1.0, 1.0)),
            "depth_m": _number(height.get("depth_m"), 0.0),
            "kind": "material",
        }

    def image(self, path: Path, title: str, scored: ImageScore) -> dict[str, Any]:
        """A copy of an image of any origin with its score and seams."""
        to = self.folder()
        item = self._scored(path, to, {"basecolor": self._copy(path, to / "basecolor.png")}, scored)
        return item | {"title": title, "seed": "", "size_m": [1.0, 1.0], "depth_m": 0.0, "kind": "image"}

    def thumbnail(self, path: Path) -> str:
        """A small copy of an 8-bit image, without torch; its address. Raises ZelligeError for a file that is none."""
        from PIL import Image

        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._thumbnails:
            check_image(path)
            try:
                with Image.open(path, formats=("PNG",)) as image:
                    small = image.convert("RGB")
            except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
                raise ZelligeError(f"Expected a whole image, but {path.name} is damaged") from error
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            to = self.root / f"{secrets.token_hex(16)}.webp"
            small.save(to, format="WEBP", quality=82)
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

    def _copy(self, path: Path, to: Path, *, largest: int = LARGEST, quarter: bool = False) -> str:
        from PIL.Image import Resampling

        image = load(path)
        if quarter:
            image = image.crop((0, 0, max(1, image.width // 2), max(1, image.height // 2)))
        if max(image.size) > largest:
            scale = largest / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Resampling.BOX)
        image.save(to, format="PNG", compress_level=3)
        return f"/gradio_api/file={to}"


def load(path: Path) -> Image:
    """An image as 8-bit RGB without metadata or colour profile, from a PNG of 8 or 16 bits, an EXR or a photograph."""
    import torch
    from PIL import Image

    if path.suffix == ".exr":
        from materials.exr import read_exr

        values = torch.from_numpy(read_exr(path))[None].expand(3, -1, -1)
    else:
        from textile_metric.images import as_images

        try:
            values = as_images(path)[0]
        except ValueError as error:
            raise ZelligeError(str(error)) from error
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels)


def read_result(folder: Path) -> dict[str, Any]:
    """`material.json` of a result folder; raises ZelligeError where it is none."""
    try:
        told = json.loads((folder / "material.json").read_bytes())
        if not isinstance(told, dict) or not isinstance(told["maps"], dict):
            raise ValueError("no object with maps")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise ZelligeError(f"Expected a whole result, but {folder.name} has no readable material.json") from error
    return told


def _map_file(folder: Path, told: dict[str, Any], name: str) -> Path | None:
    entry = told["maps"].get(name)
    file = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(file, str) or Path(file).name != file:
        return None
    path = folder / file
    return path if path.is_file() and not path.is_symlink() else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e6 else default


def _pair(value: Any, default: tuple[float, float]) -> list[float]:
    if isinstance(value, list) and len(value) == 2:
        return [_number(value[0], default[0]) or default[0], _number(value[1], default[1]) or default[1]]
    return list(default)
