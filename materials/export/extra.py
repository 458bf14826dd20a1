"""The optional libraries of the extra `export`, asked for by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from materials.errors import ZelligeError

_PACKAGES = {"pxr": "usd-core", "MaterialX": "materialx"}
_TARGETS = {"usd": "pxr.Usd", "materialx": "MaterialX"}


def library(module: str) -> Any:
    """An optional module, such as "pxr.Usd". Raises ZelligeError, saying how to get it, where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        package = _PACKAGES[module.partition(".")[0]]
        raise ZelligeError(f"Expected the package {package} for this target, but it is not installed: "
                           'pip install "zellige[export]".') from error  # fmt: skip


def check_library(target: str) -> None:
    """Raise ZelligeError where `target` needs a library that is not installed."""
    if target in _TARGETS:
        library(_TARGETS[target])
