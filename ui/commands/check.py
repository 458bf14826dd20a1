"""`zellige check`: are these materials fit for use?"""

from __future__ import annotations

import argparse
import json
import sys

from asd.errors import ZelligeError
from ui.commands.common import (
    EXIT_BAD_INPUT,
    EXIT_CHECK_FAILED,
    EXIT_DONE,
    add_loudness,
    metres,
    number,
    set_loudness,
    write_line,
)

HELP = "check the maps of materials: seams, normals, ranges, depth"
DESCRIPTION = (
    "Check folders of PBR maps, this program's or another tool's (Rock_1K_NormalGL.png, wall_nor_gl_2k.png, "
    "T_Rock_ORM.png, …): seam per map and axis, unit normals, normals against height, base colour and metallic ranges, "
    "flat, broken and missing maps, sizes, depth. Prints a table per folder."
)
EPILOG = "Exit codes: 0 all passed, 1 a check failed, 2 bad input."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="DIR", nargs="+", help="a folder of maps")
    add = parser.add_argument
    add("--skip", metavar="CHECK", action="append", default=[], help="leave a check out, such as depth; repeatable")
    add("--depth", metavar="M", type=number, help="metres between height 0 and 1 (as the folder says)")
    add("--size-m", metavar="WxH", help="width and height of the image in metres (as the folder says)")
    add("--directx", action="store_true", help="normals that do not say which kind they are point down (Unreal)")
    add("--json", action="store_true", help="print one JSON object in place of tables")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    set_loudness(options.verbose)
    size = metres(options.size_m)
    from materials.check import CHECKS, check_material

    if unknown := [name for name in options.skip if name not in CHECKS]:
        raise ZelligeError(f"Expected --skip to name a check ({', '.join(CHECKS)}), but got {unknown[0]!r}")
    reports, errors = [], []
    for folder in options.folders:
        try:
            report = check_material(
                folder, skip=options.skip, depth_m=options.depth, size_m=size, directx=options.directx
            )
        except ZelligeError as error:
            errors.append({"source": folder, "error": str(error)})
            continue
        reports.append(report)
        if not options.json:
            write_line(report.table() + "\n")
    passed = not errors and all(report.passed for report in reports)
    if options.json:
        told = {"passed": passed, "materials": [report.to_dict() for report in reports], "errors": errors}
        write_line(json.dumps(told, ensure_ascii=False))
    sys.stdout.flush()
    for error in errors:
        line = " ".join(error["error"].split()).rstrip(".")
        sys.stderr.write(f"zellige: {line[:1].lower()}{line[1:]}\n".encode("utf-8", "backslashreplace").decode())
    if errors:
        return EXIT_BAD_INPUT
    return EXIT_DONE if passed else EXIT_CHECK_FAILED
