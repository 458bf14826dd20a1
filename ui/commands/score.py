"""`zellige score`: how well textures tile, as a table, JSON or CSV, and as a gate for CI."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asd.errors import ZelligeError
from ui.commands.common import (
    EXIT_BAD_INPUT,
    EXIT_CHECK_FAILED,
    EXIT_DONE,
    add_loudness,
    number,
    set_loudness,
    write_line,
)
from ui.csv_cell import csv_cell

if TYPE_CHECKING:
    from ui.scoring import BadFile, ImageScore

HELP = "score how well textures tile"
DESCRIPTION = (
    "Score images: the probability that repeats show no seam, on each axis and on both, and the seam ratio (the step "
    "across the border over the median step inside; about 1 for a tile)."
)
EPILOG = "Exit codes: 0 done, 1 a score is below --min, 2 a file is no readable image or bad input (wins over 1)."
COLUMNS: tuple[str, ...] = ("path", "width", "height", "both", "x", "y", "seam_x", "seam_y", "verdict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="image files, folders (at any depth), patterns")
    add = parser.add_argument
    add("--min", metavar="P", type=number, help="exit with 1 if a score for both axes is below P, 0 to 1")
    add("--map", metavar="DIR", type=Path, help="write each image with its seams in red into DIR")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    form.add_argument("--csv", action="store_true", help="print CSV in place of the table")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    if options.min is not None and not (math.isfinite(options.min) and 0 <= options.min <= 1):
        raise ZelligeError(f"Expected --min to be a number from 0 to 1, but got {options.min:g}")
    from ui.scoring import BadFile, ImageScore, expand, score_file

    paths = expand(options.paths)
    set_loudness(options.verbose)
    results = [score_file(path) for path in _progress(paths, options)]
    scores = [each for each in results if isinstance(each, ImageScore)]
    bad = [each for each in results if isinstance(each, BadFile)]
    if options.map is not None:
        _write_maps(scores, options.map)
    _print(scores, bad, options)
    for each in bad:
        reason = each.reason if str(each.path) in each.reason else f"{each.reason} ({each.path})"
        sys.stderr.write(" ".join(f"zellige: {reason[:1].lower()}{reason[1:]}".split()) + "\n")
    if bad:
        return EXIT_BAD_INPUT
    low = [each for each in scores if options.min is not None and each.both < options.min]
    if low and not options.quiet:
        sys.stderr.write(f"zellige: {len(low)} of {len(scores)} are below {options.min:g}\n")
    return EXIT_CHECK_FAILED if low else EXIT_DONE


def _progress(paths: Sequence[Path], options: argparse.Namespace) -> Sequence[Path]:
    if options.quiet or len(paths) < 2 or not (options.verbose or sys.stderr.isatty()):
        return paths
    from tqdm import tqdm

    return tqdm(paths, unit="image", desc="zellige", file=sys.stderr)  # pyright: ignore[reportReturnType]  # iterates alike


def _write_maps(scores: Sequence[ImageScore], folder: Path) -> None:
    from materials.atomic import make_folder
    from ui.scoring import overlay, overlay_names

    make_folder(folder)
    for path, name in overlay_names(each.path for each in scores).items():
        overlay(path, folder / name)


def _print(scores: Sequence[ImageScore], bad: Sequence[BadFile], options: argparse.Namespace) -> None:
    from textile_metric.weights import VERSION

    if options.json:
        failed = [{"path": str(each.path), "reason": each.reason} for each in bad]
        report = {"weights": VERSION, "scores": [each.to_dict() for each in scores], "failed": failed}
        write_line(json.dumps(report, ensure_ascii=False))
    elif options.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(each.to_dict() | {"path": csv_cell(str(each.path))} for each in scores)
        write_line(text.getvalue().rstrip("\n"))
    elif scores:
        wide = max(len(str(each.path)) for each in scores)
        write_line(f"{'file':{wide}}  both      x      y  seam x  seam y  verdict")
        for each in scores:
            numbers = f"{each.both:4.2f}   {each.x:4.2f}   {each.y:4.2f}  {each.seam_x:6.2f}  {each.seam_y:6.2f}"
            write_line(f"{each.path!s:{wide}}  {numbers}  {each.verdict}")
    sys.stdout.flush()
