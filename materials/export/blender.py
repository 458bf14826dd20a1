"""Blender: maps named so that Node Wrangler finds each (Ctrl+Shift+T), and a script that builds the material itself."""

from __future__ import annotations

from materials.export.sink import Sink
from materials.export.source import Source

_SCRIPT = '''"""Builds the material {name!r} from the maps beside this file. Blender: Scripting, Open, Run Script."""

import os

import bpy

NAME = {name!r}
SIZE_M = {size!r}  # width and height of one tile in metres
DEPTH_M = {depth!r}  # metres between black and white of the height map
EXTENSION = {extension!r}


def folder():
    text = getattr(getattr(bpy.context, "space_data", None), "text", None)
    path = text.filepath if text is not None and text.filepath else __file__
    return os.path.dirname(bpy.path.abspath(path))


def build():
    material = bpy.data.materials.new(NAME)
    if material.node_tree is None:
        material.use_nodes = True
    material["size_m"], material["depth_m"] = SIZE_M, DEPTH_M
    # the normal map bends the shading; displacement moves vertices alone, or the relief would be counted twice
    if hasattr(material, "displacement_method"):
        material.displacement_method = "DISPLACEMENT"
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    output = nodes.new("ShaderNodeOutputMaterial")
    shader = nodes.new("ShaderNodeBsdfPrincipled")
    output.location, shader.location = (600, 0), (250, 0)
    links.new(shader.outputs["BSDF"], output.inputs["Surface"])
    coordinates, mapping = nodes.new("ShaderNodeTexCoord"), nodes.new("ShaderNodeMapping")
    coordinates.location, mapping.location = (-1050, 0), (-850, 0)
    links.new(coordinates.outputs["UV"], mapping.inputs["Vector"])

    def texture(kind, row, colour=False):
        node = nodes.new("ShaderNodeTexImage")
        node.location, node.label = (-550, 400 - 300 * row), kind
        node.image = bpy.data.images.load(os.path.join(folder(), NAME + "_" + kind + ".png"), check_existing=True)
        node.image.colorspace_settings.name = "sRGB" if colour else "Non-Color"
        node.extension = EXTENSION
        links.new(mapping.outputs["Vector"], node.inputs["Vector"])
        return node.outputs["Color"]

    links.new(texture("basecolor", 0, True), shader.inputs["Base Color"])
    links.new(texture("metallic", 1), shader.inputs["Metallic"])
    links.new(texture("roughness", 2), shader.inputs["Roughness"])
    normal = nodes.new("ShaderNodeNormalMap")
    normal.location = (-200, -450)
    links.new(texture("normal", 3), normal.inputs["Color"])
    links.new(normal.outputs["Normal"], shader.inputs["Normal"])
    relief = nodes.new("ShaderNodeDisplacement")
    relief.location = (250, -700)
    relief.inputs["Scale"].default_value, relief.inputs["Midlevel"].default_value = DEPTH_M, 0.5
    links.new(texture("height", 4), relief.inputs["Height"])
    links.new(relief.outputs["Displacement"], output.inputs["Displacement"])
    return material


if __name__ == "__main__":
    MATERIAL = build()
    if bpy.context.object is not None and bpy.context.object.type == "MESH":
        bpy.context.object.data.materials.append(MATERIAL)
'''


def write_blender(source: Source, sink: Sink) -> None:
    """`Name_basecolor.png` and so on (normal and height 16 bits, OpenGL), and `Name.py`."""
    name, material = source.name, source.material
    sink.image(f"{name}_basecolor.png", source.pixels("basecolor"), colour="srgb", holds="basecolor")
    for kind in ("roughness", "metallic", "ao"):
        sink.image(f"{name}_{kind}.png", source.pixels(kind), colour="linear", holds=kind)
    sink.image(f"{name}_normal.png", source.pixels("normal", bits=16), colour="linear", holds="normal",
               convention="opengl")  # fmt: skip
    sink.image(f"{name}_height.png", source.pixels("height", bits=16), colour="linear", holds="height",
               depth_m=material.depth_m)  # fmt: skip
    script = _SCRIPT.format(
        name=name,
        size=tuple(float(v) for v in material.size_m),
        depth=float(material.depth_m),
        extension="REPEAT" if material.seamless == "xy" else "EXTEND",
    )
    sink.write(f"{name}.py", script, holds="material")
