from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asd.errors import ZelligeError
from materials.png import write_png
from ui.request import Request
from ui.web import forms
from ui.web.kept import PICTURES, keep, places
from ui.web.uploads import check_image, check_local, read_recall, slug, trusted

GOOD = {"prompt": "oak", "size": "48x32", "seed": 2**62, "count": 3, "scale": 0.5, "seamless": "x", "steps": 2,
        "guidance": 3.5, "lock": {"roughness": 0.5, "basecolor": "#102030"}, "height_format": "exr"}  # fmt: skip


def png(path: Path, request: object, **more: str) -> Path:
    text = {"zellige": json.dumps({"schema": "1", "request": request})} | more
    return write_png(path, np.zeros((3, 4, 4), np.uint8), colour="srgb", text=text)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def test_recall_gives_every_setting_back(tmp_path: Path) -> None:
    found, left = read_recall(png(tmp_path / "a.png", GOOD))
    assert found == Request.from_dict(GOOD) and left == []
    assert forms.request(forms.fill(found)) == found
    assert len(forms.fill(found)) == forms.FIELDS


def test_recall_drops_what_only_the_owner_may_say(tmp_path: Path) -> None:
    forged = {"prompt": "oak", "model": "evil/model", "lock": {"height": "/etc/passwd", "metallic": 1}}
    found, left = read_recall(png(tmp_path / "a.png", forged))
    assert found == Request(prompt="oak", lock=(("metallic", 1),))
    assert left == ["its model", "the image that height was kept from"]


@pytest.mark.parametrize(
    "request_",
    [
        {"prompt": "x" * 3000}, {"prompt": "oak", "size": "0x0"}, {"prompt": "oak", "seed": -1}, {"prompt": "\0"},
        {"prompt": "oak", "count": 10**9}, {"prompt": "oak", "steps": 10**6}, {"prompt": "oak", "__class__": "x"},
        {"prompt": "oak", "lock": [1]}, {"prompt": "oak", "lock": {"ao": 1}}, {"prompt": ["oak"]}, {}, [], "oak", None,
        {"prompt": "oak", "seed": 1.5}, {"prompt": "oak", "guidance": float("nan")}, {"prompt": "oak", "kind": "image"},
        {"prompt": "oak", "lock": {"normal": {"path": "/etc/passwd"}}},
    ],
)  # fmt: skip
def test_forged_settings_are_one_sentence(tmp_path: Path, request_: object) -> None:
    with pytest.raises(ZelligeError) as caught:
        read_recall(png(tmp_path / "a.png", request_))
    assert str(caught.value).startswith("Expected ") and len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", "no json", "[" * 100_000, "{}", '{"request": 7}', "9" * 300_000])
def test_forged_text_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = write_png(tmp_path / "a.png", np.zeros((3, 4, 4), np.uint8), colour="srgb", text={"zellige": text})
    with pytest.raises(ZelligeError, match=r"^Expected .*settings"):
        read_recall(path)


def test_a_text_chunk_that_unpacks_to_much(tmp_path: Path) -> None:
    body = b"zellige\0\1\0\0\0" + zlib.compress(bytes(50_000_000))
    data = bytearray(png(tmp_path / "a.png", GOOD).read_bytes())
    data[33:33] = chunk(b"iTXt", body)
    (tmp_path / "b.png").write_bytes(data)
    with pytest.raises(ZelligeError, match=r"^Expected"):
        read_recall(tmp_path / "b.png")


def hostile(folder: Path) -> dict[str, Path]:
    """Files with the name of an image that are something else."""
    made = {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "html": b"<!doctype html><script>alert(1)</script>",
        "empty": b"",
        "text": b"x" * 1000,
        "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\n",
        "cut": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR",
        "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        "bmp": b"BM" + bytes(60),
        "tiff": b"II*\x00" + bytes(60),
        "icns": b"icns" + bytes(60),
    }
    paths = {}
    for name, data in made.items():
        paths[name] = folder / f"{name}.png"
        paths[name].write_bytes(data)
    with zipfile.ZipFile(folder / "zip.png", "w") as archive:
        archive.writestr("../../x", "y")
    return paths | {
        "zip": folder / "zip.png",
        "bomb": bomb(folder / "bomb.png", 60_000, 60_000),
        "long": bomb(folder / "long.png", 2**31 - 1, 1),
        "absent": folder / "absent.png",
        "folder": folder,
    }


@pytest.mark.parametrize("name", [
    "svg", "html", "empty", "text", "pickle", "eps", "pdf", "cut", "gif", "bmp", "tiff", "icns", "zip", "bomb", "long",
    "absent", "folder",
])  # fmt: skip
def test_hostile_images_are_refused(tmp_path: Path, name: str) -> None:
    path = hostile(tmp_path)[name]
    for reader in (check_image, read_recall):
        with pytest.raises(ZelligeError) as caught:
            reader(path)
        assert str(caught.value).startswith("Expected ") and str(tmp_path) not in str(caught.value)


def test_moving_images_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(ZelligeError, match="moves"):
        check_image(tmp_path / "a.webp")


def test_requests_of_the_page_name_no_files(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    mine = str(png(kept / "a.png", GOOD))
    png(tmp_path / "b.png", GOOD)
    check_local(Request(prompt="oak", lock=(("basecolor", "#102030"), ("roughness", 0.5))))
    check_local(Request(prompt="oak", lock=(("height", mine),)), (kept,))
    check_local(Request(kind="maps", image=mine), (kept,))
    check_local(Request(kind="upscale", image=mine), (kept,))
    check_local(Request(kind="image", prompt="oak", image=mine, mask=mine), (kept,))
    for path in ("/etc/passwd", "a.png", f"{kept}/../b.png", f"{kept}/gone.png", str(kept), f"{kept}x/a.png", "x\0y",
                 "file:///etc/passwd", "http://example.org/a.png", f"file://{mine}", "~/.ssh/id_rsa"):  # fmt: skip
        with pytest.raises(ZelligeError, match="no files of the server"):
            check_local(Request(prompt="oak", lock=(("height", path),)), (kept,))
        for kind in ("maps", "upscale", "image", "material"):
            request = Request.from_dict({"kind": kind, "image": path} | ({} if kind == "maps" else {"prompt": "oak"}))
            with pytest.raises(ZelligeError, match="Expected no image, since the page reads no files of the server"):
                check_local(request, (kept,))
            with pytest.raises(ZelligeError, match="no files of the server"):
                check_local(request)
        with pytest.raises(ZelligeError, match="Expected no mask, since"):
            check_local(Request(kind="image", prompt="oak", image=mine, mask=path), (kept,))
    with pytest.raises(ZelligeError, match="Expected no model"):
        check_local(Request(prompt="oak", model="a/b"))


def test_pictures_of_a_recall_are_those_that_the_page_keeps(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    mine = str(png(kept / "a.png", GOOD))
    for kind in ("maps", "upscale"):
        assert trusted({"kind": kind, "image": mine}, (kept,)) == (Request.from_dict({"kind": kind, "image": mine}), [])
        for path in ("/etc/passwd", f"{kept}/../kept/b.png", 7, ["a"], {}):
            with pytest.raises(ZelligeError, match="the picture that it was made of to be kept here"):
                trusted({"kind": kind, "image": path}, (kept,))
    painted = {"kind": "image", "prompt": "oak", "image": mine, "mask": "/etc/hosts", "strength": 0.5}
    request, left = trusted(painted, (kept,))
    assert (request.image, request.mask, request.strength, left) == (mine, None, 0.5, ["its mask"])
    request, left = trusted(painted)
    assert request == Request(kind="image", prompt="oak") and left == ["the picture that it was made of"]
    request, left = trusted({"prompt": "oak", "image": mine, "mask": mine, "strength": 0.5, "vary": 3}, (kept,))
    assert request == Request(prompt="oak")  # the form of a material has no fields for them
    assert left == ["the picture that it was made of", "the neighbour that it varied towards"]


def test_a_recall_is_of_the_tab_s_own_kind(tmp_path: Path) -> None:
    painted = png(tmp_path / "a.png", {"kind": "image", "prompt": "oak"})
    assert read_recall(painted, "image")[0] == Request(kind="image", prompt="oak")
    with pytest.raises(ZelligeError, match=r"the settings of a material, but a\.png has those of something else"):
        read_recall(painted)


def test_pictures_are_kept_under_names_of_their_contents(tmp_path: Path) -> None:
    given = tmp_path / "up load.html"
    given.write_bytes(png(tmp_path / "a.png", GOOD).read_bytes())
    painted = Request(kind="image", prompt="oak", image=str(given), mask=str(tmp_path / "a.png"))
    request = keep(painted, tmp_path / "out")
    assert request.image == request.mask
    path = Path(str(request.image))
    assert path.parent == tmp_path / "out" / PICTURES and path.suffix == ".png" and len(path.stem) == 32
    assert path.read_bytes() == given.read_bytes() and list(path.parent.iterdir()) == [path]
    check_local(request, places(tmp_path / "out"))


def test_a_link_out_of_the_kept_images_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a.png").symlink_to("/etc/passwd")
    with pytest.raises(ZelligeError, match="no files of the server"):
        check_local(Request(prompt="oak", lock=(("height", str(kept / "a.png")),)), (kept,))


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "..", "", "/", "\0", "CON", "a" * 999, "苔むした壁", "\u202egnp.exe", "-rf"]
)
def test_names_of_folders_are_safe(text: str) -> None:
    made = slug(text)
    assert made and len(made) <= 40 and set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not made.startswith("-")


@pytest.mark.parametrize("number", [0, 1, 0.0, 1e-5, 0.1 + 0.2, 7.0])
def test_numbers_come_back_to_the_bit(number: float) -> None:
    made = Request(prompt="oak", guidance=number, lock=(("metallic", min(1, number)),))
    assert forms.request(forms.fill(made)) == made


def test_trusted_leaves_good_values_alone() -> None:
    assert trusted(GOOD) == (Request.from_dict(GOOD), [])
