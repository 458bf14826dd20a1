"""USD: a plane of the tile's size with a UsdPreviewSurface, as .usda with files and as one .usdz. Needs usd-core.

UsdPreviewSurface specification, Pixar (2.6): data textures are raw, normals are scaled by 2 and shifted by -1, and
displacement is in scene units, here metres.
"""

from __future__ import annotations

from typing import Any

from materials.export.archive import write_usdz
from materials.export.extra import library
from materials.export.sink import Sink, described
from materials.export.source import Source


def write_usd(source: Source, sink: Sink) -> None:
    """`Name.usda`, its textures, and `Name.usdz`."""
    name = source.name
    packed = ["ao", "roughness", "metallic"]
    textures = [
        sink.image(f"{name}_basecolor.png", source.pixels("basecolor"), colour="srgb", holds="basecolor"),
        sink.image(f"{name}_orm.png", source.pixels(*packed), colour="linear", holds=packed),
        sink.image(f"{name}_normal.png", source.pixels("normal"), colour="linear", holds="normal", convention="opengl"),
        sink.image(f"{name}_height.png", source.pixels("height", bits=16), colour="linear", holds="height",
                   depth_m=source.material.depth_m),
    ]  # fmt: skip
    scene = sink.write(f"{name}.usda", _scene(source), holds="scene")
    write_usdz(sink.folder / f"{name}.usdz", [scene, *textures])
    sink.adopt(f"{name}.usdz", holds="scene")


def _scene(source: Source) -> str:
    Gf, Sdf, Usd, UsdGeom, UsdShade, Vt = (
        library(f"pxr.{name}") for name in ("Gf", "Sdf", "Usd", "UsdGeom", "UsdShade", "Vt")
    )

    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, f"/{source.name}")
    stage.SetDefaultPrim(root.GetPrim())
    root.GetPrim().SetCustomDataByKey("zellige", _plain(described(source)))
    width, height = source.material.size_m
    x, y = width / 2, height / 2
    mesh = UsdGeom.Mesh.Define(stage, f"/{source.name}/Plane")
    mesh.CreatePointsAttr([Gf.Vec3f(*p) for p in ((-x, -y, 0), (x, -y, 0), (x, y, 0), (-x, y, 0))])
    mesh.CreateFaceVertexCountsAttr([4])
    mesh.CreateFaceVertexIndicesAttr([0, 1, 2, 3])
    mesh.CreateNormalsAttr([Gf.Vec3f(0, 0, 1)] * 4)
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateExtentAttr([Gf.Vec3f(-x, -y, 0), Gf.Vec3f(x, y, 0)])
    types = Sdf.ValueTypeNames
    st = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar("st", types.TexCoord2fArray, UsdGeom.Tokens.vertex)
    # (0, 0) is the lower left of the image, unlike glTF
    st.Set(Vt.Vec2fArray([Gf.Vec2f(*p) for p in ((0, 0), (1, 0), (1, 1), (0, 1))]))

    path = f"/{source.name}/Material"
    material = UsdShade.Material.Define(stage, path)
    surface = UsdShade.Shader.Define(stage, f"{path}/Surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    reader = UsdShade.Shader.Define(stage, f"{path}/Coordinates")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", types.String).Set("st")
    at = reader.CreateOutput("result", types.Float2)

    def texture(kind: str, *, space: str, scale: tuple[float, ...] = (), bias: tuple[float, ...] = ()) -> Any:
        shader = UsdShade.Shader.Define(stage, f"{path}/{kind.capitalize()}")
        shader.CreateIdAttr("UsdUVTexture")
        shader.CreateInput("file", types.Asset).Set(Sdf.AssetPath(f"./{source.name}_{kind}.png"))
        shader.CreateInput("st", types.Float2).ConnectToSource(at)
        shader.CreateInput("sourceColorSpace", types.Token).Set(space)
        for name, axis in (("wrapS", "x"), ("wrapT", "y")):
            shader.CreateInput(name, types.Token).Set("repeat" if axis in source.material.seamless else "clamp")
        if scale:
            shader.CreateInput("scale", types.Float4).Set(Gf.Vec4f(*scale))
        if bias:
            shader.CreateInput("bias", types.Float4).Set(Gf.Vec4f(*bias))
        return shader

    def connect(name: str, kind: Any, shader: Any, channel: str) -> None:
        form = types.Float3 if channel == "rgb" else types.Float
        surface.CreateInput(name, kind).ConnectToSource(shader.CreateOutput(channel, form))

    surface.CreateInput("useSpecularWorkflow", types.Int).Set(0)
    connect("diffuseColor", types.Color3f, texture("basecolor", space="sRGB"), "rgb")
    orm = texture("orm", space="raw")
    connect("occlusion", types.Float, orm, "r")
    connect("roughness", types.Float, orm, "g")
    connect("metallic", types.Float, orm, "b")
    normal = texture("normal", space="raw", scale=(2, 2, 2, 1), bias=(-1, -1, -1, 0))
    connect("normal", types.Normal3f, normal, "rgb")
    depth = source.material.depth_m
    connect("displacement", types.Float, texture("height", space="raw", scale=(depth, depth, depth, 1)), "r")
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", types.Token))
    material.CreateDisplacementOutput().ConnectToSource(surface.CreateOutput("displacement", types.Token))
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
    return stage.GetRootLayer().ExportToString()


def _plain(facts: Any) -> dict[str, Any]:
    """Custom data holds vectors, not lists."""
    Gf = library("pxr.Gf")
    return {key: (Gf.Vec2i(*v) if key == "size" else Gf.Vec2d(*v)) if isinstance(v, list) else v
            for key, v in facts.items()}  # fmt: skip
