"""Any-size diffusion: sizes, seamless convolutions, tiles and canvases. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asd.errors import CheckpointError, OutputError, SizeError, ZelligeError
    from asd.exact_vae import ExactTiledVAE
    from asd.pipeline import AnySizePipeline
    from asd.sampling import denoise
    from asd.seamless import Seamless
    from asd.tiles import TilePlan
    from asd.upscaling import upscale

__all__ = [
    "AnySizePipeline", "CheckpointError", "ExactTiledVAE", "OutputError", "Seamless", "SizeError", "TilePlan",
    "ZelligeError", "denoise", "upscale",
]  # fmt: skip

_HOMES = {
    "AnySizePipeline": "asd.pipeline",
    "CheckpointError": "asd.errors",
    "ExactTiledVAE": "asd.exact_vae",
    "OutputError": "asd.errors",
    "Seamless": "asd.seamless",
    "SizeError": "asd.errors",
    "TilePlan": "asd.tiles",
    "ZelligeError": "asd.errors",
    "denoise": "asd.sampling",
    "upscale": "asd.upscaling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
