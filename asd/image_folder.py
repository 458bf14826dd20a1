"""A folder of images with their captions, to train on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from textile_metric.images import ImageError, from_pil, opened

from .errors import ZelligeError
from .seamless import SeamlessAxes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
METADATA = "metadata.jsonl"
CAPTIONS = ("text", "caption", "prompt")
"""Keys of a metadata line that hold the caption, in order."""
MAX_CAPTION = 2000
"""Characters; text encoders read a few hundred at most."""


@dataclass(frozen=True)
class Captioned:
    """An image file, what it shows, and the axes on which it tiles where the folder's metadata says so."""

    path: Path
    caption: str
    seamless: SeamlessAxes | None = None


def find_images(folder: str | Path) -> list[Captioned]:
    """Every PNG, JPEG and WebP file in a folder and its subfolders, sorted by path; hidden ones are left out.

    A caption is, first found first taken, that of a line {"file_name": ..., "text": ...} in a `metadata.jsonl` (as
    datasets' imagefolder reads it; names are relative to its folder, and "seamless" may say none, x, y or xy), the text
    of a file beside the image with the suffix .txt, or the words of the image's own name.

    Raises:
        ZelligeError: no folder, no images in it, or captions that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ZelligeError(f"Expected a folder of images, but {folder} is none.")
    try:
        files = sorted(path for path in folder.rglob("*") if _shown(path.relative_to(folder)) and path.is_file())
    except OSError as error:
        raise ZelligeError(f"Expected to read {folder}, but the system refused: {error.strerror}.") from error
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        raise ZelligeError(f"Expected PNG, JPEG or WebP images in {folder}, but found none.")
    told: dict[Path, tuple[str | None, SeamlessAxes | None]] = {}
    for path in files:
        if path.name == METADATA:
            told |= _metadata(path, set(images))
    return [_captioned(path, *told.get(path, (None, None))) for path in images]


def read_image(path: Path) -> Tensor:
    """(3, H, W) in [0, 1] of an image file, turned as its EXIF says, what is transparent on grey.

    Raises:
        ZelligeError: a file that is no whole still image.
    """
    from PIL import ImageOps

    try:
        with opened(path) as image:
            return from_pil(ImageOps.exif_transpose(image))[0]
    except ImageError as error:
        raise ZelligeError(str(error)) from error


def name_caption(path: Path) -> str:
    """The words of a file's name without numbers, or those of its folder's.

    >>> name_caption(Path("walls/red_brick-wall_02.png")), name_caption(Path("oak planks/0001.png"))
    ('red brick wall', 'oak planks')
    """
    for name in (path.stem, path.parent.name):
        words = re.sub(r"[\W_]+", " ", name)
        words = " ".join(word for word in words.split() if not re.fullmatch(r"[0-9]+", word))
        if words:
            return words
    return ""


def _shown(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _captioned(path: Path, caption: str | None, seamless: SeamlessAxes | None) -> Captioned:
    beside = path.with_suffix(".txt")
    if caption is None and beside.is_file():
        caption = " ".join(_text(beside).split())
    if caption is None:
        caption = name_caption(path)
    if len(caption) > MAX_CAPTION:
        raise ZelligeError(f"Expected captions of at most {MAX_CAPTION} characters, but got {len(caption)} for {path}.")
    return Captioned(path, caption, seamless)


def _metadata(path: Path, images: set[Path]) -> dict[Path, tuple[str | None, SeamlessAxes | None]]:
    made: dict[Path, tuple[str | None, SeamlessAxes | None]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise ZelligeError(f"Expected a JSON object in {place}, but it cannot be read: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise ZelligeError(f"Expected an object with file_name in {place}, but got {line[:60]}")
        image = path.parent / row["file_name"]
        if image not in images:
            raise ZelligeError(f"Expected the image that {place}, names, but there is none at {image}.")
        caption = next((row[key] for key in CAPTIONS if isinstance(row.get(key), str)), None)
        axes = row.get("seamless")
        if axes is not None and axes not in get_args(SeamlessAxes):
            raise ZelligeError(f"Expected seamless out of none, x, y and xy in {place}, but got {str(axes)[:60]!r}.")
        made[image] = None if caption is None else " ".join(caption.split()), axes
    return made


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ZelligeError(f"Expected captions as UTF-8 text in {path}, but it cannot be read: {error}.") from error
