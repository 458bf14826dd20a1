from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from asd.errors import ZelligeError
from materials import Material, check_material, save_material
from materials.check import CHECKS, Report
from materials.exr import write_exr
from materials.files import quantise
from materials.mapset import FoundMap, MapSet
from materials.material import MAPS
from materials.png import write_png
from materials.procedural import sample
from materials.recognise import kind_of, read_maps
from ui import cli

Values = NDArray[np.float32]


def procedural(family: str = "pebbles", seed: int = 1, size: tuple[int, int] = (96, 96)) -> Material:
    b = sample(family, [seed], size)
    maps = {name: getattr(b, name)[0] for name in MAPS}
    return Material(**maps, depth_m=float(b.depth_m[0]), size_m=(float(b.size_m[0, 0]), float(b.size_m[0, 1])))


@pytest.fixture(scope="module")
def material() -> Material:
    return procedural()


def broken(material: Material, name: str, change: Callable[[Values], Values]) -> MapSet:
    whole = MapSet.of(material)
    values = np.ascontiguousarray(change(whole.maps[name].values.copy()), dtype=np.float32)
    return replace(whole, maps={**whole.maps, name: FoundMap(values=values)})


def names(report: Report) -> set[str]:
    return {check.name for check in report.failed}


def only(report: Report, name: str, where: str, words: str = "") -> None:
    assert names(report) == {name}, report.table()
    assert {check.map for check in report.failed} == {where}
    assert words in report.table()
    assert not report.passed and not report.to_dict()["passed"]


@pytest.mark.parametrize("family", ["pebbles", "stucco", "fabric_knit", "moss", "mud_cracked", "wood_grain"])
def test_exact_tiles_pass(family: str) -> None:
    report = check_material(procedural(family))
    assert report.passed, report.table()
    assert {check.name for check in report.checks} == set(CHECKS)


def test_maps_says_what_is_missing(material: Material) -> None:
    whole = MapSet.of(material)
    maps = {name: m for name, m in whole.maps.items() if name != "roughness"}
    only(check_material(replace(whole, maps=maps)), "maps", "roughness", "there is none")
    maps = {name: m for name, m in whole.maps.items() if name != "metallic"}
    assert check_material(replace(whole, maps=maps, complete=False)).passed
    only(check_material(replace(whole, maps=maps)), "maps", "metallic")


def test_size(material: Material) -> None:
    only(check_material(broken(material, "roughness", lambda v: np.tile(v, (1, 1, 2)))), "size", "roughness", "192x96")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite(material: Material, bad: float) -> None:
    def change(values: Values) -> Values:
        values[:, 3, 4] = bad
        return values

    for name in MAPS:
        only(check_material(broken(material, name, change)), "finite", name, "NaN")


def test_range(material: Material) -> None:
    only(check_material(broken(material, "roughness", lambda v: v * 3 - 0.5)), "range", "roughness", "not 0 to 1")


@pytest.mark.parametrize(("name", "value"), [("basecolor", 0.5), ("roughness", 0.7)])
def test_flat(material: Material, name: str, value: float) -> None:
    flat = broken(material, name, lambda v: np.full_like(v, value))
    only(check_material(flat), "flat", name, "same value everywhere")
    assert check_material(replace(flat, locked=frozenset({name}))).passed


def test_a_surface_without_depth_is_flat_on_purpose(material: Material) -> None:
    normal = torch.zeros_like(material.normal)
    normal[2] = 1
    plane = replace(material, height=torch.full_like(material.height, 0.5), normal=normal, depth_m=0.0)
    assert check_material(plane).passed
    assert names(check_material(replace(plane, depth_m=0.01))) == {"flat"}


@pytest.mark.parametrize(("dim", "axis", "other"), [(2, "x", "y"), (1, "y", "x")])
def test_seam(material: Material, dim: int, axis: str, other: str) -> None:
    def change(values: Values) -> Values:
        ramp = np.linspace(0, 0.3, values.shape[dim], dtype=np.float32)
        return np.clip(values * 0.7 + (ramp if dim == 2 else ramp[:, None]), 0, 1)

    report = check_material(broken(material, "roughness", change))
    only(report, "seam", "roughness", "times the largest inside")
    assert [check.axis for check in report.failed] == [axis]
    assert check_material(replace(broken(material, "roughness", change), seamless=other)).passed


def test_a_joint_on_the_edge_of_a_tile_is_no_seam() -> None:
    brick = procedural("brick", 1, (128, 128))
    seams = [check for check in check_material(brick).checks if check.name == "seam"]
    assert max(check.value or 0 for check in seams) > 1.5 and all(check.status == "pass" for check in seams)


def test_crops_that_do_not_tile_fail() -> None:
    for family in ("pebbles", "wood_grain", "rock_cliff", "marble"):
        whole = procedural(family, 2, (128, 128))
        crop = {name: getattr(whole, name)[:, 10:90, 15:103].clone() for name in MAPS}
        report = check_material(replace(whole, **crop))
        assert "seam" in names(report), family


def test_unit_normals(material: Material) -> None:
    only(check_material(broken(material, "normal", lambda v: v * 0.93)), "unit", "normal", "lengths from 0.93")


def test_eight_bit_normals_are_unit_normals(material: Material) -> None:
    def change(values: Values) -> Values:
        return (np.rint((values + 1) * 127.5) / 127.5 - 1).astype(np.float32)

    assert check_material(broken(material, "normal", change)).passed


def test_blue(material: Material) -> None:
    def change(values: Values) -> Values:
        values[:, 7, 9] = (0.8, -0.6, 0.0)
        return values

    only(check_material(broken(material, "normal", change)), "blue", "normal", "glTF forbids")


def test_agreement_knows_directx_and_strangers(material: Material) -> None:
    flip = np.array([1, -1, 1], np.float32)[:, None, None]
    only(check_material(broken(material, "normal", lambda v: v * flip)), "agreement", "normal", "from DirectX")
    only(check_material(broken(material, "normal", lambda v: np.roll(v, (20, 31), (1, 2)))), "agreement", "normal",
         "of a mean tilt of")  # fmt: skip
    only(check_material(replace(material, depth_m=material.depth_m * 3)), "agreement", "normal")


def test_agreement_without_a_depth_takes_the_best(material: Material) -> None:
    unknown = replace(MapSet.of(material), depth_m=None, size_m=None)
    only(check_material(unknown), "depth", "height", "nobody says")
    assert check_material(unknown, skip=["depth"]).passed
    flip = np.array([1, -1, 1], np.float32)[:, None, None]
    turned = replace(broken(material, "normal", lambda v: v * flip), depth_m=None, size_m=None)
    assert names(check_material(turned)) == {"depth", "agreement"}


def test_basecolor_limits(material: Material) -> None:
    only(check_material(broken(material, "basecolor", lambda v: v * 0.1)), "basecolor", "basecolor", "below 30")
    only(check_material(broken(material, "basecolor", lambda v: 1 - v * 0.04)), "basecolor", "basecolor", "above 240")
    metal = broken(material, "metallic", np.ones_like)
    report = check_material(metal)
    only(report, "basecolor", "basecolor", "below 155")
    assert [check.axis for check in report.failed] == ["metal"]


def test_basecolor_limits_themselves_are_inside(material: Material) -> None:
    for limit in (30, 240):

        def change(values: Values, limit: int = limit) -> Values:
            values[:] = limit / 255
            values[:, ::9] = 0.4  # not flat, and it repeats in x and nearly so in y
            return values

        report = check_material(broken(material, "basecolor", change), skip=["seam"])
        assert report.passed, report.table()


def test_metallic_is_yes_or_no(material: Material) -> None:
    grey = check_material(broken(material, "metallic", lambda v: v * 0 + 0.5))
    only(grey, "metallic", "metallic", "neither metal nor not")


def test_report_is_json(material: Material) -> None:
    told = json.loads(json.dumps(check_material(broken(material, "height", lambda v: v * np.nan)).to_dict()))
    assert told["maps"]["height"] == {"file": "", "bits": 32, "size": [96, 96]}
    assert {"name": "finite", "map": "height", "status": "fail", "value": 9216, "bar": 0,
            "message": "9216 values are NaN or infinite"} in told["checks"]  # fmt: skip


def test_unknown_arguments(material: Material) -> None:
    with pytest.raises(ZelligeError, match=r"skip among maps, .*but got glare"):
        check_material(material, skip=["glare"])
    with pytest.raises(ZelligeError, match="depth of 0 or more metres, but got nan"):
        check_material(material, depth_m=float("nan"))
    with pytest.raises(ZelligeError, match="two lengths above 0"):
        check_material(material, size_m=(0, 1))


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("basecolor.png", "basecolor"), ("Rock032_1K-PNG_Color.png", "basecolor"), ("wall_diff_2k.jpg", "basecolor"),
        ("T_Rock_BC.tga", "basecolor"), ("Rock_Base_Color.png", "basecolor"), ("rock-albedo.png", "basecolor"),
        ("Rock032_1K-PNG_NormalGL.png", "normal"), ("wall_nor_gl_4k.exr", "normal"), ("T_Rock_N.png", "normal"),
        ("Rock032_1K-PNG_NormalDX.png", "normal_dx"), ("wall_nor_dx_1k.png", "normal_dx"),
        ("Rock_1K_Displacement.tif", "height"), ("wall_disp_1k.png", "height"), ("brick_height.exr", "height"),
        ("Rough_Wood_Roughness.png", "roughness"), ("wood_rough_8k.png", "roughness"), ("a_Glossiness.png", "gloss"),
        ("Metal009_2K_Metalness.png", "metallic"), ("x_metallic.png", "metallic"), ("x_AO.png", "ao"),
        ("Rock_AmbientOcclusion.png", "ao"), ("wall_arm_1k.png", "orm"), ("T_Rock_ORM.png", "orm"),
        ("preview.png", None), ("Rock032.png", None), ("n.png", None), ("readme.txt", None), ("tiled.png", None),
    ],
)  # fmt: skip
def test_names_of_other_tools(file: str, kind: str | None) -> None:
    assert kind_of(file) == kind


def save(folder: Path, name: str, values: torch.Tensor, *, signed: bool = False, bits: int = 8) -> None:
    write_png(folder / name, quantise(values, bits, signed=signed), colour="linear")


def test_ambientcg_folder(tmp_path: Path, material: Material) -> None:
    flip = torch.tensor([1.0, -1.0, 1.0])[:, None, None]
    save(tmp_path, "Rock1_1K-PNG_Color.png", material.basecolor)
    save(tmp_path, "Rock1_1K-PNG_NormalDX.png", material.normal * flip, signed=True)
    save(tmp_path, "Rock1_1K-PNG_Roughness.png", material.roughness)
    save(tmp_path, "Rock1_1K-PNG_Displacement.png", material.height, bits=16)
    (tmp_path / "Rock1.txt").write_text("no image")
    found = read_maps(tmp_path)
    assert set(found.maps) == {"basecolor", "normal", "roughness", "height"} and found.maps["height"].bits == 16
    assert np.abs(found.maps["normal"].values - material.normal.numpy()).max() <= 1 / 127
    report = check_material(tmp_path, depth_m=material.depth_m, size_m=material.size_m)
    assert report.passed, report.table()
    assert "turned from DirectX" in report.table() and "Displacement.png, 16 bits, 96x96" in report.table()
    assert names(check_material(tmp_path)) == {"depth"}
    # with both of them, OpenGL is taken; its green is wrong here
    save(tmp_path, "Rock1_1K-PNG_NormalGL.png", material.normal * flip, signed=True)
    assert names(check_material(tmp_path)) == {"depth", "agreement"}


def test_packed_and_inverted_maps(tmp_path: Path, material: Material) -> None:
    packed = torch.cat([torch.ones_like(material.height), material.roughness, material.metallic])
    save(tmp_path, "wall_arm_1k.png", packed)
    found = read_maps(tmp_path)
    np.testing.assert_array_equal(found.maps["roughness"].values, quantise(material.roughness, 8) / np.float32(255))
    assert set(found.maps) == {"ao", "roughness", "metallic"} and "green of wall_arm_1k.png" in " ".join(found.notes)
    (tmp_path / "wall_arm_1k.png").unlink()
    save(tmp_path, "wall_gloss.png", 1 - material.roughness)
    assert np.abs(read_maps(tmp_path).maps["roughness"].values - material.roughness.numpy()).max() <= 0.003


def test_jpeg_palette_sixteen_bits_and_floats(tmp_path: Path, material: Material) -> None:
    picture = Image.fromarray(quantise(material.basecolor, 8).transpose(1, 2, 0))
    picture.save(tmp_path / "a_albedo.jpg", quality=95)
    picture.quantize(64).save(tmp_path / "a_normal.png")
    Image.fromarray(quantise(material.roughness, 16)[0]).save(tmp_path / "a_roughness.tif")
    write_exr(tmp_path / "a_height.exr", material.height[0].numpy())
    found = read_maps(tmp_path).maps
    assert found["basecolor"].values.shape == (3, 96, 96)
    assert (found["roughness"].bits, found["height"].bits, found["normal"].bits) == (16, 32, 8)
    np.testing.assert_allclose(found["roughness"].values, material.roughness.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found["height"].values, material.height.numpy())


def test_two_materials_in_a_folder_are_an_error(tmp_path: Path, material: Material) -> None:
    for name in ("rock_albedo.png", "moss_albedo.png"):
        save(tmp_path, name, material.basecolor)
    with pytest.raises(ZelligeError, match=r"maps of one material .* got moss_albedo\.png and rock_albedo\.png"):
        check_material(tmp_path)
    (tmp_path / "moss_albedo.png").unlink()
    save(tmp_path, "rock_diffuse.png", material.basecolor)
    assert read_maps(tmp_path).maps["basecolor"].file == "rock_albedo.png"


def test_folders_of_this_program(tmp_path: Path, material: Material) -> None:
    save_material(material, tmp_path, request={"lock": {"roughness": 0.8}}, previews=False)
    report = check_material(tmp_path)
    assert report.passed, report.table()
    (tmp_path / "ao.png").unlink()
    assert check_material(tmp_path).passed
    (tmp_path / "height.png").unlink()
    only(check_material(tmp_path), "maps", "height")
    manifest = (tmp_path / "material.json").read_text()
    for old, new in (
        (manifest, "{}"),
        ('"schema": "1"', '"schema": "9"'),
        (f'"depth_m": {material.depth_m}', '"depth_m": NaN'),
        (f'"depth_m": {material.depth_m}', '"depth_m": -1'),
        ('"seamless": "xy"', '"seamless": "z"'),
        ('"size_m": [', '"size_m": [0, '),
    ):
        assert old in manifest
        (tmp_path / "material.json").write_text(manifest.replace(old, new))
        with pytest.raises(ZelligeError, match="is damaged"):
            check_material(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
@pytest.mark.parametrize("suffix", ["png", "jpg", "exr", "tif"])
def test_broken_images_are_one_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"a_albedo.{suffix}").write_bytes(content)
    with pytest.raises(ZelligeError, match=r"^Expected .*a_albedo"):
        check_material(tmp_path)


def test_images_that_claim_to_be_huge(tmp_path: Path, material: Material) -> None:
    save(tmp_path, "a_albedo.png", material.basecolor)
    data = bytearray((tmp_path / "a_albedo.png").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "a_albedo.png").write_bytes(data)
    with pytest.raises(ZelligeError, match=r"at most 268435456 pixels, but .* has 60000x60000"):
        check_material(tmp_path)


def test_grey_alpha_interlaced_and_palette(tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    kinds = {"LA": grey.convert("LA"), "RGBA": grey.convert("RGBA"), "1": grey.convert("1"), "P": grey.convert("P"),
             "CMYK": grey.convert("CMYK")}  # fmt: skip
    for mode, image in kinds.items():
        file = tmp_path / ("a_roughness.tif" if mode == "CMYK" else "a_roughness.png")
        image.save(file)
        found = read_maps(tmp_path).maps["roughness"]
        assert found.values.shape == (1, 8, 8) and found.bits == 8, mode
        if mode != "1":
            assert np.abs(found.values[0] * 255 - np.asarray(grey)).max() <= 1, mode
        file.unlink()


def test_command(tmp_path: Path, material: Material, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, empty = (tmp_path / name for name in ("good", "bad", "empty"))
    save_material(material, good, previews=False)
    save_material(replace(material, depth_m=material.depth_m * 4), bad, previews=False)
    empty.mkdir()
    assert cli.main(["check", str(good)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{good}\n") and "all checks passed" in captured.out and captured.err == ""
    assert cli.main(["check", str(good), str(bad)]) == 1
    assert "1 of" in capsys.readouterr().out
    assert cli.main(["check", str(bad), "--skip", "agreement"]) == 0
    capsys.readouterr()
    assert cli.main(["check", str(bad), str(empty), str(tmp_path / "none"), "--json"]) == 2
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert not told["passed"] and [m["source"] for m in told["materials"]] == [str(bad)]
    assert [e["source"] for e in told["errors"]] == [str(empty), str(tmp_path / "none")]
    lines = captured.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("zellige: expected a folder") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected DIR, but got nothing"),
        (["x", "--skip", "glare"], "--skip to name a check (maps, "),
        (["x", "--size-m", "1"], "expected --size-m to be WIDTHxHEIGHT in metres, such as 1.5x1, but got '1'"),
        (["x", "--size-m", "1..2x3"], "WIDTHxHEIGHT in metres"),
        (["x", "--depth", "deep"], "--depth to be a number, but got 'deep'"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and len(captured.err.splitlines()) == 1
