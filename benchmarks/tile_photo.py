"""Do photos that do not tile do so after `materials.tile_photo`? Crops of validation textures.

    python -m benchmarks.tile_photo --packs DIR [--count N --sheet FILE --json FILE]

Crops of 60 to 90 % of each side that score below one half (`textile_metric.tileability`, xy), evenly spread over the
validation split. Passed: the score is above one half, at least half of the tile's pixels are the photo's in their
place, and the step at every border of what was made anew (mean over the line, luma) is below the 99th percentile of the
photo's own columns or rows. Each of the three is listed; beside them, how many whole textures that tile pass the score,
which is what the score itself can do.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    from torch import Tensor

    from materials.tile_photo import TiledPhoto

SHARE, UNTOUCHED, PERCENTILE = 0.9, 0.5, 99.0


def crops(packs: Path, count: int, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Names and crops (3, h, w) in [0, 1] of the validation split that do not tile."""
    import torch

    from textile_metric import tileability
    from training.pack import Pack

    pack, rng = Pack(packs), random.Random(seed)
    chosen = pack.split("val")
    order = [chosen[round(i)] for i in np.linspace(0, len(chosen) - 1, len(chosen))]
    rng.shuffle(order)
    found = 0
    for i in order:
        if found == count:
            return
        image = torch.from_numpy(pack.load(i, maps=False)["basecolor"].copy()).permute(2, 0, 1).float() / 255
        rows, columns = image.shape[1:]
        height, width = (int(side * rng.uniform(0.6, 0.9)) for side in (rows, columns))
        top, left = rng.randint(0, rows - height), rng.randint(0, columns - width)
        crop = image[:, top : top + height, left : left + width].contiguous()
        if min(height, width) >= 64 and float(tileability(crop)) < 0.5:
            found += 1
            yield pack.row(i)["path"], crop


def border_steps(tiled: TiledPhoto) -> list[tuple[float, float]]:
    """(step, limit) at each border of what was made anew: the cut, and both sides of the overlap.

    A step is the mean over a line of |luma - next luma|; the limit the 99th percentile of the untouched lines' steps.
    """
    out = []
    luma, touched = tiled.image.mean(0), tiled.touched
    for picture, mark, cut in ((luma, touched, tiled.cut_x), (luma.T, touched.T, tiled.cut_y)):
        if cut is None:
            continue
        overlap = int(mark.all(0).sum())
        steps = (picture - picture.roll(1, 1)).abs()
        rows = ~mark[:, overlap:].all(1)
        limit = float(np.percentile(steps[rows][:, overlap + 1 :].mean(0).numpy(), PERCENTILE))
        along = steps.gather(1, cut[:, None])[rows].mean()
        out += [(float(along), limit)] + [(float(steps[rows][:, c].mean()), limit) for c in (0, overlap)]
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="training pack")
    parser.add_argument("--count", type=int, default=100, help="crops (%(default)s)")
    parser.add_argument("--sheet", type=Path, help="write the first 32 tiles, 2x2 each, as a picture")
    add_json(parser)
    args = parser.parse_args()
    import torch
    from tqdm import tqdm

    from materials.tile_photo import tile_photo
    from textile_metric import tileability
    from training.pack import Pack

    rows, tiles = [], []
    for name, crop in tqdm(crops(args.packs, args.count), total=args.count, unit="crop"):
        tiled = tile_photo(crop, "xy")
        steps = border_steps(tiled)
        rows.append({
            "path": name,
            "before": float(tileability(crop)),
            "after": float(tileability(tiled.image)),
            "untouched": tiled.untouched,
            "steps": all(step <= limit for step, limit in steps),
        })  # fmt: skip
        tiles.append(tiled.image)
    pack = Pack(args.packs)
    real = [i for i in pack.split("val") if pack.row(i)["tiles_x"] and pack.row(i)["tiles_y"]]
    real = [real[round(i)] for i in np.linspace(0, len(real) - 1, min(len(real), args.count))]
    images = [torch.from_numpy(pack.load(i, maps=False)["basecolor"].copy()).permute(2, 0, 1) for i in tqdm(real)]
    ceiling = float(np.mean([float(tileability(image)) > 0.5 for image in images]))
    good = [r["after"] > 0.5 and r["steps"] and r["untouched"] >= UNTOUCHED for r in rows]
    figures = [
        Figure(name="crops", value=len(rows)),
        Figure(name="pass all", value=float(np.mean(good)), bar=SHARE, relation=">="),
        Figure(name="pass the score", value=float(np.mean([r["after"] > 0.5 for r in rows]))),
        Figure(name="real tiles that pass the score", value=ceiling),
        Figure(name="score before, mean", value=float(np.mean([r["before"] for r in rows]))),
        Figure(name="score after, mean", value=float(np.mean([r["after"] for r in rows]))),
        Figure(name="pass the steps", value=float(np.mean([r["steps"] for r in rows]))),
        Figure(name="least share untouched", value=min(r["untouched"] for r in rows), bar=UNTOUCHED, relation=">="),
    ]
    if args.sheet is not None:
        _write_sheet(tiles[:32], args.sheet)
    return finish("tile_photo", figures, args.json, {"crops": rows})


def _write_sheet(tiles: list[Tensor], path: Path) -> None:
    from PIL import Image

    side, columns = 256, 8
    sheet = Image.new("RGB", (side * columns, side * -(-len(tiles) // columns)))
    for k, tile in enumerate(tiles):
        twice = (tile.repeat(1, 2, 2).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        sheet.paste(Image.fromarray(twice).resize((side, side)), (k % columns * side, k // columns * side))
    sheet.save(path)


if __name__ == "__main__":
    raise SystemExit(main())
