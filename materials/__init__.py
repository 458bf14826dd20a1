"""Tileable PBR materials: procedural, generated, rendered, saved. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from materials.check import check_material
    from materials.estimate import estimate_maps
    from materials.export import export_material
    from materials.files import load_material, save_material
    from materials.material import Material
    from materials.pipeline import MaterialPipeline
    from materials.rendering import render

__all__ = [
    "Material", "MaterialPipeline", "check_material", "estimate_maps", "export_material", "load_material", "render",
    "save_material",
]  # fmt: skip

_HOMES = {
    "Material": "materials.material",
    "MaterialPipeline": "materials.pipeline",
    "check_material": "materials.check",
    "estimate_maps": "materials.estimate",
    "export_material": "materials.export",
    "load_material": "materials.files",
    "render": "materials.rendering",
    "save_material": "materials.files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
