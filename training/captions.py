"""Training captions of real textures: measured colours, readable words and the variants drawn while training."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .words import ABBREVIATIONS, CLASS_WORDS, COLOUR_NAMES, KNOWN_WORDS

Array = NDArray[Any]
# Colours of one family are shades of each other: a caption names only the strongest.
_FAMILY = {
    "black": "grey", "dark grey": "grey", "grey": "grey", "light grey": "grey", "white": "grey",
    "brown": "brown", "dark brown": "brown", "tan": "beige", "beige": "beige", "red": "red", "dark red": "red",
    "pink": "pink", "orange": "orange", "yellow": "yellow", "olive": "olive", "green": "green", "dark green": "green",
    "teal": "teal", "blue": "blue", "light blue": "blue", "dark blue": "blue", "purple": "purple",
}  # fmt: skip
_NAMES = tuple(_FAMILY)
_DARK_TONE, _BRIGHT_TONE = 28.0, 78.0


def srgb_to_lab(rgb: Array) -> NDArray[np.float64]:
    """CIELAB (..., 3), D65, of sRGB-encoded (..., 3) in [0, 255] (CIE 15:2004; IEC 61966-2-1)."""
    encoded = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def name_colours(lab: Array) -> NDArray[np.intp]:
    """Index into the colour names of every CIELAB colour (..., 3)."""
    light = lab[..., 0]
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    # The eye takes more chroma for grey in bright colours than in dark ones.
    # A faint green or olive cast still looks grey where a warm one does not.
    greenish = (hue >= 95) & (hue < 165)
    grey = (chroma < 4.5 + 0.08 * light + 3 * greenish) | (light < 7)
    warm = (hue >= 20) & (hue < 95)
    rules: list[tuple[Array, str]] = [
        (grey & (light < 14), "black"),
        (grey & (light < 36), "dark grey"),
        (grey & (light < 64), "grey"),
        (grey & (light < 85), "light grey"),
        (grey, "white"),
        (warm & (hue < 40) & (chroma >= 20) & (light < 28), "dark red"),
        (warm & (hue < 40) & (chroma >= 18) & (light < 60), "red"),
        (warm & (hue < 54) & (chroma >= 32) & (light < 58), "red"),
        (warm & (hue < 45) & (light >= 62), "pink"),
        (warm & (hue < 80) & (chroma >= 52) & (light >= 50), "orange"),
        (warm & (hue >= 75) & (chroma >= 42) & (light >= 58), "yellow"),
        (warm & (light < 26), "dark brown"),
        (warm & (light < 56), "brown"),
        (warm & (light < 72), "tan"),
        (warm, "beige"),
        ((hue >= 95) & (hue < 112) & (chroma >= 35) & (light >= 60), "yellow"),
        ((hue >= 95) & (hue < 104) & (chroma < 35) & (light >= 66), "beige"),
        ((hue >= 95) & (hue < 112) & (chroma < 18) & (light >= 58), "beige"),
        ((hue >= 95) & (hue < 114) & (light < 68), "olive"),
        ((hue >= 95) & (hue < 165) & (light < 24), "dark green"),
        ((hue >= 95) & (hue < 165), "green"),
        ((hue >= 165) & (hue < 222), "teal"),
        ((hue >= 222) & (hue < 308) & (light >= 64), "light blue"),
        ((hue >= 222) & (hue < 308) & (light < 22), "dark blue"),
        ((hue >= 222) & (hue < 308), "blue"),
        (((hue >= 308) & (hue < 335)) & (light < 66), "purple"),
        (((hue >= 335) | (hue < 20)) & (light >= 58), "pink"),
        (((hue >= 335) | (hue < 20)) & (light < 26), "dark red"),
        (((hue >= 345) | (hue < 20)) & (light < 58), "red"),
        ((hue >= 308) & (light >= 66), "pink"),
    ]
    names = [_NAMES.index(name) for _, name in rules]
    return np.select([test for test, _ in rules], names, default=_NAMES.index("purple"))


def _shrunk(rgb: Array, side: int = 128) -> Array:
    image = Image.fromarray(np.ascontiguousarray(np.asarray(rgb, dtype=np.uint8)))
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


def colour_words(rgb: Array) -> list[str]:
    """One or two dominant colours of an sRGB image (H, W, 3) uint8, the strongest first.

    Colours are measured in CIELAB on the image scaled to 128x128; a second word needs a quarter of the area and
    another hue.
    Raises ValueError for another shape.
    """
    if np.ndim(rgb) != 3 or np.shape(rgb)[2] != 3:
        raise ValueError(f"Expected an image of shape (H, W, 3), but got {np.shape(rgb)}")
    counts = np.bincount(name_colours(srgb_to_lab(_shrunk(rgb))).ravel(), minlength=len(_NAMES))
    share = counts / counts.sum()
    families: dict[str, float] = {}
    for name, part in zip(_NAMES, share, strict=True):
        families[_FAMILY[name]] = families.get(_FAMILY[name], 0.0) + float(part)
    ranked = sorted(families, key=lambda family: -families[family])
    words = []
    for family in ranked[:2]:
        if words and families[family] < 0.25:
            break
        words.append(max((n for n in _NAMES if _FAMILY[n] == family), key=lambda n: share[_NAMES.index(n)]))
    return words


def tone_words(rgb: Array) -> list[str]:
    """["dark"] or ["bright"] where the mean CIELAB lightness is below 28 or above 78, else []."""
    light = float(srgb_to_lab(_shrunk(rgb))[..., 0].mean())
    return ["dark"] if light < _DARK_TONE else ["bright"] if light > _BRIGHT_TONE else []


@lru_cache(maxsize=8192)
def split_word(word: str) -> tuple[str, ...]:
    """The known words that a file-name word consists of, abbreviations spelled out; () for a meaningless code.

    >>> split_word("bluemetalsupport")
    ('blue', 'metal', 'support')
    >>> split_word("xqz")
    ()
    """
    best: list[tuple[int, tuple[str, ...]] | None] = [None] * (len(word) + 1)
    best[0] = (0, ())
    for end in range(1, len(word) + 1):
        for start in range(end):
            head, part = best[start], word[start:end]
            alone = len(part) == len(word)
            known = part in KNOWN_WORDS and (alone or len(part) >= 3)
            spelled = ABBREVIATIONS.get(part) if alone or len(part) >= 3 else None
            if head is None or not (known or spelled):
                continue
            candidate = (head[0] + 1, (*head[1], part if known else str(spelled)))
            current = best[end]
            if current is None or candidate[0] < current[0]:
                best[end] = candidate
    last = best[len(word)]
    return last[1] if last is not None else ()


def class_word(name: str, rng: random.Random | None = None) -> str:
    """A word for a material class; the first one without rng. Raises ValueError for an unknown class."""
    if name not in CLASS_WORDS:
        raise ValueError(f"Expected one of {len(CLASS_WORDS)} material classes, but got {name!r}")
    words = CLASS_WORDS[name]
    return rng.choice(words) if rng is not None else words[0]


def clean_caption(row: Mapping[str, Any]) -> str:
    """The real words of row["caption"], with the class word of row["class"] where the caption lacks one."""
    words: list[str] = []
    for token in re.findall(r"[a-z]+", str(row["caption"]).lower()):
        for word in " ".join(split_word(token)).split():
            if word not in words:
                words.append(word)
    options = CLASS_WORDS.get(str(row["class"]), ())
    present = set(words) | {w.removesuffix("s") for w in words}
    if options and not any(set(option.split()) <= present for option in options):
        words.append(options[0])
    return " ".join(words) or str(row["caption"]).strip() or "texture"


def prompt_caption(row: Mapping[str, Any]) -> str:
    """The caption as an evaluation prompt writes it: raw, then ", " and the class word unless the caption has one."""
    raw, options = str(row["caption"]).strip(), CLASS_WORDS.get(str(row["class"]), ())
    if not raw or not options or any(part in raw for part in options[0].split() if part != "or"):
        return raw or (options[0] if options else "texture")
    return f"{raw}, {options[0]}"


def caption_variants(row: Mapping[str, Any], colours: Sequence[str], rng: random.Random) -> str:
    """One training caption.

    35 % the raw caption (half of them in the evaluation's style, with the class word), 35 % cleaned words behind the
    measured colours, 20 % class word with colours, 10 % class word alone. row: caption, class and optionally tone
    (`tone_words`), which is put in front of a third of the coloured captions.
    """
    draw = rng.random()
    raw = str(row["caption"]).strip()
    known = str(row["class"]) in CLASS_WORDS
    if (draw < 0.35 and raw) or not known:
        return prompt_caption(row) if rng.random() < 0.5 else raw or "texture"
    name = class_word(str(row["class"]), rng)
    if draw >= 0.9:
        return name
    body = clean_caption(row) if draw < 0.7 else name
    # Colour words that only come from the file name may contradict the measured ones.
    words = [w for w in body.split() if w not in COLOUR_NAMES] if colours else body.split()
    picked = list(colours) if rng.random() < 0.6 else list(colours[:1])
    front = " and ".join(picked)
    tone = list(row.get("tone") or [])
    if tone and rng.random() < 1 / 3 and not any(tone[0] in c or c in ("black", "white") for c in picked):
        front = f"{tone[0]} {front}".strip()
    return " ".join([front, *(words or [name])]).strip()
