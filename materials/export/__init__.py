"""Packs of a material for other programs. Names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from materials.export.targets import TARGETS

if TYPE_CHECKING:
    from materials.export.pack import export_material

__all__ = ["TARGETS", "export_material"]


def __getattr__(name: str) -> Any:
    if name != "export_material":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from materials.export.pack import export_material

    return export_material
