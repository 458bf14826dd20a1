"""Zip files that are the same bytes for the same content: fixed order, time, permissions and system.

A .usdz is such a file as well: stored, the scene first, and every file's bytes at a multiple of 64 (USDZ specification,
Pixar). The USD library's own writer stamps the time of day into it.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from materials.atomic import replacing

_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format can say."""
_LOCAL_HEADER, _ALIGNMENT = 30, 64
_STORED = (".png", ".exr", ".glb", ".usdz")
"""Compressed already, or meant to be mapped into memory."""


def write_zip(path: Path, folder: Path) -> Path:
    """All files directly in `folder`, sorted by name, into `path`: whole, or not at all."""
    with replacing(path) as handle, zipfile.ZipFile(handle, "w") as archive:
        for file in sorted(folder.iterdir()):
            entry = _entry(file.name)
            entry.compress_type = zipfile.ZIP_STORED if file.suffix in _STORED else zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes(), compresslevel=6)
    return path


def write_usdz(path: Path, files: Sequence[Path]) -> Path:
    """The scene and then its textures into `path`: whole, or not at all."""
    with replacing(path) as handle, zipfile.ZipFile(handle, "w") as archive:
        for file in files:
            entry = _entry(file.name)
            start = handle.tell() + _LOCAL_HEADER + len(file.name.encode())
            # an extra field takes 4 bytes before its content; the identifier is the one that USD's writer uses
            padding = -start % _ALIGNMENT
            padding += _ALIGNMENT if 0 < padding < 4 else 0
            if padding:
                entry.extra = struct.pack("<HH", 0x1986, padding - 4) + bytes(padding - 4)
            archive.writestr(entry, file.read_bytes())
    return path


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = 3  # Unix, on every machine
    entry.external_attr = 0o100644 << 16
    return entry
