"""glTF 2.0: a plane of the tile's size with the material, as .gltf with files and as one .glb.

Specification: Khronos glTF 2.0 (ISO/IEC 12113:2022). Occlusion, roughness and metallic share one texture (red, green,
blue), the factors are written out, normals are OpenGL; core glTF has no height, which lies beside and is named in
`extras` with its depth.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from materials.export.sink import Sink, described
from materials.export.source import Source

_REPEAT, _CLAMP = 10497, 33071
_LINEAR, _TRILINEAR = 9729, 9987
_ARRAY, _ELEMENTS = 34962, 34963
_FLOAT, _UNSIGNED_SHORT = 5126, 5123


def write_gltf(source: Source, sink: Sink) -> None:
    """`Name.gltf`, `Name.bin`, its textures, `Name_height.png`, and `Name.glb`."""
    name = source.name
    packed = ["ao", "roughness", "metallic"]
    images = [
        sink.image(f"{name}_basecolor.png", source.pixels("basecolor"), colour="srgb", holds="basecolor"),
        sink.image(f"{name}_orm.png", source.pixels(*packed), colour="linear", holds=packed),
        sink.image(f"{name}_normal.png", source.pixels("normal"), colour="linear", holds="normal", convention="opengl"),
    ]
    height = sink.image(f"{name}_height.png", source.pixels("height", bits=16), colour="linear", holds="height",
                        depth_m=source.material.depth_m)  # fmt: skip
    geometry, document = _plane(source)
    document |= _material(source, height.name)
    loose = document | {"images": [{"uri": path.name} for path in images]}
    loose["buffers"] = [{"byteLength": len(geometry), "uri": f"{name}.bin"}]
    sink.write(f"{name}.bin", geometry, holds="geometry")
    sink.write(f"{name}.gltf", json.dumps(loose, indent=2) + "\n", holds="scene")
    sink.write(f"{name}.glb", _glb(document, geometry, images), holds="scene")


def _plane(source: Source) -> tuple[bytes, dict[str, Any]]:
    """Two triangles in the XY plane that face +Z, one tile across, and what describes them."""
    width, height = source.material.size_m
    x, y = width / 2, height / 2
    corners = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]], "<f4")
    normals = np.tile(np.array([0, 0, 1], "<f4"), (4, 1))
    tangents = np.tile(np.array([1, 0, 0, 1], "<f4"), (4, 1))  # +X; the bitangent is +Y, up the image
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4")  # (0, 0) is the upper left of the image
    indices = np.array([0, 1, 2, 0, 2, 3], "<u2")
    blob, views, accessors = b"", [], []
    for values, kind in ((corners, "VEC3"), (normals, "VEC3"), (tangents, "VEC4"), (uv, "VEC2"), (indices, "SCALAR")):
        part = values.tobytes()
        target = _ELEMENTS if kind == "SCALAR" else _ARRAY
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(part), "target": target})
        component = _UNSIGNED_SHORT if kind == "SCALAR" else _FLOAT
        accessors.append({"bufferView": len(views) - 1, "componentType": component, "count": len(values), "type": kind})
        blob += part
    accessors[0] |= {"min": corners.min(0).tolist(), "max": corners.max(0).tolist()}
    attributes = {"POSITION": 0, "NORMAL": 1, "TANGENT": 2, "TEXCOORD_0": 3}
    return blob, {
        "asset": {"version": "2.0", "generator": "zellige"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": source.name}],
        "meshes": [{"name": source.name, "primitives": [{"attributes": attributes, "indices": 4, "material": 0}]}],
        "accessors": accessors,
        "bufferViews": views,
    }


def _material(source: Source, height: str) -> dict[str, Any]:
    seamless = source.material.seamless
    sampler = {
        "magFilter": _LINEAR,
        "minFilter": _TRILINEAR,
        "wrapS": _REPEAT if "x" in seamless else _CLAMP,
        "wrapT": _REPEAT if "y" in seamless else _CLAMP,
    }
    material = {
        "name": source.name,
        "pbrMetallicRoughness": {
            "baseColorFactor": [1.0, 1.0, 1.0, 1.0],
            "baseColorTexture": {"index": 0},
            "metallicFactor": 1.0,  # both multiply the texture; said, because readers differ on what is left out
            "roughnessFactor": 1.0,
            "metallicRoughnessTexture": {"index": 1},
        },
        "occlusionTexture": {"index": 1, "strength": 1.0},
        "normalTexture": {"index": 2, "scale": 1.0},
        "extras": {"zellige": {**described(source), "height": height}},
    }
    textures = [{"sampler": 0, "source": index} for index in range(3)]
    return {"materials": [material], "textures": textures, "samplers": [sampler]}


def _glb(document: dict[str, Any], geometry: bytes, images: list[Path]) -> bytes:
    views, blob = list(document["bufferViews"]), geometry
    entries = []
    for path in images:
        data = path.read_bytes()
        blob += b"\0" * (-len(blob) % 4)
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)})
        entries.append({"bufferView": len(views) - 1, "mimeType": "image/png", "name": path.stem})
        blob += data
    whole = document | {"bufferViews": views, "images": entries, "buffers": [{"byteLength": len(blob)}]}
    head = json.dumps(whole, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    blob += b"\0" * (-len(blob) % 4)
    chunks = struct.pack("<II", len(head), 0x4E4F534A) + head + struct.pack("<II", len(blob), 0x004E4942) + blob
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
