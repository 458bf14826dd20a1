"""Are textures at 1:4 to 4:1 as good as square ones, and do wide ones repeat at the trained size?

    python -m benchmarks.ratios --prompts PROMPTS.csv --out DIR [--lora OUT --side N --count N --scale S --device NAME]
    python -m benchmarks.ratios --prompts PROMPTS.csv --out DIR --packs DIR --report generator_report.py [--json FILE]

Paints `count` prompts, evenly spread, at each ratio and one area, seed = row; what is already in DIR stays. With
`--packs` and `--report` (whose feature network and kid are used) native square crops are measured, as large as the
shortest side of all, four of each picture: kid to crops of the validation textures at the same texel scale, and its
ratio to that of 1:1; bar: 1.25. Then the repeat: on pictures at least two trained sides long, the autocorrelation of
the luminance along that axis at the trained side, less the median at the lags around it; bar: 0.05 in the mean.
"""

from __future__ import annotations

import argparse
import math
import runpy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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


def size_of(ratio: str, side: int) -> tuple[int, int]:
    """(width, height) of a ratio at the area of a square, both multiples of 32.

    >>> size_of("4:1", 256), size_of("1:2", 256)
    ((512, 128), (192, 352))
    """
    width, height = (float(part) for part in ratio.split(":"))
    wide = side * math.sqrt(width / height)
    return max(MULTIPLE, MULTIPLE * round(wide / MULTIPLE)), max(MULTIPLE, MULTIPLE * round(side**2 / wide / MULTIPLE))


def generate(args: argparse.Namespace, rows: Sequence[Mapping[str, str]]) -> int:
    """Write the pictures that are not there yet; how many were made."""
    wanted = [
        (args.out / ratio.replace(":", "x") / f"{i:04d}.png", ratio, i, row)
        for ratio in args.ratios
        for i, row in enumerate(rows)
    ]
    wanted = [each for each in wanted if not each[0].is_file()]
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
        for path, ratio, i, row in tqdm(wanted, unit="image", mininterval=10):
            path.parent.mkdir(parents=True, exist_ok=True)
            size = size_of(ratio, args.side)
            made = paint_texture(pipeline, row["prompt"], size=size, seed=i, steps=args.steps, scale=args.scale)
            write_png(path, quantise(made, 8), colour="srgb")
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
    sizes = {ratio: size_of(ratio, args.side) for ratio in args.ratios}
    side = min(min(size) for size in sizes.values())
    scales = {texel_scale(size, args.scale) for size in sizes.values()}
    real = {scale: describe(net, real_crops(args.packs, scale, side)) for scale in sorted(scales)}
    kids: dict[str, float] = {}
    repeats: list[float] = []
    for ratio, size in sizes.items():
        folder, made = args.out / ratio.replace(":", "x"), []
        for i in range(len(rows)):
            with Image.open(folder / f"{i:04d}.png") as image:
                pixels = np.asarray(image.convert("RGB"))
            if (pixels.shape[1], pixels.shape[0]) != size:
                raise ValueError(f"Expected {size[0]}x{size[1]} in {folder}, but got {pixels.shape[1::-1]}")
            made += crops(pixels, side, i)
            found = repeat(pixels)
            repeats += [] if found is None else [found]
        kids[ratio] = kid(describe(net, made), real[texel_scale(size, args.scale)])
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
    print(f"{made} made, {len(rows)} at each of {', '.join(args.ratios)}", flush=True)
    if args.report is None or args.packs is None:
        return 0
    figures, details = measure(args, rows)
    return finish("ratios", figures, args.json, details)


if __name__ == "__main__":
    raise SystemExit(main())
