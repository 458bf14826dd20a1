"""Folders named and made like those of the two large free libraries, ambientCG and Poly Haven.

Poly Haven: docs.polyhaven.com, technical standards for textures (16 bits for all maps, displacement over 0 to 1).
"""

from __future__ import annotations

from materials.export.sink import Sink
from materials.export.source import Source


def write_ambientcg(source: Source, sink: Sink) -> None:
    """`Name_1K-PNG_Color.png` and so on, with normals of both kinds; displacement is 16 bits."""
    start = f"{source.name}_{source.resolution}-PNG_"
    sink.image(f"{start}Color.png", source.pixels("basecolor"), colour="srgb", holds="basecolor")
    for suffix, name in (("NormalGL", "normal"), ("NormalDX", "normal_dx")):
        convention = "directx" if name == "normal_dx" else "opengl"
        sink.image(f"{start}{suffix}.png", source.pixels(name), colour="linear", holds="normal", convention=convention)
    for suffix, name in (("Roughness", "roughness"), ("Metalness", "metallic"), ("AmbientOcclusion", "ao")):
        sink.image(f"{start}{suffix}.png", source.pixels(name), colour="linear", holds=name)
    depth = source.material.depth_m
    sink.image(f"{start}Displacement.png", source.pixels("height", bits=16), colour="linear", holds="height",
               depth_m=depth)  # fmt: skip


def write_polyhaven(source: Source, sink: Sink) -> None:
    """`name_diff_1k.png` and so on, 16 bits each, with normals of both kinds and occlusion-roughness-metal packed."""
    start, end = source.name.lower(), f"{source.resolution.lower()}.png"
    sink.image(f"{start}_diff_{end}", source.pixels("basecolor", bits=16), colour="srgb", holds="basecolor")
    for suffix, name in (("nor_gl", "normal"), ("nor_dx", "normal_dx")):
        convention = "directx" if name == "normal_dx" else "opengl"
        sink.image(f"{start}_{suffix}_{end}", source.pixels(name, bits=16), colour="linear", holds="normal",
                   convention=convention)  # fmt: skip
    for suffix, name in (("rough", "roughness"), ("metal", "metallic"), ("ao", "ao")):
        sink.image(f"{start}_{suffix}_{end}", source.pixels(name, bits=16), colour="linear", holds=name)
    packed = ["ao", "roughness", "metallic"]
    sink.image(f"{start}_arm_{end}", source.pixels(*packed, bits=16), colour="linear", holds=packed)
    sink.image(f"{start}_disp_{end}", source.pixels("height", bits=16), colour="linear", holds="height",
               depth_m=source.material.depth_m)  # fmt: skip
