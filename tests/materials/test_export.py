from __future__ import annotations

import json
import re
import struct
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from asd.errors import OutputError, ZelligeError
from materials import Material, check_material, export_material, save_material
from materials.export import TARGETS
from materials.export.source import Source, name_of
from materials.export.targets import parse_targets
from materials.files import quantise
from materials.maps import ambient_occlusion
from materials.material import MAPS
from materials.png import read_png
from materials.procedural import sample
from ui import cli

NAME = "Deck"
SIZE = (64, 48)


@pytest.fixture(scope="module")
def material() -> Material:
    b = sample("tech_panels", [1], (SIZE[1], SIZE[0]))
    maps = {name: getattr(b, name)[0] for name in MAPS}
    return Material(**maps, depth_m=0.0125, size_m=(1.5, 1.125))


@pytest.fixture(scope="module")
def pack(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "pack"
    export_material(material, "all", out, name=NAME)
    return out


def occlusion(material: Material) -> torch.Tensor:
    relief = {"depth_m": material.depth_m, "size_m": material.size_m, "seamless": material.seamless}
    return ambient_occlusion(material.height[None], **relief)[0]


def expected(material: Material, kind: str, bits: int) -> NDArray[Any]:
    """What a file must hold, from the definitions: v * (2^bits - 1) rounded, unit vectors as v / 2 + 1 / 2."""
    top = 2**bits - 1
    if kind in ("normal", "normal_dx"):
        values = material.normal.double().numpy() / 2 + 0.5
    elif kind == "ao":
        values = occlusion(material).double().numpy()
    elif kind == "smoothness":
        values = 1 - material.roughness.double().numpy()
    elif kind == "one":
        values = np.ones((1, SIZE[1], SIZE[0]))
    else:
        values = getattr(material, kind).double().numpy()
    if kind == "normal_dx":
        values[1] = 1 - values[1]
    return values * top


def holds(path: Path, material: Material, *kinds: str, bits: int = 8) -> None:
    """The file has these maps in its channels, right to half a step (and the rounding of float32)."""
    pixels = read_png(path, alpha=True).pixels
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16), path
    wanted = np.concatenate([expected(material, kind, bits) for kind in kinds])
    assert pixels.shape == wanted.shape, path
    assert np.abs(pixels.astype(np.float64) - wanted).max() <= 0.5 + 1e-3 * (1 if bits == 8 else 64), path


def chunks(path: Path) -> list[bytes]:
    data, at, found = path.read_bytes(), 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append(data[at + 4 : at + 8])
        at += 12 + length
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_manifest_lists_every_file(pack: Path, material: Material) -> None:
    told = json.loads((pack / "pack.json").read_text())
    assert tuple(told["targets"]) == TARGETS and names(pack) == {*TARGETS, "pack.json"}
    assert (told["size"], told["size_m"], told["depth_m"]) == ([64, 48], [1.5, 1.125], 0.0125)
    on_disk = {path.relative_to(pack).as_posix() for path in pack.rglob("*") if path.is_file()}
    assert on_disk == {*told["files"], "pack.json"}
    for target, entry in told["targets"].items():
        assert {file["file"] for file in entry["files"]} == names(pack / target)
        for file in entry["files"]:
            if file["file"].endswith(".png"):
                tagged = chunks(pack / target / file["file"])
                assert (b"sRGB" in tagged) == (file["colour_space"] == "srgb") == (file["holds"] == "basecolor")
                assert b"gAMA" not in tagged
            if file["holds"] == "height":
                assert file["bits"] == 16 and file["depth_m"] == 0.0125
                assert read_png(pack / target / file["file"]).text["depth_m"] == "0.0125"


def gltf_checks(document: dict[str, Any], blob: bytes, images: list[bytes]) -> None:
    """Indices in range, views inside the buffer, counts that fit, and what the specification says of materials."""
    assert document["asset"]["version"] == "2.0"
    assert 0 <= len(blob) - document["buffers"][0]["byteLength"] < 4  # a chunk of a .glb is padded
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(blob)
    sizes = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
    arrays = []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5123: "<u2"}[accessor["componentType"]]
        array = np.frombuffer(blob, kind, accessor["count"] * sizes[accessor["type"]], view["byteOffset"])
        assert array.nbytes == view["byteLength"]
        arrays.append(array.reshape(accessor["count"], -1))
    (mesh,) = document["meshes"]
    (primitive,) = mesh["primitives"]
    position, normal, tangent, uv = (
        arrays[primitive["attributes"][key]] for key in ("POSITION", "NORMAL", "TANGENT", "TEXCOORD_0")
    )
    indices = arrays[primitive["indices"]].ravel()
    assert indices.max() == len(position) - 1 and len(indices) % 3 == 0
    bounds = document["accessors"][primitive["attributes"]["POSITION"]]
    assert bounds["min"] == position.min(0).tolist() and bounds["max"] == position.max(0).tolist()
    np.testing.assert_allclose(np.ptp(position, axis=0), [1.5, 1.125, 0])
    np.testing.assert_allclose(np.linalg.norm(tangent[:, :3], axis=1), 1)
    for a, b, c in indices.reshape(-1, 3):  # counter-clockwise about the normal; tangents follow u, bitangents -v
        face = np.cross(position[b] - position[a], position[c] - position[a])
        assert face @ normal[a] > 0
        edges = np.stack([position[b] - position[a], position[c] - position[a]])
        turns = np.stack([uv[b] - uv[a], uv[c] - uv[a]])
        du, dv = np.linalg.solve(turns.astype(float), edges.astype(float))
        assert du @ tangent[a, :3] > 0 and np.cross(normal[a], tangent[a, :3]) * tangent[a, 3] @ -dv > 0
    (surface,) = document["materials"]
    rough = surface["pbrMetallicRoughness"]
    assert rough["metallicFactor"] == rough["roughnessFactor"] == surface["occlusionTexture"]["strength"] == 1
    assert surface["normalTexture"]["scale"] == 1 and rough["baseColorFactor"] == [1, 1, 1, 1]
    assert rough["metallicRoughnessTexture"]["index"] == surface["occlusionTexture"]["index"]
    assert surface["extras"]["zellige"]["depth_m"] == 0.0125
    used = [rough["baseColorTexture"], rough["metallicRoughnessTexture"], surface["normalTexture"]]
    assert [document["textures"][t["index"]]["source"] for t in used] == list(range(len(images)))
    assert all(document["samplers"][t["sampler"]] == {"magFilter": 9729, "minFilter": 9987, "wrapS": 10497,
                                                      "wrapT": 10497} for t in document["textures"])  # fmt: skip


def test_gltf(pack: Path, material: Material, tmp_path: Path) -> None:
    folder = pack / "gltf"
    holds(folder / f"{NAME}_basecolor.png", material, "basecolor")
    holds(folder / f"{NAME}_orm.png", material, "ao", "roughness", "metallic")
    holds(folder / f"{NAME}_normal.png", material, "normal")
    holds(folder / f"{NAME}_height.png", material, "height", bits=16)
    assert int(read_png(folder / f"{NAME}_normal.png").pixels[2].min()) > 127  # blue above one half
    document = json.loads((folder / f"{NAME}.gltf").read_text())
    files = [folder / image["uri"] for image in document["images"]]
    gltf_checks(document, (folder / f"{NAME}.bin").read_bytes(), [file.read_bytes() for file in files])
    data = (folder / f"{NAME}.glb").read_bytes()
    magic, version, length, head, kind = struct.unpack_from("<IIIII", data)
    assert (magic, version, length, kind) == (0x46546C67, 2, len(data), 0x4E4F534A) and head % 4 == 0
    packed = json.loads(data[20 : 20 + head])
    size, kind = struct.unpack_from("<II", data, 20 + head)
    blob = data[28 + head :]
    assert (len(blob), kind) == (size, 0x004E4942)
    images = []
    for image in packed["images"]:
        view = packed["bufferViews"][image["bufferView"]]
        images.append(blob[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])
    gltf_checks(packed, blob, images)
    assert images == [file.read_bytes() for file in files]


def test_usd(pack: Path, material: Material) -> None:
    Usd, UsdGeom, UsdShade, UsdValidation = (
        pytest.importorskip(f"pxr.{name}", reason="usd-core is not installed")
        for name in ("Usd", "UsdGeom", "UsdShade", "UsdValidation")
    )
    folder = pack / "usd"
    holds(folder / f"{NAME}_basecolor.png", material, "basecolor")
    holds(folder / f"{NAME}_orm.png", material, "ao", "roughness", "metallic")
    holds(folder / f"{NAME}_normal.png", material, "normal")
    holds(folder / f"{NAME}_height.png", material, "height", bits=16)
    for file in ("usda", "usdz"):
        stage = Usd.Stage.Open(str(folder / f"{NAME}.{file}"))
        validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
        assert len(validators) > 10
        errors = UsdValidation.ValidationContext(validators).Validate(stage)
        assert not errors, [error.GetMessage() for error in errors]
        assert UsdGeom.GetStageMetersPerUnit(stage) == 1
        mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"/{NAME}/Plane"))
        low, high = mesh.GetExtentAttr().Get()
        assert tuple(high - low) == (1.5, 1.125, 0)
        bound, _ = UsdShade.MaterialBindingAPI(mesh.GetPrim()).ComputeBoundMaterial()
        surface, _, _ = bound.ComputeSurfaceSource()
        assert surface.GetIdAttr().Get() == "UsdPreviewSurface"
        wired = {}
        for name in ("diffuseColor", "normal", "occlusion", "roughness", "metallic", "displacement"):
            (source,), _ = surface.GetInput(name).GetConnectedSources()
            texture = UsdShade.Shader(source.source.GetPrim())
            asset = texture.GetInput("file").Get()
            assert asset.resolvedPath, name
            wired[name] = (Path(asset.path).name, source.sourceName, texture.GetInput("sourceColorSpace").Get())
            assert texture.GetInput("wrapS").Get() == "repeat"
            if name == "normal":
                assert tuple(texture.GetInput("scale").Get()) == (2, 2, 2, 1)
                assert tuple(texture.GetInput("bias").Get()) == (-1, -1, -1, 0)
            if name == "displacement":
                assert texture.GetInput("scale").Get()[0] == pytest.approx(0.0125)
        assert wired == {
            "diffuseColor": (f"{NAME}_basecolor.png", "rgb", "sRGB"),
            "normal": (f"{NAME}_normal.png", "rgb", "raw"),
            "occlusion": (f"{NAME}_orm.png", "r", "raw"),
            "roughness": (f"{NAME}_orm.png", "g", "raw"),
            "metallic": (f"{NAME}_orm.png", "b", "raw"),
            "displacement": (f"{NAME}_height.png", "r", "raw"),
        }
    with zipfile.ZipFile(folder / f"{NAME}.usdz") as archive:
        assert archive.infolist()[0].filename == f"{NAME}.usda"
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert (entry.header_offset + 30 + len(entry.filename) + len(entry.extra)) % 64 == 0
            if entry.filename.endswith(".png"):
                assert archive.read(entry) == (folder / Path(entry.filename).name).read_bytes()


def test_materialx(pack: Path, material: Material) -> None:
    mx, glsl, shaders = (
        pytest.importorskip(name, reason="materialx is not installed")
        for name in ("MaterialX", "MaterialX.PyMaterialXGenGlsl", "MaterialX.PyMaterialXGenShader")
    )
    folder = pack / "materialx"
    holds(folder / f"{NAME}_basecolor.png", material, "basecolor")
    for kind in ("roughness", "metallic", "ao"):
        holds(folder / f"{NAME}_{kind}.png", material, kind)
    for kind in ("normal", "height"):
        holds(folder / f"{NAME}_{kind}.png", material, kind, bits=16)
    document, library = mx.createDocument(), mx.createDocument()
    paths = mx.getDefaultDataSearchPath()
    mx.loadLibraries(mx.getDefaultDataLibraryFolders(), paths, library)
    mx.readFromXmlFile(document, str(folder / f"{NAME}.mtlx"))
    document.setDataLibrary(library)
    assert document.validate() == (True, "")
    found = {node.getName() for node in document.getMaterialNodes()}
    assert found == {f"{NAME}_{kind}_material" for kind in ("standard_surface", "open_pbr_surface", "gltf_pbr")}
    spaces = {}
    for node in document.getNodeGraph(f"NG_{NAME}").getNodes("tiledimage"):
        file, size = node.getInput("file"), node.getInput("realworldimagesize")
        assert (folder / file.getValueString()).is_file()
        spaces[file.getValueString()] = file.getColorSpace()
        assert (size.getValueString(), size.getUnit()) == ("1.5, 1.125", "meter")
    assert len(spaces) == 6
    assert {file for file, space in spaces.items() if space} == {f"{NAME}_basecolor.png"}
    (relief,) = document.getNodes("displacement")
    assert relief.getInputValue("scale") == pytest.approx(0.0125)
    # every surface and all that feeds it has an implementation: it becomes a shader
    generator = glsl.GlslShaderGenerator.create()
    colours = shaders.DefaultColorManagementSystem.create(generator.getTarget())
    colours.loadLibrary(library)
    generator.setColorManagementSystem(colours)
    context = shaders.GenContext(generator)
    context.registerSourceCodeSearchPath(paths)
    code = generator.generate("gltf", document.getMaterialNodes()[-1], context).getSourceCode("pixel")
    assert "image_normal_file" in code and code.count("srgb_texture_to_lin_rec709_color3(") == 2  # made, and used once


def test_unreal(pack: Path, material: Material) -> None:
    folder = pack / "unreal"
    assert names(folder) == {f"T_{NAME}_{end}.png" for end in ("BC", "N", "ORM", "H")}
    holds(folder / f"T_{NAME}_BC.png", material, "basecolor")
    holds(folder / f"T_{NAME}_ORM.png", material, "ao", "roughness", "metallic")
    holds(folder / f"T_{NAME}_H.png", material, "height", bits=16)
    holds(folder / f"T_{NAME}_N.png", material, "normal_dx")
    down, up = (read_png(path).pixels for path in (folder / f"T_{NAME}_N.png", pack / "gltf" / f"{NAME}_normal.png"))
    np.testing.assert_array_equal(down[1], 255 - up[1])
    np.testing.assert_array_equal(down[::2], up[::2])


def test_unity(pack: Path, material: Material) -> None:
    folder = pack / "unity"
    holds(folder / f"{NAME}_BaseMap.png", material, "basecolor")
    holds(folder / f"{NAME}_Normal.png", material, "normal")
    holds(folder / f"{NAME}_MaskMap.png", material, "metallic", "ao", "one", "smoothness")
    holds(folder / f"{NAME}_Height.png", material, "height", bits=16)
    with Image.open(folder / f"{NAME}_MaskMap.png") as mask:
        assert mask.mode == "RGBA"
    identities = set()
    for image in folder.glob("*.png"):
        text = (folder / f"{image.name}.meta").read_text()
        assert f"sRGBTexture: {int('BaseMap' in image.name)}\n" in text
        assert f"textureType: {int('Normal' in image.name)}\n" in text
        identities |= set(re.findall(r"^guid: ([0-9a-f]{32})$", text, re.M))
    assert len(identities) == 4


def test_godot(pack: Path, material: Material) -> None:
    folder = pack / "godot"
    holds(folder / "deck_albedo.png", material, "basecolor")
    holds(folder / "deck_orm.png", material, "ao", "roughness", "metallic")
    holds(folder / "deck_normal.png", material, "normal")
    holds(folder / "deck_height.png", material, "height", bits=16)
    text = (folder / "deck.tres").read_text()
    links = dict(re.findall(r'path="([^"]+)" id="(\d+)"', text))
    assert set(links) == names(folder) - {"deck.tres"}
    for key, file in (("albedo", "albedo"), ("orm", "orm"), ("normal", "normal"), ("heightmap", "height")):
        assert f'{key}_texture = ExtResource("{links[f"deck_{file}.png"]}")' in text
    assert text.startswith('[gd_resource type="ORMMaterial3D" load_steps=5 format=3]')
    assert float(re.findall(r"heightmap_scale = (.+)", text)[0]) == pytest.approx(100 * 0.0125 / 1.5, rel=1e-4)
    assert "metadata/depth_m = 0.0125" in text and "metadata/size_m = Vector2(1.5, 1.125)" in text


def test_blender(pack: Path, material: Material) -> None:
    folder = pack / "blender"
    holds(folder / f"{NAME}_basecolor.png", material, "basecolor")
    for kind in ("roughness", "metallic", "ao"):
        holds(folder / f"{NAME}_{kind}.png", material, kind)
    for kind in ("normal", "height"):
        holds(folder / f"{NAME}_{kind}.png", material, kind, bits=16)
    # Node Wrangler's words (its preferences.py)
    words = {"basecolor", "roughness", "metallic", "normal", "height", "ao"}
    assert {path.stem.rpartition("_")[2] for path in folder.glob("*.png")} == words
    text = (folder / f"{NAME}.py").read_text()
    compile(text, "script", "exec")
    assert "SIZE_M = (1.5, 1.125)" in text and "DEPTH_M = 0.0125" in text and "EXTENSION = 'REPEAT'" in text


def test_ambientcg(pack: Path, material: Material) -> None:
    folder, start = pack / "ambientcg", f"{NAME}_64x48-PNG_"
    kinds = {"Color": "basecolor", "NormalGL": "normal", "NormalDX": "normal_dx", "Roughness": "roughness",
             "Metalness": "metallic", "AmbientOcclusion": "ao"}  # fmt: skip
    for word, kind in kinds.items():
        holds(folder / f"{start}{word}.png", material, kind)
    holds(folder / f"{start}Displacement.png", material, "height", bits=16)
    assert names(folder) == {f"{start}{word}.png" for word in (*kinds, "Displacement")}


def test_polyhaven(pack: Path, material: Material) -> None:
    folder = pack / "polyhaven"
    kinds = {"diff": ["basecolor"], "nor_gl": ["normal"], "nor_dx": ["normal_dx"], "rough": ["roughness"],
             "metal": ["metallic"], "ao": ["ao"], "arm": ["ao", "roughness", "metallic"],
             "disp": ["height"]}  # fmt: skip
    for word, held in kinds.items():
        holds(folder / f"deck_{word}_64x48.png", material, *held, bits=16)
    assert names(folder) == {f"deck_{word}_64x48.png" for word in kinds}


@pytest.mark.parametrize("target", ["unreal", "godot", "blender", "ambientcg", "polyhaven"])
def test_packs_are_recognised_and_come_back(pack: Path, material: Material, target: str, tmp_path: Path) -> None:
    """`check` reads what `export` names; `export` of that gives the same pixels, DirectX normals among them."""
    from materials.recognise import read_maps

    more: Any = {"depth_m": material.depth_m, "size_m": material.size_m, "directx": target == "unreal"}
    found = read_maps(pack / target, **more)
    assert set(found.maps) == {*MAPS, "ao"}
    export_material(pack / target, "gltf", tmp_path / "again", name=NAME, **more)
    for kind in ("basecolor", "normal"):
        again, first = (read_png(folder / f"{NAME}_{kind}.png").pixels.astype(int)
                        for folder in (tmp_path / "again" / "gltf", pack / "gltf"))  # fmt: skip
        # 16 bits are rounded twice on their way to 8
        assert np.abs(again - first).max() <= (1 if kind == "normal" or target == "polyhaven" else 0)
    assert not {c.name for c in check_material(found).failed} - {"basecolor", "seam"}


def test_zips_are_the_same_bytes(material: Material, pack: Path, tmp_path: Path) -> None:
    files = [export_material(material, "all", tmp_path / place, name=NAME, zipped=True) for place in "ab"]
    assert [file.name for file in files[0]] == [*sorted(f"{NAME}-{target}.zip" for target in TARGETS), "pack.json"]
    for a, b in zip(*files, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    with zipfile.ZipFile(tmp_path / "a" / f"{NAME}-unity.zip") as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert archive.read(entry) == (pack / "unity" / entry.filename).read_bytes()
    for file in export_material(material, "all", tmp_path / "c", name=NAME):
        assert file.read_bytes() == (pack / file.relative_to(tmp_path / "c")).read_bytes()


def test_edges_that_do_not_repeat_are_clamped(material: Material, tmp_path: Path) -> None:
    export_material(replace(material, seamless="x"), ("gltf", "materialx", "usd", "godot"), tmp_path / "out", name=NAME)
    sampler = json.loads((tmp_path / "out/gltf" / f"{NAME}.gltf").read_text())["samplers"][0]
    assert (sampler["wrapS"], sampler["wrapT"]) == (10497, 33071)
    text = (tmp_path / "out/materialx" / f"{NAME}.mtlx").read_text()
    assert 'name="uaddressmode" type="string" value="periodic"' in text
    assert 'name="vaddressmode" type="string" value="clamp"' in text
    assert 'token inputs:wrapT = "clamp"' in (tmp_path / "out/usd" / f"{NAME}.usda").read_text()
    assert "texture_repeat = false" in (tmp_path / "out/godot/deck.tres").read_text()


@pytest.mark.parametrize(("size", "words"), [((1024, 1024), "1K"), ((1024, 512), "1024x512"), ((512, 512), "512x512")])
def test_resolution_in_names(size: tuple[int, int], words: str) -> None:
    x = torch.zeros(8, size[1] // 16, size[0] // 16)
    small = Material.from_network(x, depth_m=0.01, size_m=(1.0, 1.0))
    large = replace(small, **{name: getattr(small, name).repeat(1, 16, 16) for name in MAPS})
    assert Source("x", large, large.height).resolution == words


@pytest.mark.parametrize(
    ("text", "name"),
    [("mossy wall", "mossy_wall"), ("Öl & Fett", "l_Fett"), ("0007", "m_0007"), ("", "material"), ("a" * 99, "a" * 48)],
)
def test_names_from_words(text: str, name: str) -> None:
    assert name_of(text) == name


@pytest.mark.parametrize(
    ("targets", "words"),
    [("maya", "but got 'maya'"), ("", "but got none"), (["gltf", "Godot4"], "but got 'godot4'"), (",", "but got none")],
)
def test_unknown_targets(material: Material, tmp_path: Path, targets: str | list[str], words: str) -> None:
    with pytest.raises(ZelligeError, match=words):
        export_material(material, targets, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_targets_are_named_once_in_order() -> None:
    assert parse_targets(" USD, gltf,usd") == ("usd", "gltf") and parse_targets("all") == TARGETS


def test_missing_library_says_how_to_get_it(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target, module in (("usd", "pxr"), ("materialx", "MaterialX")):
        monkeypatch.setitem(sys.modules, f"{module}.Usd" if module == "pxr" else module, None)
        with pytest.raises(ZelligeError, match=r'pip install "zellige\[export\]"'):
            export_material(material, f"gltf,{target}", tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "a b", "1st", "ü", "a/b", "../a", "x" * 65])
def test_unusable_names(material: Material, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    if name == "":
        export_material(material, "unreal", folder, name=name)  # as if it were not given
        assert (folder / "unreal/T_material_N.png").is_file()
        return
    with pytest.raises(ZelligeError, match="letters, digits and _"):
        export_material(material, "unreal", folder, name=name)
    assert not folder.exists()


def test_nothing_of_anybody_else_is_replaced(material: Material, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_material(material, "unreal", out)
    with pytest.raises(OutputError, match="absent or empty"):
        export_material(material, "godot", out)
    export_material(material, "godot", out, overwrite=True)
    assert names(out) == {"godot", "pack.json"}
    (out / "godot" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"nothing else, but it holds 'godot/mine\.txt'"):
        export_material(material, "godot", out, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("x")
    with pytest.raises(OutputError, match=r"has no pack\.json"):
        export_material(material, "godot", other, overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="but got the file"):
        export_material(material, "godot", tmp_path / "file")


def test_an_error_leaves_nothing(material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_material(material, "unreal", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("materials.atomic.os.replace", refuse)
    for place in ("out", "new"):
        with pytest.raises(OutputError, match="No space left"):
            export_material(material, "gltf,unity", tmp_path / place, overwrite=True)
    assert names(tmp_path) == {"out"}
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_folders_that_cannot_be_exported(material: Material, tmp_path: Path) -> None:
    with pytest.raises(ZelligeError, match="Expected a folder of maps"):
        export_material(tmp_path / "none", "gltf", tmp_path / "out")
    folder = tmp_path / "wall"
    save_material(material, folder, previews=False)
    (folder / "normal.png").unlink()
    with pytest.raises(ZelligeError, match="has no map for normal"):
        export_material(folder, "gltf", tmp_path / "out")
    (folder / "material.json").unlink()
    with pytest.raises(ZelligeError, match=r"has no map for normal"):
        export_material(folder, "gltf", tmp_path / "out", depth_m=0.01, size_m=(1, 1))
    with pytest.raises(ZelligeError, match="does not say both"):
        export_material(folder.parent / make_strange(material, folder.parent), "gltf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def make_strange(material: Material, parent: Path) -> str:
    folder = parent / "strange"
    save_material(material, folder, previews=False)
    (folder / "material.json").unlink()
    return folder.name


def test_command(material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_material(material, tmp_path / "mossy wall", previews=False)
    out = tmp_path / "out"
    assert cli.main(["export", str(tmp_path / "mossy wall"), "--to", "gltf,unreal", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {Path(line) for line in lines} == {path for path in out.rglob("*") if path.is_file()}
    assert (out / "unreal/T_mossy_wall_N.png").is_file()
    arguments = ["export", str(tmp_path / "mossy wall"), "--to", "godot", "--out", str(out), "--zip", "--name", "Wall"]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith("zellige: expected the output folder to be absent or empty")
    assert cli.main([*arguments, "--overwrite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(file).name for file in told["files"]] == ["Wall-godot.zip", "pack.json"]
    assert cli.main(["export", str(out), "--to", "maya", "--out", str(tmp_path / "x")]) == 2
    assert "but got 'maya'" in capsys.readouterr().err


def test_sixteen_bits_are_sixteen(pack: Path, material: Material) -> None:
    normal = read_png(pack / "blender" / f"{NAME}_normal.png").pixels
    np.testing.assert_array_equal(normal, quantise(material.normal, 16, signed=True))
    assert len(np.unique(normal[0])) > 256
