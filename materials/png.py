"""PNG files of 8 or 16 bits, grey, RGB or RGBA, with metadata and colour space: Pillow writes no 16-bit RGB.

Format: W3C Portable Network Graphics (third edition). The encoder uses the filters None, Sub and Up; the decoder reads
every filter, without interlacing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from materials.atomic import replacing
from materials.errors import ZelligeError

ColourSpace = Literal["srgb", "linear", "raw"]
Pixels: TypeAlias = NDArray[np.uint8 | np.uint16]

XMP = "XML:com.adobe.xmp"
"""Keyword of an XMP packet, which is never compressed (XMP specification, part 3, 1.1.5)."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STRIP_BYTES = 1 << 20
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


class Png(NamedTuple):
    """A decoded file: `pixels` (C, H, W), uint8 or uint16, C 1, 3 or 4; `text` its tEXt and iTXt entries."""

    pixels: Pixels
    text: dict[str, str]


def write_png(
    path: str | Path, pixels: Pixels, *, colour: ColourSpace, text: Mapping[str, str] | None = None, level: int = 6
) -> Path:
    """Write (C, H, W) uint8 or uint16 pixels, C 1, 3 or 4 (the last is alpha), to `path`: whole, or not at all.

    Args:
        path: the file; it is written under another name in the same folder, then renamed.
        pixels: the values that the file shall hold, exactly.
        colour: "srgb" writes an sRGB chunk, "linear" a gAMA chunk of 1.0, "raw" neither: programs that heed gAMA
            (Unity, browsers) would bend the values of a data map.
        text: keyword (1 to 79 Latin-1 characters) to text, stored as iTXt.
        level: zlib level, 0 to 9.

    Raises:
        OutputError: where the folder is not writable or full.
        ZelligeError: for another shape, dtype or keyword.
    """
    if pixels.ndim != 3 or pixels.shape[0] not in _COLOUR_TYPES or pixels.size == 0:
        raise ZelligeError(f"Expected pixels of shape (1, 3 or 4, H, W), but got {pixels.shape}.")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ZelligeError(f"Expected uint8 or uint16 pixels, but got {pixels.dtype}.")
    entries = [_text_body(key, value) for key, value in (text or {}).items()]
    channels, rows, columns = pixels.shape
    header = struct.pack(">IIBBBBB", columns, rows, pixels.itemsize * 8, _COLOUR_TYPES[channels], 0, 0, 0)
    path = Path(path)
    with replacing(path) as handle:
        handle.write(_SIGNATURE)
        _chunk(handle, b"IHDR", header)
        if colour == "srgb":
            _chunk(handle, b"sRGB", b"\0")  # perceptual intent
        elif colour == "linear":
            _chunk(handle, b"gAMA", struct.pack(">I", 100_000))
        for body in entries:
            _chunk(handle, b"iTXt", body)
        packer = zlib.compressobj(level, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
        for strip in _filtered(pixels):
            packed = packer.compress(strip)
            if packed:
                _chunk(handle, b"IDAT", packed)
        _chunk(handle, b"IDAT", packer.flush())
        _chunk(handle, b"IEND", b"")
    return path


def read_png(path: str | Path, *, alpha: bool = False) -> Png:
    """Read a grey or RGB file of 8 or 16 bits without interlacing; an alpha channel is dropped unless `alpha` is set.

    Raises ZelligeError where the file is missing, damaged or of another kind.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ZelligeError(f"Expected a readable PNG file, but got {path} ({error.strerror}).") from error
    if not data.startswith(_SIGNATURE):
        raise ZelligeError(f"Expected a PNG file, but {path} is not one.")
    text: dict[str, str] = {}
    packed, header = [], b""
    try:
        for kind, body in _chunks(data):
            if kind == b"IHDR":
                header = body
            elif kind == b"IDAT":
                packed.append(body)
            elif kind in (b"iTXt", b"tEXt"):
                key, value = _parse_text(kind, body)
                text[key] = value
        columns, rows, bits, kind_of_colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        channels = {0: 1, 2: 3, 4: 2, 6: 4}.get(kind_of_colour, 0)
        if not channels or bits not in (8, 16) or interlaced:
            raise ZelligeError(f"Expected a grey or RGB PNG of 8 or 16 bits, not interlaced, but got another: {path}.")
        step = channels * bits // 8
        lines = np.frombuffer(zlib.decompress(b"".join(packed)), np.uint8).reshape(rows, 1 + columns * step)
    except (struct.error, zlib.error, ValueError) as error:
        if isinstance(error, ZelligeError):
            raise
        raise ZelligeError(f"Expected a whole PNG file, but {path} is damaged ({error}).") from error
    plain = _unfiltered(lines, step)
    samples = plain.view(">u2").astype(np.uint16) if bits == 16 else plain
    pixels = samples.reshape(rows, columns, channels).transpose(2, 0, 1)
    if not alpha:
        pixels = pixels[: 1 if channels < 3 else 3]
    return Png(np.ascontiguousarray(pixels), text)


def _chunk(handle: BinaryIO, kind: bytes, body: bytes) -> None:
    handle.write(struct.pack(">I", len(body)) + kind)
    handle.write(body)
    handle.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(_SIGNATURE)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 8 + length
        body = data[position + 8 : end]
        (crc,) = struct.unpack_from(">I", data, end)
        if crc != zlib.crc32(body, zlib.crc32(kind)):
            raise ValueError(f"the checksum of its {kind.decode('latin-1')} chunk is wrong")
        yield kind, body
        if kind == b"IEND":
            return
        position = end + 4
    raise ValueError("it ends early")


def _text_body(keyword: str, value: str) -> bytes:
    try:
        key = keyword.encode("latin-1")
    except UnicodeEncodeError:
        key = b""
    if not 1 <= len(key) <= 79 or b"\0" in key:
        raise ZelligeError(f"Expected a PNG keyword of 1 to 79 Latin-1 characters, but got {keyword!r}.")
    body = value.replace("\0", "").encode("utf-8", "replace")
    flag = b"\0"
    if len(body) > 2048 and keyword != XMP:
        flag, body = b"\1", zlib.compress(body)
    return key + b"\0" + flag + b"\0\0\0" + body


def _parse_text(kind: bytes, body: bytes) -> tuple[str, str]:
    key, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return key.decode("latin-1"), rest.decode("latin-1")
    _language, _, tail = rest[2:].partition(b"\0")
    value = tail.partition(b"\0")[2]
    if rest[:1] == b"\1":
        value = zlib.decompress(value)
    return key.decode("latin-1"), value.decode("utf-8", "replace")


def _filtered(pixels: Pixels) -> Iterator[bytes]:
    """Strips of rows, each row after its filter byte; per row the filter with the least sum of absolute differences."""
    channels, rows, columns = pixels.shape
    step = channels * pixels.itemsize
    above = np.zeros((1, columns * step), np.uint8)
    height = max(1, _STRIP_BYTES // (columns * step))
    for start in range(0, rows, height):
        strip = np.ascontiguousarray(pixels[:, start : start + height].transpose(1, 2, 0))
        if pixels.itemsize == 2:
            strip = strip.astype(">u2")
        raw = strip.view(np.uint8).reshape(len(strip), -1)
        sub = raw.copy()
        sub[:, step:] -= raw[:, :-step]
        up = raw - np.concatenate([above, raw[:-1]])
        above = raw[-1:].copy()
        choices = np.stack([raw, sub, up])
        cost = np.minimum(choices, np.uint8(0) - choices).sum(axis=2, dtype=np.int64)
        best = cost.argmin(axis=0)
        lines = np.empty((len(raw), 1 + raw.shape[1]), np.uint8)
        lines[:, 0] = best
        lines[:, 1:] = np.take_along_axis(choices, best[None, :, None], axis=0)[0]
        yield lines.tobytes()


def _unfiltered(lines: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """(H, W * step) bytes of lines that start with their filter byte."""
    rows, width = lines.shape[0], lines.shape[1] - 1
    out = np.empty((rows, width), np.uint8)
    above = np.zeros(width, np.uint8)
    for row in range(rows):
        code, line = int(lines[row, 0]), lines[row, 1:]
        if code == 0:
            out[row] = line
        elif code == 1:
            out[row] = np.cumsum(line.reshape(-1, step), axis=0, dtype=np.uint8).reshape(-1)
        elif code == 2:
            out[row] = line + above
        elif code in (3, 4):
            out[row] = np.frombuffer(_unfilter_row(code, bytes(line), bytes(above), step), np.uint8)
        else:
            raise ZelligeError(f"Expected a PNG row filter of 0 to 4, but got {code}.")
        above = out[row]
    return out


def _unfilter_row(code: int, line: bytes, above: bytes, step: int) -> bytes:
    out = bytearray(len(line))
    for i, value in enumerate(line):
        left, up, corner = (out[i - step], above[i], above[i - step]) if i >= step else (0, above[i], 0)
        if code == 3:
            guess = (left + up) >> 1
        else:
            by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = left if by_left <= by_up and by_left <= by_corner else up if by_up <= by_corner else corner
        out[i] = (value + guess) & 255
    return bytes(out)
