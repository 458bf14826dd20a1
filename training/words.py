"""Words of texture captions: real words, file-name abbreviations (`words.csv`), words of the material classes."""

from __future__ import annotations

import csv
from pathlib import Path
from types import MappingProxyType

CLASS_WORDS = MappingProxyType(
    {
        "brick": ("brick", "bricks", "brick wall"),
        "concrete/plaster": ("concrete", "plaster", "concrete wall"),
        "dirt/mud/ground": ("dirt", "ground", "mud"),
        "floor/wall (other)": ("floor or wall", "wall", "floor"),
        "grass/plants": ("grass", "plants"),
        "gravel/pebbles": ("gravel", "pebbles"),
        "lava/water": ("lava or water", "water", "lava"),
        "metal/tech": ("metal", "metal panel", "metal plate"),
        "other": ("texture", "surface"),
        "paving/cobble": ("paving stones", "cobblestone", "paving"),
        "rock/stone": ("rock", "stone", "rocks"),
        "roof": ("roof", "roof tiles"),
        "sand/desert": ("sand", "desert sand"),
        "snow/ice": ("snow", "ice"),
        "tile": ("tiles", "tile", "tiled floor"),
        "wallpaper/fabric": ("fabric", "wallpaper", "cloth"),
        "wood": ("wood", "planks", "wooden boards"),
    }
)

COLOUR_NAMES = frozenset(
    {"aqua", "beige", "black", "blue", "brown", "gold", "golden", "gray", "green", "grey", "olive"}
    | {"orange", "pink", "purple", "red", "tan", "teal", "white", "yellow"}
)


def _load() -> tuple[frozenset[str], MappingProxyType[str, str]]:
    with (Path(__file__).parent / "words.csv").open(encoding="utf-8", newline="") as handle:
        rows = [(row["word"], row["meaning"]) for row in csv.DictReader(handle)]
    known = frozenset(word for word, meaning in rows if not meaning)
    return known, MappingProxyType({word: meaning for word, meaning in rows if meaning})


KNOWN_WORDS, ABBREVIATIONS = _load()
