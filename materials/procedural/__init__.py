"""Procedural materials: exactly periodic families with captions, batched in torch."""

from __future__ import annotations

import importlib
import pkgutil

from materials.procedural.core import FAMILIES, Batch, Context, Family, Layers, family, sample

_CORE = {"captions", "core", "fields", "palette", "weather"}
for _module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
    if _module not in _CORE:
        importlib.import_module(f"{__name__}.{_module}")

__all__ = ["FAMILIES", "Batch", "Context", "Family", "Layers", "family", "sample"]
