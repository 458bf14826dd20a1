"""How well a texture tiles. Names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textile_metric.seam import seam_ratio

__all__ = ["seam_ratio"]


def __getattr__(name: str) -> Any:
    if name != "seam_ratio":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from textile_metric.seam import seam_ratio

    return seam_ratio


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
