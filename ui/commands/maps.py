"""`zellige maps`: a photo to the maps of a material."""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import get_args

from ui.commands.bar import Bar
from ui.commands.common import EXIT_DONE, add_loudness, set_loudness
from ui.commands.material import print_result, show
from ui.request import HeightFormat, Request, SeamlessOrAuto

HELP = "make the maps of a material from a photo"
DESCRIPTION = (
    "Infer normal, height, roughness, metallic and ao maps from a photo of a surface, taken from straight above in "
    "even light; basecolor is the photo. Writes the folder that zellige material writes. Prints one line per file."
)
EPILOG = "Exit codes: 0 done, 2 bad input, 130 interrupted."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", metavar="PHOTO", help="an image file")
    add = parser.add_argument
    add("--out", metavar="DIR", default="out", help="folder of the result (%(default)s)")
    add("--overwrite", action="store_true", help="replace an earlier result in DIR; other files are never touched")
    add("--size", metavar="WxH", help="width and height in pixels (the photo's)")
    axes = "|".join(get_args(SeamlessOrAuto))
    add("--seamless", metavar=axes, default="auto", help="axes that tile; auto: those on which the photo does")
    add("--model", metavar="PATH_OR_ID", help="a diffusers folder or a hub id (the model in the package)")
    formats = "|".join(get_args(HeightFormat))
    add("--height-format", metavar=formats, default="png16", help="file of the height map (%(default)s)")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    add("--json", action="store_true", help="print one JSON object in place of lines")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    asked = {
        "kind": "maps",
        "image": options.photo,
        "seamless": options.seamless,
        "model": options.model,
        "height_format": options.height_format,
    }
    request = Request.from_dict(asked if options.size is None else asked | {"size": options.size})
    set_loudness(options.verbose)
    from ui.jobs import run_job

    started = time.perf_counter()
    with Bar(options, "pass") as bar:
        result = run_job(
            request, options.out, progress=partial(show, bar), device=options.device, overwrite=options.overwrite
        )
    print_result(result, options.json, time.perf_counter() - started)
    return EXIT_DONE
