from __future__ import annotations

import builtins
import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asd.errors import OutputError, ZelligeError
from materials.png import read_png, write_png


def ramp(channels: int, dtype: type, size: tuple[int, int] = (37, 53)) -> np.ndarray:
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(0).integers(0, top, (channels, *size)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_kept_when_asked_for(tmp_path: Path, dtype: type[np.uint8] | type[np.uint16]) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top, (4, 7, 9), endpoint=True).astype(dtype)
    path = write_png(tmp_path / "a.png", pixels, colour="linear")
    np.testing.assert_array_equal(read_png(path, alpha=True).pixels, pixels)
    np.testing.assert_array_equal(read_png(path).pixels, pixels[:3])
    if dtype is np.uint8:  # Pillow reads 16-bit RGBA as 8 bits
        np.testing.assert_array_equal(np.asarray(Image.open(path)).transpose(2, 0, 1), pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(37, 53), (1, 1), (1, 64), (64, 1)])
def test_round_trip_is_exact(tmp_path: Path, channels: int, dtype: type, size: tuple[int, int]) -> None:
    pixels = ramp(channels, dtype, size)
    text = {"key": "žluťoučký 🐎\nline", "long": "x" * 5000}
    back = read_png(write_png(tmp_path / "a.png", pixels, colour="linear", text=text))
    assert back.pixels.dtype == dtype
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.text == text


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (1, np.uint16)])
def test_pillow_reads_the_same(tmp_path: Path, channels: int, dtype: type) -> None:
    smooth = np.cumsum(ramp(channels, dtype) // 16, axis=2, dtype=dtype)  # makes every filter win somewhere
    write_png(tmp_path / "a.png", smooth, colour="srgb", text={"parameters": "moss ä"})
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["parameters"] == "moss ä" and image.info["srgb"] == 0
        array = np.asarray(image)
    np.testing.assert_array_equal(array.reshape(37, 53, channels).transpose(2, 0, 1), smooth)


def test_sixteen_bit_rgb_by_hand(tmp_path: Path) -> None:
    pixels = ramp(3, np.uint16, (5, 4))
    data = write_png(tmp_path / "a.png", pixels, colour="linear").read_bytes()
    assert data[16:29] == struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)
    assert b"gAMA" + struct.pack(">I", 100_000) in data and b"sRGB" not in data
    start = data.index(b"IDAT")
    raw, position = b"", start - 4
    while data[position + 4 : position + 8] == b"IDAT":
        (length,) = struct.unpack_from(">I", data, position)
        raw += data[position + 8 : position + 8 + length]
        position += length + 12
    rows = zlib.decompress(raw)
    line = np.frombuffer(rows[1:25], np.uint8).reshape(4, 6).astype(int)
    if rows[0] == 1:
        line = np.cumsum(line, axis=0) % 256
    first = (line[:, 0::2] * 256 + line[:, 1::2]).T
    np.testing.assert_array_equal(first, pixels[:, 0])


@pytest.mark.parametrize("colour", ["RGB", "L", "RGBA"])
def test_reads_files_of_other_programs(tmp_path: Path, colour: str) -> None:
    y, x = np.mgrid[0:40, 0:50]
    channels = [((x * (i + 2) + y * y // 9) % 256).astype(np.uint8) for i in range(len(colour))]
    image = Image.fromarray(np.stack(channels, axis=2).squeeze())
    assert image.mode == colour
    image.save(tmp_path / "a.png")  # Pillow uses the Average and Paeth filters too
    np.testing.assert_array_equal(read_png(tmp_path / "a.png").pixels, np.stack(channels[:3]))


@pytest.mark.parametrize(
    ("content", "words"), [(b"GIF89a", "not one|is not"), (b"\x89PNG\r\n\x1a\n", "damaged"), (None, "readable PNG")]
)
def test_damaged_files_are_explained(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ZelligeError, match=words):
        read_png(path)


def test_cut_and_flipped_files_are_damaged(tmp_path: Path) -> None:
    data = write_png(tmp_path / "a.png", ramp(3, np.uint8), colour="srgb").read_bytes()
    for broken in (data[:200], data[:-20], data[:100] + bytes([data[100] ^ 1]) + data[101:]):
        (tmp_path / "b.png").write_bytes(broken)
        with pytest.raises(ZelligeError, match="damaged"):
            read_png(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("pixels", "text", "words"),
    [
        (np.zeros((2, 4, 4), np.uint8), {}, "1, 3 or 4, H, W"),
        (np.zeros((3, 4), np.uint8), {}, "1, 3 or 4, H, W"),
        (np.zeros((1, 0, 4), np.uint8), {}, "1, 3 or 4, H, W"),
        (np.zeros((1, 4, 4), np.float32), {}, "uint8 or uint16"),
        (np.zeros((1, 4, 4), np.uint8), {"": "x"}, "keyword"),
        (np.zeros((1, 4, 4), np.uint8), {"k" * 80: "x"}, "keyword"),
    ],
)
def test_bad_input_leaves_no_file(tmp_path: Path, pixels: np.ndarray, text: dict[str, str], words: str) -> None:
    with pytest.raises(ZelligeError, match=words):
        write_png(tmp_path / "a.png", pixels, colour="linear", text=text)
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_png(tmp_path / "a.png", ramp(1, np.uint8), colour="linear")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"a\.png.*No space left"):
        write_png(path, ramp(3, np.uint16), colour="linear")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_refused_open_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = builtins.open

    def refused(file: object, mode: str = "r", *rest: object) -> object:
        if mode == "wb":
            raise OSError(number, os.strerror(number), str(file))
        return real(file, mode, *rest)  # pyright: ignore

    monkeypatch.setattr(builtins, "open", refused)
    with pytest.raises(OutputError) as caught:
        write_png(tmp_path / "a.png", ramp(1, np.uint8), colour="linear")
    message = str(caught.value)
    assert os.strerror(number) in message and "\n" not in message and message.endswith(".")
    assert not list(tmp_path.iterdir())


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_png(tmp_path / "a.png", ramp(1, np.uint8), colour="linear")
    assert not list(tmp_path.iterdir())
