from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from textile_metric.images import MATTE, as_images

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def png(width: int, height: int) -> bytes:
    """A PNG that states any size and holds one row."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB = Image.fromarray(np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1))
FRAMES = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
BAD_FILES: dict[str, tuple[str, bytes]] = {
    "empty": ("a.png", b""),
    "text": ("a.png", b"not an image"),
    "text of another name": ("a.txt", b"not an image"),
    "svg": ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'),
    "html": ("a.jpg", b"<!doctype html><title>404</title>"),
    "pdf": ("a.pdf", b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n"),
    "zip": ("a.png", b"PK\x03\x04" + b"\0" * 60),
    "truncated png": ("a.png", encoded(RGB, "PNG")[:60]),
    "truncated jpeg": ("a.jpg", encoded(RGB.resize((64, 64)), "JPEG")[:300]),
    "truncated webp": ("a.webp", encoded(RGB.resize((64, 64)), "WEBP")[:40]),
    "truncated tiff": ("a.tif", encoded(RGB.resize((64, 64)), "TIFF")[:200]),
    "truncated bmp": ("a.bmp", encoded(RGB.resize((64, 64)), "BMP")[:200]),
    "truncated gif": ("a.gif", encoded(RGB, "GIF")[:20]),
    "png signature alone": ("a.png", b"\x89PNG\r\n\x1a\n"),
    "png without pixels": ("a.png", png(4, 4)[:33]),
    "png of no width": ("a.png", png(0, 4)),
    "png with a wrong checksum": ("a.png", encoded(RGB, "PNG").replace(b"IDAT", b"IDAT", 1)[:-20] + b"\0" * 20),
    "bomb": ("a.png", png(60_000, 60_000)),
    "wide bomb": ("a.png", png(2**31 - 1, 1)),
    "animated png": ("a.png", encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:])),
    "animated gif": ("a.gif", encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])),
    "animated webp": ("a.webp", encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:])),
    "pages": ("a.tif", encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:])),
    "float tiff out of range": ("a.tif", encoded(Image.fromarray(np.full((4, 4), 7, np.float32)), "TIFF")),
    "float tiff with NaN": ("a.tif", encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")),
    "negative 32-bit tiff": ("a.tif", encoded(Image.fromarray(np.full((4, 4), -1, np.int32)), "TIFF")),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_sentence_that_names_it(case: str, tmp_path: Path) -> None:
    name, content = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"^Expected .*, but got ") as caught:
        as_images(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(ValueError, match="Expected a readable image file"):
            as_images(path)


NAN = torch.full((3, 4, 4), float("nan"))
BAD_VALUES: dict[str, tuple[object, str]] = {
    "NaN": (NAN, "finite values .* nan"),
    "infinity": (torch.full((3, 4, 4), float("inf")), "but got inf"),
    "0 to 255 as floats": (torch.full((3, 4, 4), 200.0), r"\[0, 1\], but got 200 to 200"),
    "-1 to 1": (torch.full((3, 4, 4), -1.0), "but got -1 to -1"),
    "integers": (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8, but got torch.int64"),
    "16-bit array": (np.zeros((3, 4, 4), np.uint16), "uint8, but got uint16"),
    "booleans": (torch.zeros(3, 4, 4, dtype=torch.bool), "but got torch.bool"),
    "complex": (torch.zeros(3, 4, 4, dtype=torch.complex64), "but got torch.complex64"),
    "two dimensions": (torch.zeros(4, 4), r"\(N, 3, H, W\), but got \(4, 4\)"),
    "five dimensions": (torch.zeros(1, 1, 3, 4, 4), "but got"),
    "channels last": (torch.zeros(4, 4, 3), "its channels come last"),
    "alpha": (torch.zeros(4, 6, 6), r"but got \(4, 6, 6\)"),
    "no pixels": (torch.zeros(3, 0, 4), r"but got \(3, 0, 4\)"),
    "no images": (torch.zeros(0, 3, 4, 4), "but got"),
    "a list": ([[1.0]], "but got list"),
    "nothing": (None, "but got NoneType"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_values_are_named(case: str) -> None:
    value, message = BAD_VALUES[case]
    with pytest.raises(ValueError, match=message):
        as_images(value)  # pyright: ignore[reportArgumentType]  # the wrong types are the point


def test_forty_bad_inputs() -> None:
    assert len(BAD_FILES) + len(BAD_VALUES) + 2 >= 40


MODES: dict[str, Callable[[], Image.Image]] = {
    "1": lambda: RGB.convert("1"),
    "L": lambda: RGB.convert("L"),
    "LA": lambda: RGB.convert("LA"),
    "P": lambda: RGB.convert("P"),
    "RGB": lambda: RGB,
    "RGBA": lambda: RGB.convert("RGBA"),
    "CMYK": lambda: RGB.convert("CMYK"),
    "YCbCr": lambda: RGB.convert("YCbCr"),
    "HSV": lambda: RGB.convert("HSV"),
    "I;16": lambda: Image.fromarray(GREY.astype(np.uint16) * 257),
    "I": lambda: Image.fromarray(GREY.astype(np.int32) * 257),
    "F": lambda: Image.fromarray(GREY.astype(np.float32) / 255),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow(mode: str) -> None:
    image = MODES[mode]()
    assert image.mode == mode
    out = as_images(image)
    assert out.shape == (1, 3, 4, 6) and out.dtype == torch.float32
    grey = mode in ("I;16", "I", "F")
    expected = np.stack([GREY] * 3) if grey else np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_allclose(out[0].numpy() * 255, expected, atol=1e-4)


def test_one_pixel_and_files_of_many_kinds(tmp_path: Path) -> None:
    for kind in ("PNG", "BMP", "TIFF", "WEBP", "JPEG", "TGA", "PPM"):
        Image.new("RGB", (1, 1), (51, 51, 51)).save(tmp_path / f"a.{kind.lower()}", kind)
        out = as_images(str(tmp_path / f"a.{kind.lower()}"))
        assert out.shape == (1, 3, 1, 1) and abs(float(out[0, 0, 0, 0]) - 0.2) < 0.01


def test_what_is_transparent_lies_on_grey() -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    out = as_images(clear)[0, :, 0]
    assert out[:, 0].tolist() == [MATTE] * 3 and out[:, 1].tolist() == [1.0, 0.0, 0.0]


def test_tensors_keep_gradient_and_value() -> None:
    image = torch.rand(3, 4, 5, requires_grad=True)
    out = as_images(image)
    assert torch.equal(out[0], image)
    out.sum().backward()
    assert image.grad is not None
    byte = (image.detach() * 255).round().byte()
    for alike in (byte, byte.numpy(), (byte.float() / 255).numpy().astype(np.float64), (byte.float() / 255)[None]):
        torch.testing.assert_close(as_images(alike), byte.float()[None] / 255, rtol=0, atol=1e-7)
    for dtype in (torch.float16, torch.bfloat16):
        assert as_images(image.detach().to(dtype)).dtype == torch.float32
    assert as_images(torch.rand(1, 4, 5)).shape == (1, 3, 4, 5)
