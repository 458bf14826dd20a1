"""`zellige upscale`: a picture, larger."""

from __future__ import annotations

import argparse

from asd.errors import SizeError
from ui.commands.common import number
from ui.commands.image import EPILOG, add_common, picture_size, run_request
from ui.request import parse_size

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "enlarge an image"
DESCRIPTION = (
    "Enlarge an image: with the package's upscaler, if it has one, in one step for each factor of 4; with --model, "
    "--strength, --steps, --guidance or --negative by diffusion: noise, then the model in moving tiles, at most "
    "twofold a pass, with the colours of the image. The upscaler does not read the prompt. Writes image.png and "
    "image.json, and prints one line per file."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the picture")
    add = parser.add_argument
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--size", metavar="WxH", help="width and height in pixels")
    either.add_argument("--factor", metavar="F", type=number, help="how many times larger each side becomes")
    add("--prompt", metavar="TEXT", default="", help="what is in the picture")
    add_common(parser)


def run(options: argparse.Namespace) -> int:
    source = picture_size(options.image)
    size = _enlarged(source, options.factor) if options.size is None else parse_size(options.size)
    if size[0] * size[1] < source[0] * source[1]:
        asked, there = ("x".join(map(str, each)) for each in (size, source))
        raise SizeError(f"Expected a size of at least the image's {there}, but got {asked}")
    values = {"kind": "upscale", "size": size, "image": options.image, "seamless": options.seamless or "none"}
    return run_request(options, values)


def _enlarged(source: tuple[int, int], factor: float) -> tuple[int, int]:
    from asd.upscaling import target_size

    return target_size(source, None, factor)
