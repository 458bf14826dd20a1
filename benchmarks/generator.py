"""Are the generated basecolors like real ones, of their class, varied, seamless and no copies?

    python -m benchmarks.generator --prompts PROMPTS.csv --out DIR [--steps N --guidance G]
    python -m benchmarks.generator --prompts PROMPTS.csv --out DIR --data ROOT --report PATH/generator_report.py
        [--manifest CSV --cache features.npz --sheet sheet.png --json FILE]

Makes the basecolor of every row of the prompts (columns id, prompt, class) at 256x256 px, seed = row number, one try
each; what is already in DIR stays. With `--data` (the unpacked packages) and `--report` that script then measures them,
and its figures are printed with the project's bars. `--sheet` draws 64 samples, each beside its nearest training image.
"""

from __future__ import annotations

import argparse
import csv
import json
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.table import Figure, add_json, finish

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 256
SLACK = 0.005
"""How much closer than validation images generated ones may be to the nearest training image (cosine similarity)."""
SHEET = 64
COLUMNS = 8
THUMB = 144
LINE = 14


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def generate(rows: Sequence[Mapping[str, str]], out: Path, model: str | None, options: Mapping[str, Any]) -> int:
    """Write `out`/ID.png for every row that has none yet, each whole or not at all; how many were made.

    The seed is the row's own, or else its number.
    """
    wanted = [(i, row) for i, row in enumerate(rows) if not (out / f"{row['id']}.png").is_file()]
    if not wanted:
        return 0
    from tqdm import tqdm

    from materials.files import quantise
    from materials.pipeline import MaterialPipeline
    from materials.png import write_png

    pipeline = MaterialPipeline.from_pretrained(model)
    out.mkdir(parents=True, exist_ok=True)
    for i, row in tqdm(wanted, unit="image"):
        made = pipeline(row["prompt"], size=(SIDE, SIDE), seed=int(row.get("seed", i)), **options)
        write_png(out / f"{row['id']}.png", quantise(made.basecolor, 8), colour="srgb")
    return len(wanted)


def run_report(args: argparse.Namespace) -> dict[str, float]:
    """Run the report script in this process, as a command would, and return what it writes."""
    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [str(args.report), "--data", args.data, "--generated", args.out, "--prompts", args.prompts]
        command += ["--json", path]
        for name in ("manifest", "cache"):
            if getattr(args, name):
                command += [f"--{name}", getattr(args, name)]
        before, sys.argv = sys.argv, [str(c) for c in command]
        try:
            runpy.run_path(str(args.report), run_name="__main__")
        except SystemExit as error:
            if error.code:
                raise
        finally:
            sys.argv = before
        return json.loads(path.read_text(encoding="utf-8"))


def figures_of(report: Mapping[str, float]) -> list[Figure]:
    """The report's figures with the project's bars."""
    bars: dict[str, tuple[float, str]] = {
        "kid": (300, "<="),
        "class_top1": (0.45, ">="),
        "spread": (1.0, ">="),
        "seam_p50": (1.15, "<="),
        "nearest_p50": (report["nearest_real_p50"] + SLACK, "<="),
        "nearest_p95": (report["nearest_real_p95"] + SLACK, "<="),
    }
    figures = []
    for name, value in report.items():
        bar, relation = bars.get(name, (None, "<="))
        figures.append(Figure(name=name, value=value, bar=bar, relation=">=" if relation == ">=" else "<="))
    return figures


def nearest_rows(fake: NDArray[np.float32], real: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Index into `real` (M, C) of the most similar row for each row of `fake` (N, C), and the cosine similarity."""
    import numpy as np

    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (fake, real))
    similarity = a @ b.T
    return similarity.argmax(1), similarity.max(1)


def draw_sheet(args: argparse.Namespace, rows: Sequence[Mapping[str, str]]) -> None:
    """Write `args.sheet`: up to 64 samples, evenly spread over the prompts, each left of its nearest training image.

    Raises ValueError where the cache doesn't hold one row of features for each image of the manifest.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    module = runpy.run_path(str(args.report), run_name="generator_report")
    manifest = args.manifest or args.report.resolve().parent.parent / "data" / "textures.csv"
    images = [r for r in read_rows(manifest) if (args.data / r["path"]).is_file()]
    real = np.load(args.cache)["real"]
    if len(real) != len(images):
        raise ValueError(f"Expected features of {len(images)} images in {args.cache}, but got {len(real)}")
    train = [i for i, r in enumerate(images) if r["split"] == "train"]
    picked = [rows[i] for i in np.linspace(0, len(rows) - 1, min(SHEET, len(rows))).round().astype(int)]
    pictures = [module["load_rgb"](args.out / f"{row['id']}.png") for row in picked]
    index, similarity = nearest_rows(module["describe"](module["load_lite0"](), pictures), real[train])
    lines = -(-len(picked) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (2 * THUMB + 8), lines * (THUMB + LINE + 6)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for k, row in enumerate(picked):
        left, top = k % COLUMNS * (2 * THUMB + 8), k // COLUMNS * (THUMB + LINE + 6)
        beside = module["load_rgb"](args.data / images[train[index[k]]]["path"])
        for j, picture in enumerate((pictures[k], beside)):
            thumb = Image.fromarray(picture).resize((THUMB, THUMB), Image.Resampling.LANCZOS)
            sheet.paste(thumb, (left + j * THUMB, top + LINE))
        pen.text((left + 1, top + 1), f"{similarity[k]:.3f} {row['prompt']}"[:52], fill="black", font=font)
    sheet.save(args.sheet)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="CSV with the columns id, prompt, class")
    parser.add_argument("--out", type=Path, required=True, help="folder of the images; those there are kept")
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--steps", type=int, help="the model's default if not given")
    parser.add_argument("--guidance", type=float, help="the model's default if not given")
    parser.add_argument("--data", type=Path, help="folder of the unpacked packages")
    parser.add_argument("--report", type=Path, help="generator_report.py")
    parser.add_argument("--manifest", type=Path, help="list of the images; the report's own by default")
    parser.add_argument("--cache", type=Path, help="npz file that keeps the real images' features")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet here; needs --data, --report and --cache")
    add_json(parser)
    args = parser.parse_args()
    if (args.data is None) != (args.report is None):
        parser.error("--data and --report go together")
    if args.sheet and not (args.report and args.cache):
        parser.error("--sheet needs --data, --report and --cache")
    rows = read_rows(args.prompts)
    made = generate(rows, args.out, args.model, {"steps": args.steps, "guidance": args.guidance})
    if args.report is None:
        return finish(
            "generator", [Figure(name="images", value=len(rows)), Figure(name="made now", value=made)], args.json
        )
    figures = figures_of(run_report(args))
    if args.sheet:
        draw_sheet(args, rows)
    return finish("generator", figures, args.json, {"steps": args.steps, "guidance": args.guidance})


if __name__ == "__main__":
    raise SystemExit(main())
