"""Are textures at 1:4 to 4:1, or at any odd size, as good as square ones, and do wide ones repeat at the trained size?

    python -m benchmarks.ratios --prompts PROMPTS.csv --out DIR [--lora OUT --side N --count N --scale S --device NAME]
    python -m benchmarks.ratios --prompts PROMPTS.csv --out DIR --packs DIR --report generator_report.py [--json FILE]

Paints `count` prompts, evenly spread, at each ratio and one area, seed = row; what is already in DIR stays. With
`--packs` and `--report` (whose feature network and kid are used) native square crops are measured, as large as the
shortest side of all, four of each picture: kid to crops of the validation textures at the same texel scale, and its
ratio to that of 1:1; bar: 1.25. Then the repeat: on pictures at least two trained sides long, the autocorrelation of
the luminance along that axis at the trained side, less the median at the lags around it; bar: 0.05 in the mean.

`--odd N` adds N pictures of sizes with odd sides, at ratios from 1:8 to 8:1 and 128 to 1,600 pixels a side, each of
another prompt: whether the pixels are exact, and their kid, of all crops together, over that at 1:1.
"""

from __future__ import annotations

import argparse
import math
import random
import runpy
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.generator import read_rows
from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATIOS = ("1:4", "1:2", "1:1", "2:1", "4:1")
TRAINED = 256
MULTIPLE = 32
CROPS = 4
WITHIN = 1.25
REPEAT = 0.05
AROUND = 64
"""Lags either side of the trained side that it is compared with, but for those nearer than `NEAR`."""
NEAR = 8
ODD = "odd"
"""What --odd's pictures are called among the ratios."""
ODD_SIDES = (128, 1600)
WIDEST = 8


@dataclass(frozen=True)
class Wanted:
    """A picture: where it goes, among which it counts, (width, height), seed and prompt."""

    path: Path
    ratio: str
    size: tuple[int, int]
    seed: int
    prompt: str


def size_of(ratio: str, side: int) -> tuple[int, int]:
    """(width, height) of a ratio at the area of a square, both multiples of 32.

    >>> size_of("4:1", 256), size_of("1:2", 256)
    ((512, 128), (192, 352))
    """
    width, height = (float(part) for part in ratio.split(":"))
    wide = side * math.sqrt(width / height)
    return max(MULTIPLE, MULTIPLE * round(wide / MULTIPLE)), max(MULTIPLE, MULTIPLE * round(side**2 / wide / MULTIPLE))


def odd_sizes(count: int, side: int, seed: int = 0) -> list[tuple[int, int]]:
    """`count` sizes (width, height) with odd sides, of the area of a square of `side` within a factor of two.

    >>> odd_sizes(2, 256)
    [(555, 191), (147, 399)]
    """
    rng, made = random.Random(seed), []
    while len(made) < count:
        area, ratio = side**2 * 2 ** rng.uniform(-1, 1), WIDEST ** rng.uniform(-1, 1)
        width, height = (2 * int(math.sqrt(area * r) / 2) + 1 for r in (ratio, 1 / ratio))
        if ODD_SIDES[0] <= min(width, height) and max(width, height) <= ODD_SIDES[1]:
            made.append((width, height))
    return made


def wanted_of(args: argparse.Namespace, rows: Sequence[Mapping[str, str]]) -> list[Wanted]:
    """Every picture: of each ratio for each row, and the odd ones."""
    made = [
        Wanted(args.out / ratio.replace(":", "x") / f"{i:04d}.png", ratio, size_of(ratio, args.side), i, row["prompt"])
        for ratio in args.ratios
        for i, row in enumerate(rows)
    ]
    prompts = read_rows(args.prompts) if args.odd else []
    for i, size in enumerate(odd_sizes(args.odd, args.side)):
        prompt = prompts[i * len(prompts) // args.odd]["prompt"]
        made.append(Wanted(args.out / ODD / f"{i:04d}.png", ODD, size, i, prompt))
    return made


def generate(args: argparse.Namespace, rows: Sequence[Mapping[str, str]]) -> int:
    """Write the pictures that are not there yet; how many were made."""
    wanted = [each for each in wanted_of(args, rows) if not each.path.is_file()]
    if not wanted:
        return 0
    from tqdm import tqdm

    from asd.lora import lora_loaded
    from materials.files import quantise
    from materials.pipeline import MaterialPipeline
    from materials.png import write_png
    from materials.textures import paint_texture

    pipeline = MaterialPipeline.from_pretrained(args.model, device=args.device)
    with nullcontext() if args.lora is None else lora_loaded(pipeline, args.lora, args.lora_scale):
        for each in tqdm(wanted, unit="image", mininterval=10):
            each.path.parent.mkdir(parents=True, exist_ok=True)
            made = paint_texture(
                pipeline, each.prompt, size=each.size, seed=each.seed, steps=args.steps, scale=args.scale
            )
            write_png(each.path, quantise(made, 8), colour="srgb")
    return len(wanted)


def texel_scale(size: tuple[int, int], scale: float | None) -> float:
    """What the model was told: `scale`, or what fits the canvas."""
    return min(1.0, max(0.0, math.log2(min(size) / TRAINED))) if scale is None else scale


def crops(image: NDArray[np.uint8], side: int, seed: int) -> list[NDArray[np.uint8]]:
    """`CROPS` native square crops (side, side, 3) at random places."""
    import numpy as np

    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    places = [(rng.integers(height - side + 1), rng.integers(width - side + 1)) for _ in range(CROPS)]
    return [image[top : top + side, left : left + side] for top, left in places]


def real_crops(packs: Path, scale: float, side: int) -> list[NDArray[np.uint8]]:
    """Crops of the validation textures whose short side is 256 x 2^scale texels."""
    import numpy as np
    from PIL import Image

    from training.pack import Pack

    pack, short = Pack(packs), round(TRAINED * 2**scale)
    made = []
    for i in pack.split("val"):
        image = Image.fromarray(pack.load(i, maps=False)["basecolor"])
        factor = short / min(image.size)
        if factor > 1.01:  # enlarged, it would have less detail than what is asked for
            continue
        size = (max(side, round(image.width * factor)), max(side, round(image.height * factor)))
        made += crops(np.asarray(image.resize(size, Image.Resampling.LANCZOS)), side, i)
    return made


def repeat(image: NDArray[np.uint8]) -> float | None:
    """Autocorrelation at the trained side, less the median around it, on the long axis of (H, W, 3); None if short."""
    import numpy as np

    grey = image.astype(np.float64).mean(2)
    grey = grey.T if image.shape[0] > image.shape[1] else grey
    length = grey.shape[1]
    if length < 2 * TRAINED:
        return None
    grey = grey - grey.mean()
    power = np.abs(np.fft.fft(grey, axis=1)) ** 2
    curve = np.fft.ifft(power.sum(0)).real
    curve = curve / max(curve[0], 1e-9)
    # on a circle of 512 px lags beyond 256 come back
    lags = [lag for lag in range(TRAINED - AROUND, min(TRAINED + AROUND, length // 2) + 1) if abs(lag - TRAINED) > NEAR]
    return float(curve[TRAINED] - np.median(curve[lags]))


def measure(args: argparse.Namespace, rows: Sequence[Mapping[str, str]]) -> tuple[list[Figure], dict[str, Any]]:
    """Figures of what lies in the folder, and their details."""
    import numpy as np
    from PIL import Image

    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    tools = runpy.run_path(str(args.report), run_name="report")
    describe, kid, net = tools["describe"], tools["kid"], tools["load_lite0"]()
    groups: dict[str, list[Wanted]] = {}
    for each in wanted_of(args, rows):
        groups.setdefault(each.ratio, []).append(each)
    side = min(min(each.size) for group in groups.values() for each in group)
    scales = {
        ratio: Counter(round(texel_scale(each.size, args.scale), 1) for each in group)
        for ratio, group in groups.items()
    }
    every = sorted(set().union(*scales.values()))
    real = {scale: describe(net, real_crops(args.packs, scale, side)) for scale in every}
    kids: dict[str, float] = {}
    repeats: list[float] = []
    for ratio, group in groups.items():
        made = []
        for each in group:
            with Image.open(each.path) as image:
                pixels = np.asarray(image.convert("RGB"))
            if (pixels.shape[1], pixels.shape[0]) != each.size:
                found = pixels.shape[1::-1]
                raise ValueError(f"Expected {each.size[0]}x{each.size[1]} in {each.path}, but got {found}")
            made += crops(pixels, side, each.seed)
            found = repeat(pixels)
            repeats += [] if found is None else [found]
        # real ones at the scales of the group, each as often as there
        total, order = max(scales[ratio].values()), np.random.default_rng(0)
        like = [
            features[order.permutation(len(features))[: len(features) * scales[ratio][scale] // total]]
            for scale, features in real.items()
            if scale in scales[ratio]
        ]
        kids[ratio] = kid(describe(net, made), np.concatenate(like))
    figures = [Figure(name="pictures a ratio", value=len(rows)), Figure(name="crop, px", value=side)]
    figures += [Figure(name=f"kid at {ratio}", value=value) for ratio, value in kids.items()]
    if "1:1" in kids:
        figures += [
            Figure(name=f"kid at {ratio} over that at 1:1", value=value / kids["1:1"], bar=WITHIN)
            for ratio, value in kids.items()
            if ratio != "1:1"
        ]
    if repeats:
        spread = float(np.std(repeats) / math.sqrt(len(repeats)))
        figures.append(Figure(name="repeat at the trained side, mean", value=float(np.mean(repeats)), bar=REPEAT))
        figures.append(Figure(name="repeat, standard error", value=spread))
    return figures, {"side": args.side, "scale": args.scale, "lora": str(args.lora), "kid": kids, "repeat": repeats}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="CSV with a column prompt")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--lora", type=Path, help="what asd.train_arad wrote")
    parser.add_argument("--lora-scale", type=float, default=1.0)
    parser.add_argument("--ratios", nargs="+", default=list(RATIOS), metavar="W:H")
    parser.add_argument("--side", type=int, default=TRAINED, help="side of the square that all have the area of")
    parser.add_argument("--odd", type=int, default=0, metavar="N", help="so many pictures of odd sizes beside them")
    parser.add_argument("--count", type=int, default=24, help="pictures a ratio")
    parser.add_argument("--scale", type=float, help="texel scale; by default what fits each canvas")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--packs", type=Path, help="pack of the training textures (training.data)")
    parser.add_argument("--report", type=Path, help="generator_report.py")
    add_json(parser)
    args = parser.parse_args()
    rows = read_rows(args.prompts)
    rows = rows[:: max(1, len(rows) // args.count)][: args.count]
    made = generate(args, rows)
    print(f"{made} made, {len(rows)} at each of {', '.join(args.ratios)}, {args.odd} of odd sizes", flush=True)
    if args.report is None or args.packs is None:
        return 0
    figures, details = measure(args, rows)
    return finish("ratios", figures, args.json, details)


if __name__ == "__main__":
    raise SystemExit(main())
