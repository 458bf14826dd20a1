"""MaterialX 1.39: one graph of textures for three surfaces, standard_surface, open_pbr_surface and gltf_pbr.

Needs the package materialx. Data textures carry no colour space, as the specification asks; the physical size of the
image is in `tiledimage` (an axis that does not repeat takes `image` with a clamped edge in its place), the depth of the
height in `displacement`.
"""

from __future__ import annotations

from typing import Any

from materials.errors import OutputError
from materials.export.extra import library
from materials.export.sink import Sink
from materials.export.source import Source

_SURFACES = {
    "standard_surface": {"base_color": "base_color", "metalness": "metallic", "specular_roughness": "roughness",
                         "normal": "normal"},
    "open_pbr_surface": {"base_color": "base_color", "base_metalness": "metallic", "specular_roughness": "roughness",
                         "geometry_normal": "normal"},
    "gltf_pbr": {"base_color": "base_color", "metallic": "metallic", "roughness": "roughness", "normal": "normal",
                 "occlusion": "ao"},
}  # fmt: skip
"""Surface node to its inputs and the graph's outputs that feed them."""

_TYPES = {"base_color": "color3", "metallic": "float", "roughness": "float", "normal": "vector3", "ao": "float",
          "height": "float"}  # fmt: skip


def write_materialx(source: Source, sink: Sink) -> None:
    """`Name.mtlx` and its textures: 8 bits, normal and height 16."""
    name = source.name
    sink.image(f"{name}_basecolor.png", source.pixels("basecolor"), colour="srgb", holds="basecolor")
    for kind in ("roughness", "metallic", "ao"):
        sink.image(f"{name}_{kind}.png", source.pixels(kind), colour="linear", holds=kind)
    sink.image(f"{name}_normal.png", source.pixels("normal", bits=16), colour="linear", holds="normal",
               convention="opengl")  # fmt: skip
    sink.image(f"{name}_height.png", source.pixels("height", bits=16), colour="linear", holds="height",
               depth_m=source.material.depth_m)  # fmt: skip
    sink.write(f"{name}.mtlx", _document(source), holds="material")


def _document(source: Source) -> str:
    mx = library("MaterialX")
    document, standard = mx.createDocument(), mx.createDocument()
    mx.loadLibraries(mx.getDefaultDataLibraryFolders(), mx.getDefaultDataSearchPath(), standard)
    document.setDataLibrary(standard)
    document.setColorSpace("lin_rec709")
    graph = document.addNodeGraph(f"NG_{source.name}")
    for kind, form in _TYPES.items():
        file = "basecolor" if kind == "base_color" else kind
        image = _image(source, graph, file, form)
        last = image
        if kind == "normal":
            last = graph.addNode("normalmap", "normal_map", "vector3")
            last.addInput("in", "vector3").setConnectedNode(image)
        graph.addOutput(f"out_{kind}", form).setConnectedNode(last)
    displacement = document.addNode("displacement", f"{source.name}_displacement", "displacementshader")
    _wire(displacement, "displacement", "float", graph, "height")
    displacement.setInputValue("scale", float(source.material.depth_m), "float")
    for surface, inputs in _SURFACES.items():
        shader = document.addNode(surface, f"{source.name}_{surface}", "surfaceshader")
        for name, kind in inputs.items():
            _wire(shader, name, _TYPES[kind], graph, kind)
        if surface == "standard_surface":  # its default of 0.8 would darken what the map says
            shader.setInputValue("base", 1.0, "float")
        material = document.addNode("surfacematerial", f"{source.name}_{surface}_material", "material")
        material.addInput("surfaceshader", "surfaceshader").setConnectedNode(shader)
        material.addInput("displacementshader", "displacementshader").setConnectedNode(displacement)
    valid, message = document.validate()
    if not valid:
        raise OutputError(f"Expected a valid MaterialX document, but its library says: {message}.")
    return mx.writeToXmlString(document)


def _image(source: Source, graph: Any, file: str, form: str) -> Any:
    seamless = source.material.seamless
    node = graph.addNode("tiledimage" if seamless == "xy" else "image", f"image_{file}", form)
    value = node.addInput("file", "filename")
    value.setValueString(f"{source.name}_{file}.png")
    if file == "basecolor":
        value.setColorSpace("srgb_texture")
    if seamless == "xy":
        # their ratio scales the coordinates: 0 to 1 stays one image, and its size in metres is known
        for name in ("realworldimagesize", "realworldtilesize"):
            size = node.addInput(name, "vector2")
            size.setValueString(", ".join(repr(float(v)) for v in source.material.size_m))
            size.setUnit("meter")
            size.setUnitType("distance")
    else:
        for name, axis in (("uaddressmode", "x"), ("vaddressmode", "y")):
            node.setInputValue(name, "periodic" if axis in seamless else "clamp", "string")
    return node


def _wire(node: Any, name: str, form: str, graph: Any, kind: str) -> None:
    wired = node.addInput(name, form)
    wired.setNodeGraphString(graph.getName())
    wired.setOutputString(f"out_{kind}")
