from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from materials.check import check_material
from materials.errors import ZelligeError
from materials.files import save_material
from materials.material import Material
from materials.provenance import describe, parameters_line

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def described(**request: Any) -> dict[str, Any]:
    versions = {"zellige": "1.2", "python": "3.11"}
    return {"request": request, "size": [48, 40], "seamless": "xy", "versions": versions, "schema": "1"}


def read_as_a1111(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings, by the rules of AUTOMATIC1111's reader."""
    *lines, last = text.strip().split("\n")
    pattern = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'
    if len(re.findall(pattern, last)) < 3:
        lines, last = [*lines, last], ""
    negative = [line for line in lines if line.startswith("Negative prompt:")]
    settings = {key: json.loads(value) if value[:1] == '"' else value for key, value in re.findall(pattern, last)}
    return "\n".join(line for line in lines if line not in negative), "\n".join(negative), settings


@pytest.fixture
def material() -> Material:
    random = torch.Generator().manual_seed(1)
    normal = torch.zeros(3, 16, 24)
    normal[2] = 1
    maps = {name: torch.rand(1, 16, 24, generator=random) for name in ("height", "roughness", "metallic")}
    base = torch.rand(3, 16, 24, generator=random)
    return Material(basecolor=base, normal=normal, **maps, depth_m=0.01, size_m=(0.6, 0.4), seamless="xy")


@pytest.mark.parametrize(
    ("request_", "prompt", "settings"),
    [
        ({"prompt": "oak", "seed": 3}, "oak", {"Steps": "4", "CFG scale": "4", "Seed": "3", "Size": "48x40"}),
        ({"prompt": "oak", "seed": 3, "guidance": 2}, "oak", {"Steps": "7", "CFG scale": "2"}),
        ({"prompt": "oak,\nold: wet", "seed": 3, "steps": 2}, "oak, old: wet", {"Steps": "2"}),
        ({"prompt": "Steps: 9, Seed: 9, Size: 9x9", "seed": 3}, "Steps: 9, Seed: 9, Size: 9x9", {"Seed": "3"}),
        ({"prompt": "x\nSteps: 9, Seed: 9, Size: 9x9", "seed": 3}, "x Steps: 9, Seed: 9, Size: 9x9", {"Seed": "3"}),
        ({"prompt": "oak", "seed": 0, "model": 'a, Seed: 9, "b'}, "oak", {"Seed": "0", "Model": 'a, Seed: 9, "b'}),
        ({"prompt": "über Moos 苔", "seed": 0, "guidance": 1.5}, "über Moos 苔", {"CFG scale": "1.5"}),
    ],
)
def test_other_generators_read_the_settings(request_: dict[str, Any], prompt: str, settings: dict[str, str]) -> None:
    found, negative, read = read_as_a1111(parameters_line(described(**request_)))
    assert found == prompt and negative == ""
    assert read | settings == read
    assert read["Tiling"] == "True" and read["Version"] == "zellige 1.2"


@pytest.mark.parametrize("source", ["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"])
@pytest.mark.parametrize("prompt", ["oak", '<script a="b">&amp;\'', "x" * 5000, "a\x00b\ufffe\nc", "]]>\u2028苔"])
def test_xmp_is_xml_whatever_the_prompt(prompt: str, source: Any) -> None:
    packet = describe(described(prompt=prompt), source)["XML:com.adobe.xmp"]
    found = ElementTree.fromstring(packet.encode()).find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert found is not None
    assert found.get(f"{IPTC}DigitalSourceType") == TRAINED.replace("trainedAlgorithmicMedia", source)
    assert found.get(f"{IPTC}AISystemUsed") == "zellige" and found.get(f"{IPTC}AISystemVersionUsed") == "1.2"
    kept = "".join(c for c in prompt if c not in "\x00\ufffe")
    assert found.get(f"{IPTC}AIPromptInformation") == kept


def test_a_procedure_is_no_trained_system() -> None:
    packet = describe(described(), "algorithmicMedia")["XML:com.adobe.xmp"]
    assert "AISystemUsed" not in packet and "digitalsourcetype/algorithmicMedia" in packet
    with pytest.raises(ZelligeError, match=r"a source of trainedAlgorithmicMedia, .* but got 'photo'"):
        describe(described(), "photo")  # pyright: ignore[reportArgumentType] - the point


def test_every_image_says_that_a_model_made_it(tmp_path: Path, material: Material) -> None:
    asked = {"prompt": "m" * 2000, "seed": 7}
    pngs = [path for path in save_material(material, tmp_path, request=asked) if path.suffix == ".png"]
    assert len(pngs) == 8
    for path in pngs:
        data = path.read_bytes()
        # as it stands in the file, where programs that know nothing of PNG look for it
        assert TRAINED.encode() in data and data.index(b"XML:com.adobe.xmp\0\0\0\0\0<?xpacket") < data.index(b"IDAT")
        with Image.open(path) as image:
            assert image.info["XML:com.adobe.xmp"].count("m" * 2000) == 1
            assert json.loads(image.info["zellige"])["schema"] == "1"
    save_material(material, tmp_path, request=asked, height_format="exr", previews=False)
    assert TRAINED.encode() in (tmp_path / "height.exr").read_bytes()


@pytest.mark.parametrize("height_format", ["png16", "exr"])
def test_stripped_files_say_nothing(tmp_path: Path, material: Material, height_format: Any) -> None:
    asked = {"prompt": "secret", "seed": 7, "lock": {"roughness": 0.5, "height": "secret.png", "basecolor": "#102030"}}
    written = save_material(material, tmp_path, request=asked, height_format=height_format, metadata=False)
    for path in written:
        data = path.read_bytes()
        assert not [word for word in (b"secret", b"iTXt", b"tEXt", b"zellige", b"trained", b"torch") if word in data]
    manifest = json.loads((tmp_path / "material.json").read_text())
    assert manifest["request"] == {"lock": {"roughness": 0.5, "basecolor": "#102030"}} and manifest["versions"] == {}
    check_material(tmp_path)  # reads it
