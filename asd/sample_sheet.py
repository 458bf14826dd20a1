"""A sheet of pictures: a few captions of a training at three ratios."""

from __future__ import annotations

from pathlib import Path

import torch

from .canvas_file import replacing
from .latent_set import LatentSet
from .seamless import SeamlessAxes
from .tunable import Tunable

ROWS = 4
GAP = 8


def write_sheet(path: Path, model: Tunable, latents: LatentSet, seamless: SeamlessAxes, seed: int) -> Path:
    """Paint up to `ROWS` captions, evenly spread, at the narrowest, the squarest and the widest size; a PNG.

    Raises OutputError where the file cannot be written.
    """
    from PIL import Image

    captions = sorted({sample.caption for samples, _ in latents.groups.values() for sample in samples})
    chosen = captions[:: max(1, -(-len(captions) // ROWS))][:ROWS]
    sizes = sorted({kind.size for kind in latents.kinds}, key=lambda size: size.width / size.height)
    square = min(sizes, key=lambda size: (abs(size.width - size.height), -size.width))
    columns = list(dict.fromkeys((sizes[0], square, sizes[-1])))
    wide, high = sum(size.width + GAP for size in columns), max(size.height for size in columns) + GAP
    sheet = torch.ones(3, high * len(chosen), wide)
    for row, caption in enumerate(chosen):
        left = 0
        for size in columns:
            picture = model.paint(caption, size, seamless, seed + row)
            sheet[:, row * high : row * high + size.height, left : left + size.width] = picture
            left += size.width + GAP
    pixels = (sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    with replacing(path) as beside:
        Image.fromarray(pixels).save(beside, format="PNG")
    return path
