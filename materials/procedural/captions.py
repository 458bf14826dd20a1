"""Captions as a user would prompt, made from the parameters of a material."""

from __future__ import annotations

import random
from collections.abc import Sequence


def compose(
    seed: int,
    nouns: Sequence[str],
    colour: str = "",
    states: Sequence[str] = (),
    details: Sequence[str] = (),
) -> str:
    """One caption of about 3 to 12 words: a noun, its colour, states ("mossy", "worn") and details ("with dark grout").

    The order of words and the synonym are chosen by `seed`. Every non-empty state is kept; details may be dropped,
    except those starting with "!".
    """
    rng = random.Random(seed)
    noun = rng.choice(list(nouns))
    kept = [s for s in states if s]
    rng.shuffle(kept)
    extra = [d.lstrip("!") for d in details if d and (d.startswith("!") or rng.random() < 0.7)]
    rng.shuffle(extra)
    front = " ".join(kept)
    tail = ", ".join(extra)
    style = rng.randrange(5)
    if style == 0 and kept:
        text = f"{colour} {noun}, {', '.join(kept)}"
    elif style == 1 and kept and colour:
        text = f"{colour} {front} {noun}"
    elif style == 2 and colour:
        text = f"{front} {noun} in {colour}"
    elif style == 3 and kept:
        text = f"{noun}, {colour + ', ' if colour else ''}{', '.join(kept)}"
    else:
        text = f"{front} {colour} {noun}"
    joined = f"{text}, {tail}" if tail and not tail.startswith("with") else f"{text} {tail}"
    return " ".join(joined.split())
