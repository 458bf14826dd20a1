"""OpenEXR files of one float channel: uncompressed scan lines (OpenEXR file layout, version 2)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from materials.atomic import replacing
from materials.errors import ZelligeError

_MAGIC = struct.pack("<II", 20000630, 2)


def write_exr(path: str | Path, values: NDArray[np.float32], *, text: Mapping[str, str] | None = None) -> Path:
    """Write (H, W) float32 `values` as the channel Y, with string attributes; whole, or not at all.

    Raises OutputError where the folder is not writable or full, ZelligeError for another shape or dtype.
    """
    if values.ndim != 2 or values.dtype != np.float32 or values.size == 0:
        raise ZelligeError(f"Expected float32 values of shape (H, W), but got {values.dtype} {values.shape}.")
    rows, columns = values.shape
    window = struct.pack("<4i", 0, 0, columns - 1, rows - 1)
    attributes: list[tuple[str, str, bytes]] = [
        ("channels", "chlist", b"Y\0" + struct.pack("<iB3xii", 2, 0, 1, 1) + b"\0"),
        ("compression", "compression", b"\0"),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
    ]
    attributes += [(key, "string", value.encode("utf-8", "replace")) for key, value in (text or {}).items()]
    header = b"".join(
        name.encode("ascii") + b"\0" + kind.encode("ascii") + b"\0" + struct.pack("<i", len(body)) + body
        for name, kind, body in attributes
    )
    header = _MAGIC + header + b"\0"
    line = 8 + 4 * columns
    first = len(header) + 8 * rows
    path = Path(path)
    with replacing(path) as handle:
        handle.write(header)
        handle.write((first + line * np.arange(rows, dtype="<u8")).tobytes())
        for row in range(rows):
            handle.write(struct.pack("<ii", row, 4 * columns) + values[row].astype("<f4").tobytes())
    return path


def read_exr(path: str | Path) -> NDArray[np.float32]:
    """(H, W) float32 from a file as `write_exr` writes it; ZelligeError for any other file."""
    path = Path(path)
    try:
        data = path.read_bytes()
        if not data.startswith(_MAGIC):
            raise ValueError("it is no OpenEXR file of scan lines")
        position, found = len(_MAGIC), {}
        while data[position] != 0:
            name, kind, _ = data[position : position + 512].split(b"\0", 2)
            position += len(name) + len(kind) + 2
            (size,) = struct.unpack_from("<i", data, position)
            found[name] = data[position + 4 : position + 4 + size]
            position += 4 + size
        left, top, right, bottom = struct.unpack("<4i", found[b"dataWindow"])
        rows, columns = bottom - top + 1, right - left + 1
        single_float = found[b"channels"][2:6] == struct.pack("<i", 2) and found[b"channels"][18:] == b"\0"
        if found[b"compression"] != b"\0" or not single_float:
            raise ValueError("only one uncompressed float channel is supported")
        first = position + 1 + 8 * rows
        lines = np.frombuffer(data, np.uint8, rows * (8 + 4 * columns), first).reshape(rows, 8 + 4 * columns)
        return np.ascontiguousarray(lines[:, 8:]).view("<f4").astype(np.float32)
    except OSError as error:
        raise ZelligeError(f"Expected a readable EXR file, but got {path} ({error.strerror}).") from error
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise ZelligeError(f"Expected an EXR height file, but {path} cannot be read ({error}).") from error
