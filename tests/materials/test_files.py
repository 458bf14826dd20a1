from __future__ import annotations

import builtins
import errno
import hashlib
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from asd.errors import OutputError, ZelligeError
from materials import Material, load_material, save_material
from materials.exr import read_exr, write_exr
from materials.files import quantise
from materials.maps import ambient_occlusion, normal_from_height
from materials.png import read_png
from textile_metric import seam_ratio

REQUEST = {"prompt": "mossy  cobblestone\nwall", "seed": 7, "steps": 8, "guidance": 4.5, "seamless": "xy"}
FILES = ["basecolor", "normal", "height", "roughness", "metallic", "ao", "preview", "tiled"]


@pytest.fixture
def material() -> Material:
    random = torch.Generator().manual_seed(0)
    x = torch.arange(48) / 48 * 2 * math.pi
    height = (0.5 + 0.3 * torch.sin(2 * x)[None] * torch.cos(x[:40] * 1.2)[:, None])[None]
    return Material(
        basecolor=torch.rand(3, 40, 48, generator=random),
        normal=normal_from_height(height[None], depth_m=0.02, size_m=(0.6, 0.5))[0],
        height=height,
        roughness=torch.rand(1, 40, 48, generator=random),
        metallic=(torch.rand(1, 40, 48, generator=random) > 0.5).float(),
        depth_m=0.02,
        size_m=(0.6, 0.5),
        seamless="xy",
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_and_their_order(tmp_path: Path, material: Material) -> None:
    written = save_material(material, tmp_path / "new/out", request=REQUEST)
    assert [path.name for path in written] == [f"{name}.png" for name in FILES] + ["material.json"]
    assert names(tmp_path / "new/out") == sorted(path.name for path in written)


def test_round_trip(tmp_path: Path, material: Material) -> None:
    save_material(material, tmp_path, request=REQUEST, previews=False)
    back = load_material(tmp_path)
    assert (back.depth_m, back.size_m, back.seamless) == (0.02, (0.6, 0.5), "xy")
    for name, bound in (("basecolor", 0.5 / 255), ("roughness", 0.5 / 255), ("metallic", 0), ("height", 0.5 / 65535)):
        error = (getattr(back, name) - getattr(material, name)).abs().max()
        assert float(error) <= bound + 1e-6, name
    assert float((back.normal - material.normal).abs().max()) < 3e-5


def test_sixteen_bits_are_exact(tmp_path: Path, material: Material) -> None:
    levels = torch.arange(40 * 48).reshape(1, 40, 48) * 34
    save_material(replace(material, height=(levels / 65535).float()), tmp_path, previews=False)
    np.testing.assert_array_equal(read_png(tmp_path / "height.png").pixels, levels.numpy())
    normal = read_png(tmp_path / "normal.png").pixels
    expected = np.rint((material.normal.double().numpy() * 0.5 + 0.5) * 65535)
    np.testing.assert_array_equal(normal, expected)


def test_blue_stays_above_one_half() -> None:
    steep = torch.tensor([math.sqrt(1 - 1e-12), 0.0, 1e-6])[:, None, None]
    assert quantise(steep, 16, signed=True)[2].item() / 65535 > 0.5
    assert quantise(steep, 8, signed=True)[2].item() / 255 > 0.5


def test_manifest(tmp_path: Path, material: Material) -> None:
    save_material(material, tmp_path, request=REQUEST, extra={"scores": {"tileability": 0.9}})
    manifest = json.loads((tmp_path / "material.json").read_text())
    assert manifest["schema"] == "1" and manifest["request"] == REQUEST and manifest["scores"] == {"tileability": 0.9}
    assert manifest["size"] == [48, 40] and manifest["size_m"] == [0.6, 0.5] and manifest["seamless"] == "xy"
    assert manifest["previews"] == {"preview": "preview.png", "tiled": "tiled.png"}
    assert set(manifest["maps"]) == set(manifest["seam"]) == set(FILES[:6])
    assert {"python", "torch"} <= set(manifest["versions"])
    for name, entry in manifest["maps"].items():
        data = (tmp_path / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["colour_space"] == ("srgb" if name == "basecolor" else "linear")
        assert data[24] == entry["bits"] and data[25] == (2 if entry["channels"] == 3 else 0)
        assert (b"sRGB" in data) == (name == "basecolor")
    assert manifest["maps"]["height"]["depth_m"] == 0.02 and manifest["maps"]["normal"]["convention"] == "opengl"
    x, y = seam_ratio(tmp_path / "basecolor.png")[0]
    assert manifest["seam"]["basecolor"] == pytest.approx({"x": float(x), "y": float(y)}, abs=1e-4)


def test_every_png_says_where_it_comes_from(tmp_path: Path, material: Material) -> None:
    save_material(material, tmp_path, request=REQUEST)
    for name in FILES:
        with Image.open(tmp_path / f"{name}.png") as image:
            info = dict(image.info)
        assert info["parameters"].startswith(
            "mossy cobblestone wall\nSteps: 8, CFG scale: 4.5, Seed: 7, Size: 48x40, Tiling: True"
        )
        assert json.loads(info["zellige"])["request"] == REQUEST
    assert read_png(tmp_path / "height.png").text["depth_m"] == "0.02"


def test_occlusion_comes_from_the_height(tmp_path: Path, material: Material) -> None:
    save_material(material, tmp_path, previews=False)
    shade = ambient_occlusion(material.height[None], depth_m=0.02, size_m=(0.6, 0.5))[0]
    np.testing.assert_array_equal(read_png(tmp_path / "ao.png").pixels, quantise(shade, 8))


def test_same_material_gives_the_same_bytes(tmp_path: Path, material: Material) -> None:
    for folder in ("a", "b"):
        save_material(material, tmp_path / folder, request=REQUEST)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_exr_height_is_exact_float(tmp_path: Path, material: Material) -> None:
    save_material(material, tmp_path, height_format="exr", previews=False)
    assert torch.equal(load_material(tmp_path).height, material.height)
    entry = json.loads((tmp_path / "material.json").read_text())["maps"]["height"]
    assert (entry["file"], entry["bits"], entry["depth_m"]) == ("height.exr", 32, 0.02)


def test_exr_is_read_by_openexr(tmp_path: Path) -> None:
    reader = pytest.importorskip("OpenEXR")
    values = np.random.default_rng(0).random((7, 13), dtype=np.float32)
    write_exr(tmp_path / "h.exr", values, text={"depth_m": "0.5"})
    with reader.File(str(tmp_path / "h.exr")) as opened:
        np.testing.assert_array_equal(opened.channels()["Y"].pixels, values)
        assert opened.header()["depth_m"] == "0.5"


def test_saving_again_replaces_what_the_old_manifest_lists(tmp_path: Path, material: Material) -> None:
    save_material(material, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    save_material(material, tmp_path, height_format="exr", previews=False)
    kept = [f"{name}.png" for name in ("ao", "basecolor", "metallic", "normal", "roughness")]
    assert names(tmp_path) == sorted([*kept, "height.exr", "material.json", "notes.txt"])


def test_a_foreign_manifest_is_not_overwritten(tmp_path: Path, material: Material) -> None:
    (tmp_path / "material.json").write_text('{"albedo": "x"}')
    with pytest.raises(OutputError, match="describes no material"):
        save_material(material, tmp_path)
    assert names(tmp_path) == ["material.json"]


def test_full_disk_leaves_whole_files_and_no_manifest(
    tmp_path: Path, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_material(material, tmp_path, previews=False)
    real, calls = os.replace, []

    def full_at_the_third(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args)

    monkeypatch.setattr(os, "replace", full_at_the_third)
    with pytest.raises(OutputError, match=r"height\.png.*No space left on device\.$"):
        save_material(material, tmp_path, previews=False)
    assert "material.json" not in names(tmp_path) and not [n for n in names(tmp_path) if n.endswith(".tmp")]
    for name in names(tmp_path):
        read_png(tmp_path / name)


def test_refused_files_leave_nothing(tmp_path: Path, material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open

    def refused(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if mode == "wb":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, mode, *rest, **more)

    monkeypatch.setattr(builtins, "open", refused)
    with pytest.raises(OutputError, match=r"basecolor\.png, but the system refused: Permission denied\.$"):
        save_material(material, tmp_path)
    assert names(tmp_path) == []


def test_folder_that_is_a_file(tmp_path: Path, material: Material) -> None:
    (tmp_path / "taken").write_text("")
    for folder in ("taken", "taken/inside"):
        with pytest.raises(OutputError, match=r"Expected to write .*taken"):
            save_material(material, tmp_path / folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_unwritable_folder(tmp_path: Path, material: Material) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        save_material(material, tmp_path)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"height_format": "tiff"}, "png16 or exr, but got 'tiff'"),
        ({"request": {"x": object()}}, "that JSON can hold"),
        ({"extra": {"x": {1, 2}}}, "that JSON can hold"),
        ({"extra": {"maps": {}}}, "beside those of material.json, but got maps"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, material: Material, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ZelligeError, match=words):
        save_material(material, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_damaged_folders_are_explained(tmp_path: Path, material: Material) -> None:
    with pytest.raises(ZelligeError, match=r"folder with material\.json"):
        load_material(tmp_path)
    save_material(material, tmp_path, previews=False)
    manifest = (tmp_path / "material.json").read_text()
    for broken, words in (
        ("{", "damaged"),
        ("[]", "damaged"),
        (manifest.replace('"schema": "1"', '"schema": "9"'), "schema 1, but got '9'"),
        (manifest.replace("height.png", "basecolor.png"), None),
        (manifest.replace("normal.png", "height.png"), "3 channels in .*height"),
    ):
        (tmp_path / "material.json").write_text(broken)
        if words:
            with pytest.raises(ZelligeError, match=words):
                load_material(tmp_path)
        else:
            assert load_material(tmp_path).height.shape == (1, 40, 48)
    (tmp_path / "material.json").write_text(manifest)
    (tmp_path / "normal.png").unlink()
    with pytest.raises(ZelligeError, match=r"normal\.png"):
        load_material(tmp_path)


@pytest.mark.parametrize("content", [b"", b"v/1\x01\x02\x00\x00\x00", b"v/1\x01\x02\x00\x00\x00channels\x00chlist\x00"])
def test_damaged_exr_is_explained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "h.exr").write_bytes(content)
    with pytest.raises(ZelligeError, match="Expected an EXR height"):
        read_exr(tmp_path / "h.exr")
    with pytest.raises(ZelligeError, match="readable EXR"):
        read_exr(tmp_path / "no.exr")


@pytest.mark.parametrize("size", [(1, 64), (64, 1), (1, 1)])
def test_thin_materials(tmp_path: Path, size: tuple[int, int]) -> None:
    x = torch.rand(8, *size, generator=torch.Generator().manual_seed(0)) * 0.8
    thin = Material.from_network(x, depth_m=0.01, size_m=(1.0, 1.0))
    save_material(thin, tmp_path)
    assert load_material(tmp_path).size == (size[1], size[0])
