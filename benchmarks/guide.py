"""Do samples tile that no circular padding made, when the tileability loss steers them? And what does that cost them?

    python -m benchmarks.guide --prompts PROMPTS.csv --out DIR
        [--data ROOT --report PATH/generator_report.py --cache features.npz] [--sheet FILE]

Makes the basecolor of some rows of the prompts (columns id, prompt, class; evenly spread) at 256x256 px, seed = row
number, one try each, in three ways: with no axis wrapped, the same steered (`guide="xy"`), and on a torus. A sample
tiles if its score is above 0.5 and both of its seam ratios are below 1.5. What is in DIR stays. With `--data`,
`--report` and its `--cache` of real features, kid is measured too: on so few images it is less certain than on all.
"""

from __future__ import annotations

import argparse
import json
import runpy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.generator import read_rows
from benchmarks.table import Figure, add_json, finish

SIDE = 256
SCORE, SEAM = 0.5, 1.5
WAYS: dict[str, dict[str, Any]] = {
    "unguided": {"seamless": "none"},
    "guided": {"seamless": "none", "guide": "xy"},
    "torus": {"seamless": "xy"},
}
THUMB = 128


def spread(rows: Sequence[Mapping[str, str]], count: int) -> list[tuple[int, Mapping[str, str]]]:
    """`count` rows and their numbers, evenly spread, the first and the last among them."""
    return [
        (int(i), rows[i]) for i in np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    ]


def generate(chosen: Sequence[tuple[int, Mapping[str, str]]], out: Path, model: str | None, steps: int | None) -> None:
    """Write `out`/WAY/ID.png where it isn't there yet, and beside it ID.json with the processor seconds it took."""
    from tqdm import tqdm

    wanted = [(way, i, row) for way in WAYS for i, row in chosen if not (out / way / f"{row['id']}.png").is_file()]
    if not wanted:
        return
    from materials.files import quantise
    from materials.pipeline import MaterialPipeline
    from materials.png import write_png

    pipeline = MaterialPipeline.from_pretrained(model)
    for way, i, row in tqdm(wanted, unit="image"):
        began = time.process_time()
        made = pipeline(row["prompt"], size=(SIDE, SIDE), seed=i, steps=steps, **WAYS[way])
        seconds = time.process_time() - began
        (out / way).mkdir(parents=True, exist_ok=True)
        (out / way / f"{row['id']}.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
        write_png(out / way / f"{row['id']}.png", quantise(made.basecolor, 8), colour="srgb")


def seconds_each(paths: Sequence[Path]) -> float:
    """Median processor seconds of the samples that say theirs; NaN where none does."""
    told = [path.with_suffix(".json") for path in paths]
    found = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in told if path.is_file()]
    return float(np.median(found)) if found else float("nan")


def judged(paths: Sequence[Path]) -> NDArray[np.float64]:
    """(N, 4): score of x and of y, seam ratio of x and of y."""
    from textile_metric import seam_ratio
    from textile_metric.score import axis_scores

    return np.array([(*axis_scores(path)[0].tolist(), *seam_ratio(path)[0].tolist()) for path in paths])


def tiling(found: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,): which rows of `judged` tile on both axes."""
    return (found[:, 0] * found[:, 1] > SCORE) & (found[:, 2:].max(1) < SEAM)


def kids(
    report: Path, data: Path, cache: Path, manifest: Path | None, ways: Mapping[str, Sequence[Path]]
) -> dict[str, float]:
    """kid of each way's images to the validation textures, as the report script measures it."""
    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    module = runpy.run_path(str(report), run_name="generator_report")
    listed = read_rows(manifest or report.resolve().parent.parent / "data" / "textures.csv")
    there = [row for row in listed if (data / row["path"]).is_file()]
    with np.load(cache) as stored:
        real = stored["real"]
    if len(real) != len(there):
        raise ValueError(f"Expected features of {len(there)} images in {cache}, but got {len(real)}")
    held = real[[row["split"] != "train" for row in there]]
    net = module["load_lite0"]()
    features = {way: module["describe"](net, [module["load_rgb"](p) for p in paths]) for way, paths in ways.items()}
    return {way: float(module["kid"](fake, held)) for way, fake in features.items()}


def draw_sheet(
    path: Path, ways: Mapping[str, Sequence[Path]], found: Mapping[str, NDArray[np.float64]], columns: int = 4
) -> None:
    """2x2 tilings, one way beside the other, with score and worst seam ratio."""
    from PIL import Image, ImageDraw, ImageFont

    names, count = list(ways), len(next(iter(ways.values())))
    wide, high = len(names) * 2 * THUMB + 12, 2 * THUMB + 16
    sheet = Image.new("RGB", (columns * wide, -(-count // columns) * high), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for k in range(count):
        left, top = k % columns * wide, k // columns * high
        for j, name in enumerate(names):
            with Image.open(ways[name][k]) as image:
                tile = image.convert("RGB").resize((THUMB, THUMB), Image.Resampling.LANCZOS)
            for place in range(4):
                at = (left + j * 2 * THUMB + place % 2 * THUMB, top + 14 + place // 2 * THUMB)
                sheet.paste(tile, at)
            x, y, seam_x, seam_y = found[name][k]
            said = f"{name} {x * y:.2f}, {max(seam_x, seam_y):.2f}"
            pen.text((left + j * 2 * THUMB + 1, top + 1), said, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=85)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="CSV with the columns id, prompt, class")
    parser.add_argument("--out", type=Path, required=True, help="folder of the images; those there are kept")
    parser.add_argument("--count", type=int, default=28, help="prompts")
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--steps", type=int, help="the model's default if not given")
    parser.add_argument("--data", type=Path, help="folder of the unpacked packages")
    parser.add_argument("--report", type=Path, help="generator_report.py")
    parser.add_argument("--manifest", type=Path, help="list of the images; the report's own by default")
    parser.add_argument("--cache", type=Path, help="npz file with the real images' features, as the report writes it")
    parser.add_argument("--sheet", type=Path, help="write the tilings here, as one picture")
    add_json(parser)
    args = parser.parse_args()
    given = [value is not None for value in (args.data, args.report, args.cache)]
    if any(given) != all(given):
        parser.error("--data, --report and --cache go together")
    chosen = spread(read_rows(args.prompts), args.count)
    generate(chosen, args.out, args.model, args.steps)
    ways = {way: [args.out / way / f"{row['id']}.png" for _, row in chosen] for way in WAYS}
    found = {way: judged(paths) for way, paths in ways.items()}
    figures = [Figure(name="samples of each", value=len(chosen))]
    for way, values in found.items():
        bar = 0.6 if way == "guided" else None
        figures.append(
            Figure(name=f"{way}: share that tiles", value=float(tiling(values).mean()), bar=bar, relation=">=")
        )
    for way, values in found.items():
        figures.append(
            Figure(name=f"{way}: score above {SCORE}", value=float((values[:, 0] * values[:, 1] > SCORE).mean()))
        )
        figures.append(
            Figure(name=f"{way}: seam ratios below {SEAM}", value=float((values[:, 2:].max(1) < SEAM).mean()))
        )
        figures.append(Figure(name=f"{way}: processor seconds", value=seconds_each(ways[way])))
    if all(given):
        kid = kids(args.report, args.data, args.cache, args.manifest, ways)
        figures += [Figure(name=f"{way}: kid", value=value) for way, value in kid.items()]
        figures.append(Figure(name="kid, guided over unguided", value=kid["guided"] / kid["unguided"], bar=1.1))
    if args.sheet:
        draw_sheet(args.sheet, ways, found)
    details = {way: values.round(4).tolist() for way, values in found.items()}
    return finish(
        "guide", figures, args.json, {"ids": [row["id"] for _, row in chosen], "x, y, seam x, seam y": details}
    )


if __name__ == "__main__":
    raise SystemExit(main())
