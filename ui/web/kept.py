"""Pictures that were uploaded, kept in the folder of results so that what was made of them can be made again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from ui.request import Request
from ui.results import write_whole

KEPT_MAPS = "kept-maps"
"""In the folder of results: images that maps were kept from."""
PICTURES = "pictures"
"""In the folder of results: photos and pictures to start from, and masks."""
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


def places(out: Path) -> tuple[Path, ...]:
    """The only folders whose images a request of the page may name."""
    return out / KEPT_MAPS, out / PICTURES


def keep(made: Request, out: Path) -> Request:
    """The request with its images copied into the folders of `places`, under names made from their contents."""
    return with_images(made, lambda path, folder: keep_file(path, out / folder))


def with_images(made: Request, changed: Callable[[str, str], str]) -> Request:
    """The request with each of its paths changed; `changed` is told the path and the name of its kind's folder."""
    lock = tuple(
        (name, changed(value, KEPT_MAPS) if isinstance(value, str) and not value.startswith("#") else value)
        for name, value in made.lock
    )
    image, mask = (None if path is None else changed(path, PICTURES) for path in (made.image, made.mask))
    return dataclasses.replace(made, lock=lock, image=image, mask=mask)


def keep_file(path: str | Path, folder: Path) -> str:
    """Copy an image that `uploads.check_image` let pass into a folder; where it is."""
    from PIL import Image

    data = Path(path).read_bytes()
    # neither the name nor its ending is the uploader's
    with Image.open(path, formats=tuple(_SUFFIXES)) as image:
        suffix = _SUFFIXES[str(image.format)]
    place = folder / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(place, data)
    return str(place)
