"""`zellige export`: a material as packs for engines, tools and libraries."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from materials.export.targets import TARGETS, parse_targets
from ui.commands.common import EXIT_DONE, add_loudness, metres, number, set_loudness, write_line

HELP = "turn a material into packs for engines and tools"
DESCRIPTION = (
    "Write a material as packs that other programs take as they are: packing, file names, colour spaces, bit depth and "
    f"normal direction of each target ({', '.join(TARGETS)}). DIR is a folder of this program, or of another tool with "
    "--depth and --size-m. Prints one line per file."
)
EPILOG = 'Exit codes: 0 done, 2 bad input. usd and materialx need: pip install "zellige[export]".'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a folder of maps")
    add = parser.add_argument
    add("--to", metavar="TARGET,…", required=True, help="targets, separated by commas, or all")
    add("--out", metavar="DIR", required=True, help="folder of the result, absent or empty; a folder per target")
    add("--name", metavar="NAME", help="what the files are called (after the folder)")
    add("--zip", action="store_true", help="a zip file per target in place of a folder")
    add("--overwrite", action="store_true", help="replace an earlier export in DIR; other files are never touched")
    add("--depth", metavar="M", type=number, help="metres between height 0 and 1 (as the folder says)")
    add("--size-m", metavar="WxH", help="width and height of the image in metres (as the folder says)")
    add("--directx", action="store_true", help="normals that do not say which kind they are point down (Unreal)")
    add("--json", action="store_true", help="print one JSON object in place of lines")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    set_loudness(options.verbose)
    targets, size = parse_targets(options.to), metres(options.size_m)
    from materials.export.pack import export_material

    files = export_material(
        options.folder,
        targets,
        options.out,
        name=options.name,
        zipped=options.zip,
        overwrite=options.overwrite,
        depth_m=options.depth,
        size_m=size,
        directx=options.directx,
    )
    if options.json:
        told = {"source": str(Path(options.folder)), "targets": list(targets), "files": [str(file) for file in files]}
        write_line(json.dumps(told, ensure_ascii=False))
    else:
        for file in files:
            write_line(str(file))
    sys.stdout.flush()
    return EXIT_DONE
