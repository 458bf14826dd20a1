"""How well a texture tiles: a score, a seam map, a loss. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textile_metric.loss import TileabilityLoss
    from textile_metric.metric import Tileability
    from textile_metric.official import load_official
    from textile_metric.score import seam_map, tileability
    from textile_metric.seam import seam_ratio

__all__ = ["Tileability", "TileabilityLoss", "load_official", "seam_map", "seam_ratio", "tileability"]

_HOMES = {
    "Tileability": "metric",
    "TileabilityLoss": "loss",
    "load_official": "official",
    "seam_map": "score",
    "seam_ratio": "seam",
    "tileability": "score",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"textile_metric.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
