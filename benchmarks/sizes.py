"""Twenty odd sizes: is every map exactly as large as asked, and does it still tile?

    python -m benchmarks.sizes [--steps 6 --report report.json --json FILE]

Every map's seam ratio on both axes (mean step across the wrap edge over the median interior step) is held against the
95th percentile of real tiles rolled by a random amount, which `generator_report.py` reports as `seam_real_p95`; bar:
90 % within. The ratio is taken of the maps before they are rounded to 8 bits, where a nearly flat map has no steps to
compare. Beside it, without a bar: the share of all the steps inside that pass the same test, which is what a flawless
torus gets on average, because its wrap edge is a step like any other.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.table import Figure, add_json, finish, size

if TYPE_CHECKING:
    from torch import Tensor

    from materials.material import Material

SIZES = (
    (333, 517), (1, 64), (64, 1), (7, 7), (100, 100), (511, 513), (257, 255), (640, 360), (1000, 50), (31, 900),
    (2048, 300), (3, 1), (17, 16), (129, 127), (480, 65), (200, 601), (333, 111), (96, 97), (721, 405), (384, 383),
)  # fmt: skip
PROMPTS = ("mossy cobblestone wall", "red brick wall", "oak planks", "rusty metal plate", "grass", "white plaster")
SEAM_REAL_P95 = 1.212
"""`seam_real_p95` of generator_report.py over the validation tiles of the project's texture list."""
SHARE = 0.9


def seam_bar(report: Path | None) -> float:
    """The real tiles' value from a report's JSON, or the stored one. Raises ValueError for another kind of file."""
    if report is None:
        return SEAM_REAL_P95
    try:
        return float(json.loads(report.read_text(encoding="utf-8"))["seam_real_p95"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"Expected a JSON report with seam_real_p95 in {report}, but got: {error!r}") from error


def seams(material: Material) -> dict[str, tuple[float, float]]:
    """Seam ratio (x, y) of every map."""
    from benchmarks.determinism import file_units
    from textile_metric.seam import seam_ratio

    out: dict[str, tuple[float, float]] = {}
    for name, values in file_units(material).items():
        ratio = seam_ratio(values)[0]
        out[name] = (float(ratio[0]), float(ratio[1]))
    return out


def is_exact(material: Material, pixels: tuple[int, int]) -> bool:
    """Whether every map is `pixels` = (width, height) large."""
    from benchmarks.determinism import file_units

    return all((v.shape[-1], v.shape[-2]) == pixels for v in file_units(material).values())


def measure(
    model: str | None, sizes: list[tuple[int, int]], steps: int, bar: float
) -> tuple[list[Figure], list[dict[str, Any]]]:
    """The figures, and one row a size: exact, seconds, seam ratios."""
    from benchmarks.determinism import file_units
    from materials.pipeline import MaterialPipeline

    pipeline = MaterialPipeline.from_pretrained(model)
    rows: list[dict[str, Any]] = []
    for i, pixels in enumerate(sizes):
        began = time.perf_counter()
        made = pipeline(PROMPTS[i % len(PROMPTS)], size=pixels, seamless="xy", seed=i, steps=steps)
        seconds, ratios = time.perf_counter() - began, seams(made)
        inside = {name: interior_share(values, bar) for name, values in file_units(made).items()}
        rows.append(
            {"size": pixels, "exact": is_exact(made, pixels), "seconds": seconds, "seam": ratios, "inside": inside}
        )
        beyond = [f"{k} {a} {v:.2f}" for k, pair in ratios.items() for a, v in zip("xy", pair, strict=True) if v > bar]
        wrong = "" if rows[-1]["exact"] else "WRONG SIZE  "
        print(f"{pixels[0]:>5} x {pixels[1]:<5} {seconds:6.1f} s  {wrong}{', '.join(beyond)}", flush=True)
    every = [v for row in rows for pair in row["seam"].values() for v in pair]
    colour = [max(row["seam"]["basecolor"]) for row in rows]
    inside = [v for row in rows for v in row["inside"].values()]
    figures = [
        Figure(name="sizes", value=len(rows)),
        Figure(name="sizes exact in every map", value=sum(r["exact"] for r in rows), bar=len(rows), relation=">="),
        Figure(name="seam ratios within the bar", value=share(every, bar), bar=SHARE, relation=">="),
        Figure(name="steps inside within the bar", value=sum(inside) / len(inside)),
        Figure(name="bar of a seam ratio: real tiles, 95 %", value=bar),
        Figure(name="basecolors within it, worse axis", value=share(colour, bar)),
    ]
    for name in rows[0]["seam"]:
        figures.append(Figure(name=f"{name} within it", value=share([v for r in rows for v in r["seam"][name]], bar)))
    return figures, rows


def interior_share(values: Tensor, bar: float) -> float:
    """Share of a map's (C, H, W) interior steps, both axes, of at most `bar` times their median."""
    good = total = 0
    for dim, others in ((2, (0, 1)), (1, (0, 2))):
        if values.shape[dim] > 1:
            steps = values.diff(dim=dim).abs().mean(others)
            good += int((steps <= bar * steps.quantile(0.5)).sum())
            total += len(steps)
    return good / max(total, 1)


def share(values: list[float], bar: float) -> float:
    """Share of `values` that are at most `bar`."""
    return sum(v <= bar for v in values) / len(values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="diffusers folder or hub id; the shipped weights by default")
    parser.add_argument("--sizes", type=size, nargs="+", default=list(SIZES), metavar="WxH")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--report", type=Path, help="JSON that generator_report.py wrote; its seam_real_p95 is the bar")
    add_json(parser)
    args = parser.parse_args()
    figures, rows = measure(args.model, args.sizes, args.steps, seam_bar(args.report))
    return finish("sizes", figures, args.json, {"steps": args.steps, "rows": rows})


if __name__ == "__main__":
    raise SystemExit(main())
