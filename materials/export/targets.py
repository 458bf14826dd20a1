"""What a material can be exported to: a light module, for `--help`."""

from __future__ import annotations

from collections.abc import Sequence

from materials.errors import ZelligeError

TARGETS = ("gltf", "usd", "materialx", "unreal", "unity", "godot", "blender", "ambientcg", "polyhaven")
"""Every target, in the order in which they are made."""


def parse_targets(targets: str | Sequence[str]) -> tuple[str, ...]:
    """Targets once each, from a sequence or a text such as "gltf,usd" or "all"; ZelligeError for an unknown one."""
    names = targets.split(",") if isinstance(targets, str) else list(targets)
    names = [name.strip().lower() for name in names if name.strip()]
    if names == ["all"]:
        return TARGETS
    if not names:
        raise ZelligeError(f"Expected targets among {', '.join(TARGETS)}, but got none.")
    for name in names:
        if name not in TARGETS:
            raise ZelligeError(f"Expected targets among {', '.join(TARGETS)} (or all), but got {name!r}.")
    return tuple(dict.fromkeys(names))
