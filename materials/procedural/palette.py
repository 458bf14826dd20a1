"""Named colours and natural ranges (sRGB), so that a caption can name the true colour."""

from __future__ import annotations

NAMED: dict[str, tuple[float, float, float]] = {
    "white": (0.86, 0.86, 0.84),
    "black": (0.10, 0.10, 0.11),
    "grey": (0.50, 0.50, 0.50),
    "dark grey": (0.27, 0.27, 0.28),
    "light grey": (0.70, 0.70, 0.70),
    "brown": (0.42, 0.28, 0.17),
    "dark brown": (0.25, 0.16, 0.10),
    "beige": (0.77, 0.69, 0.55),
    "cream": (0.88, 0.82, 0.67),
    "red": (0.66, 0.14, 0.12),
    "orange": (0.82, 0.43, 0.12),
    "yellow": (0.84, 0.69, 0.17),
    "green": (0.22, 0.48, 0.21),
    "olive": (0.40, 0.41, 0.19),
    "teal": (0.11, 0.45, 0.45),
    "turquoise": (0.25, 0.66, 0.65),
    "blue": (0.15, 0.29, 0.62),
    "light blue": (0.52, 0.69, 0.83),
    "navy": (0.10, 0.14, 0.30),
    "purple": (0.40, 0.20, 0.53),
    "pink": (0.84, 0.54, 0.61),
}
"""Colours a prompt may ask for: sRGB in [0, 1]."""

Range = list[tuple[str, tuple[float, float, float]]]

BRICK: Range = [
    ("red", (0.56, 0.24, 0.17)),
    ("dark red", (0.43, 0.18, 0.14)),
    ("orange", (0.68, 0.38, 0.23)),
    ("brown", (0.45, 0.30, 0.22)),
    ("yellow", (0.74, 0.60, 0.38)),
    ("grey", (0.50, 0.47, 0.44)),
    ("beige", (0.71, 0.61, 0.49)),
]
STONE: Range = [
    ("grey", (0.48, 0.47, 0.45)),
    ("dark grey", (0.31, 0.31, 0.31)),
    ("light grey", (0.65, 0.64, 0.61)),
    ("beige", (0.67, 0.59, 0.47)),
    ("brown", (0.43, 0.35, 0.27)),
    ("blue-grey", (0.38, 0.43, 0.48)),
    ("sandstone", (0.72, 0.57, 0.40)),
]
CLAY: Range = [
    ("terracotta", (0.67, 0.36, 0.24)),
    ("red", (0.56, 0.23, 0.16)),
    ("orange", (0.73, 0.42, 0.24)),
    ("brown", (0.43, 0.28, 0.21)),
]
SLATE: Range = [
    ("dark grey", (0.27, 0.28, 0.30)),
    ("grey", (0.42, 0.43, 0.45)),
    ("blue-grey", (0.33, 0.38, 0.44)),
    ("black", (0.16, 0.16, 0.18)),
]
WOOD: Range = [
    ("brown", (0.48, 0.32, 0.19)),
    ("dark brown", (0.30, 0.19, 0.12)),
    ("light brown", (0.65, 0.48, 0.31)),
    ("pale", (0.77, 0.63, 0.45)),
    ("reddish brown", (0.47, 0.24, 0.15)),
    ("golden brown", (0.66, 0.44, 0.22)),
    ("grey", (0.50, 0.47, 0.43)),
]
METAL: Range = [
    ("steel", (0.56, 0.57, 0.58)),
    ("dark steel", (0.34, 0.35, 0.37)),
    ("aluminium", (0.74, 0.75, 0.76)),
    ("copper", (0.80, 0.50, 0.36)),
    ("brass", (0.79, 0.66, 0.38)),
    ("bronze", (0.52, 0.40, 0.27)),
    ("gold", (0.88, 0.70, 0.34)),
]
CONCRETE: Range = [
    ("grey", (0.55, 0.54, 0.52)),
    ("light grey", (0.67, 0.66, 0.64)),
    ("dark grey", (0.37, 0.37, 0.36)),
    ("beige", (0.68, 0.62, 0.53)),
]
GROUT: Range = [
    ("grey", (0.52, 0.51, 0.49)),
    ("light", (0.72, 0.70, 0.66)),
    ("dark", (0.22, 0.21, 0.20)),
    ("white", (0.84, 0.83, 0.80)),
    ("brown", (0.44, 0.36, 0.28)),
]
SOIL: Range = [
    ("brown", (0.35, 0.26, 0.18)),
    ("dark brown", (0.22, 0.16, 0.11)),
    ("reddish brown", (0.45, 0.27, 0.18)),
    ("sandy", (0.66, 0.55, 0.40)),
    ("grey", (0.42, 0.40, 0.37)),
]
