"""Folders of images and captions, and the views that are cut of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from asd.buckets import FAMILIES
from asd.errors import SizeError, ZelligeError
from asd.image_folder import find_images, read_image
from asd.sizes import Size
from asd.views import STRETCH, cut, parse_ratios, plan_views, sizes_between


def save(path: Path, size: tuple[int, int] = (8, 6), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path, **options)
    return path


def test_captions_come_from_metadata_then_a_text_file_then_the_name(tmp_path: Path) -> None:
    for name in ("red_brick 01.png", "b.JPG", "deep/c.webp", "deep/0001.png", ".hidden/d.png", "deep/.e.png"):
        save(tmp_path / name)
    (tmp_path / "b.txt").write_text("  old\n moss ")
    (tmp_path / "deep" / "c.txt").write_text("not this")
    lines = [{"file_name": "c.webp", "text": "oak planks", "seamless": "x"}, {"file_name": "0001.png", "other": 1}]
    (tmp_path / "deep" / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    found = {str(image.path.relative_to(tmp_path)): image for image in find_images(tmp_path)}
    assert {name: image.caption for name, image in found.items()} == {
        "b.JPG": "old moss", "deep/0001.png": "deep", "deep/c.webp": "oak planks", "red_brick 01.png": "red brick",
    }  # fmt: skip
    assert found["deep/c.webp"].seamless == "x" and found["b.JPG"].seamless is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "a JSON object in .*metadata.jsonl, line 1"),
        ("[1]", "an object with file_name"),
        ('{"file_name": "gone.png"}', "the image that .* names"),
        ('{"file_name": "../a.png"}', "the image that .* names"),
        ('{"file_name": "a.png", "seamless": "z"}', "none, x, y and xy"),
        ('{"file_name": "a.png", "text": "%s"}' % ("a" * 3000), "at most 2000 characters"),
    ],
)
def test_bad_metadata_is_a_sentence(line: str, message: str, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ZelligeError, match=message):
        find_images(tmp_path)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ZelligeError, match="a folder of images"):
        find_images(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(ZelligeError, match="found none"):
        find_images(tmp_path)
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ZelligeError, match="UTF-8"):
        find_images(tmp_path)


def test_images_are_read_as_they_are_meant(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert read_image(save(tmp_path / "turned.jpg", exif=turned)).shape == (3, 8, 6)
    deep = np.full((4, 4), 32768, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert abs(float(read_image(tmp_path / "deep.png").mean()) - 0.5) < 1e-3
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "whole.png", (64, 64)).read_bytes()[:80])
    with pytest.raises(ZelligeError, match=r"cut\.png"):
        read_image(tmp_path / "cut.png")


def test_ratios() -> None:
    assert parse_ratios("1:4..4:1") == (0.25, 4.0) and parse_ratios("3:2") == (1.5, 1.5)
    for bad in ("", "4:1..1:4", "1:0", "a", "1:2..", "1:2..2:1..3:1"):
        with pytest.raises(SizeError, match="Expected"):
            parse_ratios(bad)
    squares = sizes_between(FAMILIES["sd1.5"], 1.0, 1.0)
    assert Size(512, 512) in squares and all(size.width == size.height for size in squares)
    with pytest.raises(SizeError, match="there are none"):
        sizes_between(FAMILIES["sd1.5"], 5.0, 6.0)


@pytest.mark.parametrize("original", [Size(512, 512), Size(37, 300), Size(2000, 400), Size(640, 427)])
@pytest.mark.parametrize("seamless", ["none", "x", "xy"])
def test_views_cover_their_buckets(original: Size, seamless: Any) -> None:
    sizes = sizes_between(FAMILIES["sd1.5"], 0.25, 4.0)
    views = plan_views(original, sizes, count=40, rng=random.Random(1), seamless=seamless)
    again = plan_views(original, sizes, count=40, rng=random.Random(1), seamless=seamless)
    assert views == again and len({view.size for view in views}) > 10
    own = min(sizes, key=lambda size: abs(np.log(size.width / size.height * original.height / original.width)))
    assert views[0].size.width / views[0].size.height == own.width / own.height
    for view in views:
        scales = [a / b for a, b in zip(view.resized, original, strict=True)]
        assert view.size in sizes and all(a >= b for a, b in zip(view.resized, view.size, strict=True))
        assert max(scales) / min(scales) < (STRETCH if seamless != "none" else 1) * 1.03  # rounded to whole pixels
        for axis, whole, side in zip("xy", view.resized, view.size, strict=True):
            assert (axis in view.axes) == (axis in seamless and whole == side)
        # one axis is always whole
        assert view.resized.width == view.size.width or view.resized.height == view.size.height


def test_what_wraps_in_a_view_has_no_seam() -> None:
    y, x = (torch.arange(96) * (2 * torch.pi / 96) for _ in range(2))
    image = (0.5 + 0.2 * x.cos()[None, :] + 0.2 * y.cos()[:, None]).expand(3, -1, -1)
    sizes = sizes_between(FAMILIES["sd1.5"], 0.25, 4.0)
    seen = set()
    for view in plan_views(Size(96, 96), sizes, count=30, rng=random.Random(0), seamless="xy"):
        made = cut(image, view, "xy")
        seen.add(view.axes)
        assert made.shape == (3, view.size.height, view.size.width)
        for axis, dim in (("x", -1), ("y", -2)):
            step = made.diff(dim=dim).abs().max()
            seam = (made.select(dim, 0) - made.select(dim, -1)).abs().max()
            if axis in view.axes:
                assert seam <= step * 1.01 + 1e-6
    assert seen == {"x", "y", "xy"}


def test_a_centred_view_is_the_middle() -> None:
    image = torch.linspace(0, 1, 300).expand(3, 60, 300).contiguous()
    square = sizes_between(FAMILIES["sd1.5"], 1.0, 1.0)
    (view,) = plan_views(Size(300, 60), square, count=1, rng=random.Random(0), crop="center")
    assert abs(float(cut(image, view).mean()) - 0.5) < 1e-3
    with pytest.raises(ZelligeError, match="center or random"):
        plan_views(Size(300, 60), square, count=1, rng=random.Random(0), crop="left")  # pyright: ignore[reportArgumentType] - on purpose
