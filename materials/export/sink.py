"""`Sink`: the folder of one target while it is made, and the list of what went into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from materials.atomic import replacing
from materials.errors import OutputError
from materials.export.source import Source
from materials.png import Pixels, write_png


class Sink:
    """Writes files into `folder`, and keeps an entry for each: file, sha256, and what it holds."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder = folder
        self.files: list[dict[str, Any]] = []
        material = source.material
        facts = {"name": source.name, "depth_m": material.depth_m, "size_m": list(material.size_m)}
        self._text = {"zellige": json.dumps(facts | {"seamless": material.seamless}), "depth_m": repr(material.depth_m)}

    def image(
        self, name: str, pixels: Pixels, *, colour: Literal["srgb", "linear"], holds: str | list[str], **more: Any
    ) -> Path:
        """A PNG; `holds` is the map, or the maps of its channels in order. Its text says depth and size in metres.

        Linear maps carry no colour chunk: Unity and browsers would bend their values by it, and glTF ignores it.
        """
        path = write_png(self.folder / name, pixels, colour="srgb" if colour == "srgb" else "raw", text=self._text)
        bits = 8 if pixels.dtype == np.uint8 else 16
        self._note(path, holds=holds, colour_space=colour, bits=bits, channels=len(pixels), **more)
        return path

    def write(self, name: str, data: bytes | str, *, holds: str, **more: Any) -> Path:
        """Any other file; text is UTF-8 with LF."""
        path = self.folder / name
        with replacing(path) as handle:
            handle.write(data.encode() if isinstance(data, str) else data)
        self._note(path, holds=holds, **more)
        return path

    def adopt(self, name: str, *, holds: str, **more: Any) -> Path:
        """A file that is in the folder already."""
        path = self.folder / name
        self._note(path, holds=holds, **more)
        return path

    def _note(self, path: Path, **facts: Any) -> None:
        self.files.append({"file": path.name, **facts, "sha256": digest(path)})


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"Expected to read {path} back, but the system refused: {error.strerror}.") from error


def described(source: Source) -> Mapping[str, Any]:
    """Name, pixels, metres and seamless axes, for manifests and for `extras` in formats that have them."""
    material = source.material
    return {
        "name": source.name,
        "size": list(material.size),
        "size_m": list(material.size_m),
        "depth_m": material.depth_m,
        "seamless": material.seamless,
    }
