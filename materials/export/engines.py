"""Folders for Unreal, Unity and Godot: packed, named and turned as each engine reads them."""

from __future__ import annotations

import hashlib

from materials.export.sink import Sink
from materials.export.source import Source

_ORM = ["ao", "roughness", "metallic"]


def write_unreal(source: Source, sink: Sink) -> None:
    """`T_Name_BC`, `_N` (DirectX), `_ORM` (occlusion, roughness, metallic; untick sRGB) and `_H`, Epic's suffixes."""
    start = f"T_{source.name}"
    sink.image(f"{start}_BC.png", source.pixels("basecolor"), colour="srgb", holds="basecolor")
    sink.image(f"{start}_N.png", source.pixels("normal_dx"), colour="linear", holds="normal", convention="directx")
    sink.image(f"{start}_ORM.png", source.pixels(*_ORM), colour="linear", holds=_ORM)
    sink.image(f"{start}_H.png", source.pixels("height", bits=16), colour="linear", holds="height",
               depth_m=source.material.depth_m)  # fmt: skip


def write_unity(source: Source, sink: Sink) -> None:
    """Base, normal, mask and height maps for HDRP's and URP's Lit shaders, each with its import settings (.meta).

    The mask map is linear: metallic, occlusion, detail mask (1: everywhere) and smoothness in red, green, blue, alpha.
    In URP it serves both as metallic map (red, alpha) and as occlusion map (green).
    """
    start = source.name
    maps = [
        sink.image(f"{start}_BaseMap.png", source.pixels("basecolor"), colour="srgb", holds="basecolor"),
        sink.image(f"{start}_Normal.png", source.pixels("normal"), colour="linear", holds="normal",
                   convention="opengl"),
        sink.image(f"{start}_MaskMap.png", source.pixels("metallic", "ao", "one", "smoothness"), colour="linear",
                   holds=["metallic", "ao", "detail mask", "smoothness"]),
        sink.image(f"{start}_Height.png", source.pixels("height", bits=16), colour="linear", holds="height",
                   depth_m=source.material.depth_m),
    ]  # fmt: skip
    wrap = {axis: 0 if axis in source.material.seamless else 1 for axis in "xy"}
    for path in maps:
        srgb, kind = int(path.stem.endswith("BaseMap")), int(path.stem.endswith("Normal"))
        identity = hashlib.md5(f"zellige {path.name}".encode(), usedforsecurity=False).hexdigest()
        lines = [
            "fileFormatVersion: 2",
            f"guid: {identity}",
            "TextureImporter:",
            "  serializedVersion: 11",
            "  mipmaps:",
            "    enableMipMap: 1",
            f"    sRGBTexture: {srgb}",
            "  textureSettings:",
            "    serializedVersion: 2",
            f"    wrapU: {wrap['x']}",
            f"    wrapV: {wrap['y']}",
            "    wrapW: 0",
            "  alphaIsTransparency: 0",
            f"  textureType: {kind}",
            "  textureShape: 1",
        ]
        sink.write(f"{path.name}.meta", "\n".join(lines) + "\n", holds="import settings")


def write_godot(source: Source, sink: Sink) -> None:
    """`name.tres`, an ORMMaterial3D of Godot 4, and its textures. Parallax is set up, and switched off."""
    start = source.name.lower()
    material = source.material
    files = [
        sink.image(f"{start}_albedo.png", source.pixels("basecolor"), colour="srgb", holds="basecolor"),
        sink.image(f"{start}_orm.png", source.pixels(*_ORM), colour="linear", holds=_ORM),
        sink.image(f"{start}_normal.png", source.pixels("normal"), colour="linear", holds="normal",
                   convention="opengl"),
        sink.image(f"{start}_height.png", source.pixels("height", bits=16), colour="linear", holds="height",
                   depth_m=material.depth_m),
    ]  # fmt: skip
    links = [f'[ext_resource type="Texture2D" path="{path.name}" id="{i}"]' for i, path in enumerate(files, 1)]
    # parallax depth is in hundredths of the texture's width; a path without res:// is beside this file
    scale = 100 * material.depth_m / material.size_m[0]
    lines = [
        f'[gd_resource type="ORMMaterial3D" load_steps={len(files) + 1} format=3]',
        "",
        *links,
        "",
        "[resource]",
        f'resource_name = "{source.name}"',
        'albedo_texture = ExtResource("1")',
        'orm_texture = ExtResource("2")',
        "normal_enabled = true",
        'normal_texture = ExtResource("3")',
        "heightmap_enabled = false",
        f"heightmap_scale = {scale:.6g}",
        'heightmap_texture = ExtResource("4")',
        "texture_filter = 5",
        f"texture_repeat = {'true' if material.seamless == 'xy' else 'false'}",
        f"metadata/size_m = Vector2({material.size_m[0]!r}, {material.size_m[1]!r})",
        f"metadata/depth_m = {float(material.depth_m)!r}",
    ]
    sink.write(f"{start}.tres", "\n".join(lines) + "\n", holds="material")
