"""`zellige image`: a prompt, or a picture and a prompt, to a picture of any size."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import Any, get_args

from ui.commands.bar import Bar
from ui.commands.common import EXIT_DONE, add_lora, add_loudness, number, set_loudness, whole, write_line
from ui.commands.material import print_result, show
from ui.request import Request, Seamless

HELP = "paint an image of any size from a prompt"
DESCRIPTION = (
    "Paint an image of any size, to the pixel, with the texture model in the package or any Stable Diffusion "
    "checkpoint: image.png, a tiled preview where it tiles, and image.json. Prints one line per file."
)
EPILOG = "Exit codes: 0 done, 2 bad input, 130 interrupted."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help='what to paint, such as "mossy cobblestone wall"')
    add = parser.add_argument
    add("--size", metavar="WxH", help="width and height in pixels (512x512, or that of --image)")
    add("--count", metavar="N", type=whole, default=1, help="number of samples (%(default)s)")
    add("--scale", metavar="S", type=number, help="pattern size of the texture model: 0 is 256 texels, 1 is 512")
    add("--image", metavar="FILE", help="a picture to start from")
    add("--mask", metavar="FILE", help="white where --image is to be painted anew, black where it is kept")
    add_common(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """What `zellige upscale` has too."""
    add = parser.add_argument
    add("--out", metavar="DIR", default="out", help="folder of the result; --count adds 0000, 0001, … (%(default)s)")
    add("--overwrite", action="store_true", help="replace an earlier result in DIR; other files are never touched")
    add("--seamless", metavar="|".join(get_args(Seamless)), help="axes that tile (of a prompt alone: xy, else none)")
    add("--strength", metavar="S", type=number, help="how much of the picture is given up (the model's default)")
    add("--negative", metavar="TEXT", help="what to lead away from")
    add("--seed", metavar="N", type=whole, default=0, help="seed of the first sample; each next adds 1 (%(default)s)")
    add("--steps", metavar="N", type=whole, help="denoising steps (the model's default)")
    add("--guidance", metavar="G", type=number, help="how strictly to follow the prompt (the model's default)")
    add("--model", metavar="PATH_OR_ID", help="a diffusers folder or a hub id (the texture model in the package)")
    add_lora(parser)
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    add("--vram", metavar="BYTES", help="memory to keep to, such as 4GiB, by type, offload and tiles")
    add("--report", action="store_true", help="print figures of how much of the tiles shows (also in image.json)")
    add("--json", action="store_true", help="print one JSON object in place of lines")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    size = options.size
    if size is None and options.image is not None:
        size = picture_size(options.image)
    seamless = options.seamless or ("none" if options.model or options.image else "xy")
    values = {
        "kind": "image",
        "size": size or "512x512",
        "count": options.count,
        "scale": options.scale,
        "image": options.image,
        "mask": options.mask,
        "seamless": seamless,
    }
    return run_request(options, values)


def run_request(options: argparse.Namespace, values: dict[str, Any]) -> int:
    """The rest of both commands."""
    names = ("prompt", "strength", "negative", "seed", "steps", "guidance", "model", "lora", "lora_scale")
    request = Request.from_dict(values | {name: getattr(options, name) for name in names})
    set_loudness(options.verbose)
    from ui.jobs import run_job

    vram = None
    if options.vram is not None:
        from asd.memory_plan import parse_bytes

        vram = parse_bytes(options.vram)

    started = time.perf_counter()
    with Bar(options, "step") as bar:
        report = partial(show, bar)
        result = run_job(
            request, options.out, progress=report, device=options.device, overwrite=options.overwrite,
            vram=vram, say=None if options.quiet else _say,
        )  # fmt: skip
    print_result(result, options.json, time.perf_counter() - started)
    if options.report and not options.json:
        for line in _report(result):
            write_line(line)
    return EXIT_DONE


def _say(line: str) -> None:
    sys.stderr.write(f"zellige: {line}\n")


def picture_size(path: str) -> tuple[int, int]:
    """(width, height) of a picture, turned as its EXIF says."""
    from asd.pictures import read_picture

    return read_picture(path).size


def _report(result: Any) -> list[str]:
    """Lines of `name value` for every sample's figures."""
    import json

    lines = []
    for sample in result.samples:
        manifest = json.loads((sample.folder / "image.json").read_text(encoding="utf-8"))
        figures: dict[str, Any] = {f"seam_ratio.{axis}": value for axis, value in manifest["seam"].items()}
        for name, value in (manifest["tiles"] or {}).items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            figures |= {f"{name}.{key}".rstrip("."): part for key, part in parts if part is not None}
        lines += [f"{name} {value:.4g}" for name, value in figures.items()]
    return lines
