"""`zellige material`: a prompt to the maps of a material."""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, get_args

from asd.errors import ZelligeError
from ui.commands.bar import Bar
from ui.commands.common import EXIT_DONE, add_lora, add_loudness, number, set_loudness, whole, write_line
from ui.request import HeightFormat, LockedMap, Request, Seamless

if TYPE_CHECKING:
    from ui.jobs import Progress, Result

HELP = "make a tileable PBR material from a prompt"
DESCRIPTION = (
    "Make a tileable PBR material: basecolor, normal, height, roughness, metallic and ao maps, "
    "previews and material.json. Prints one line per file."
)
EPILOG = "Exit codes: 0 done, 2 bad input, 130 interrupted."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help='what to make, such as "mossy cobblestone wall"')
    add = parser.add_argument
    add("--out", metavar="DIR", default="out", help="folder of the result; --count adds 0000, 0001, … (%(default)s)")
    add("--overwrite", action="store_true", help="replace an earlier result in DIR; other files are never touched")
    add("--size", metavar="WxH", default="512x512", help="width and height in pixels (%(default)s)")
    add("--seamless", metavar="|".join(get_args(Seamless)), default="xy", help="axes that tile (%(default)s)")
    add(
        "--refine", metavar="1|2|4|8", type=whole, default=1,
        help="make it with so many times fewer texels a side, and refine that to --size: finer, not more of it (1)",
    )  # fmt: skip
    add(
        "--guide", metavar="|".join(get_args(Seamless)), default="none",
        help="axes, out of those that --seamless leaves, to steer to tile by the tileability loss; slow (%(default)s)",
    )  # fmt: skip
    add("--seed", metavar="N", type=whole, default=0, help="seed of the first sample; each next adds 1 (%(default)s)")
    add("--count", metavar="N", type=whole, default=1, help="number of samples (%(default)s)")
    add("--steps", metavar="N", type=whole, help="denoising steps (the model's default)")
    add("--guidance", metavar="G", type=number, help="how strictly to follow the prompt (the model's default)")
    add("--scale", metavar="S", type=number, help="pattern size: 0 is 256 texels, 1 is 512 (default: by --size)")
    add(
        "--lock", metavar="MAP=VALUE", action="append", default=[],
        help=f"keep a map ({', '.join(get_args(LockedMap))}): a number 0..1, #rrggbb or an image file; repeatable",
    )  # fmt: skip
    add("--image", metavar="PATH", help="make a variation of a photo, or of a folder this command has written")
    add("--strength", metavar="F", type=number, help="how much of --image is made anew, 0..1 (0.6; 1 with --mask)")
    add("--mask", metavar="FILE", help="image of the result's size: white is made anew, the rest of --image is kept")
    add("--vary", metavar="SEED", type=whole, help="go towards the noise of another seed")
    add("--amount", metavar="F", type=number, help="how far towards --vary, 0..1 (0.3)")
    add("--model", metavar="PATH_OR_ID", help="a diffusers folder or a hub id (the model in the package)")
    add_lora(parser)
    formats = "|".join(get_args(HeightFormat))
    add("--height-format", metavar=formats, default="png16", help="file of the height map (%(default)s)")
    add("--strip-metadata", action="store_true", help="leave prompt, seed and origin out of the files")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    add("--json", action="store_true", help="print one JSON object in place of lines")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    request = Request.from_dict(
        {
            "prompt": options.prompt,
            "size": options.size,
            "seamless": options.seamless,
            "guide": options.guide,
            "refine": options.refine,
            "seed": options.seed,
            "count": options.count,
            "steps": options.steps,
            "guidance": options.guidance,
            "scale": options.scale,
            "lock": _locks(options.lock),
            "image": options.image,
            "strength": options.strength,
            "mask": options.mask,
            "vary": options.vary,
            "amount": options.amount,
            "model": options.model,
            "lora": options.lora,
            "lora_scale": options.lora_scale,
            "height_format": options.height_format,
            "strip_metadata": options.strip_metadata,
        }
    )
    set_loudness(options.verbose)
    from ui.jobs import run_job

    started = time.perf_counter()
    with Bar(options, "step") as bar:
        report = partial(show, bar)
        result = run_job(request, options.out, progress=report, device=options.device, overwrite=options.overwrite)
    print_result(result, options.json, time.perf_counter() - started)
    return EXIT_DONE


def show(bar: Bar, progress: Progress) -> None:
    bar.update(progress.sample * progress.steps + progress.step, progress.count * progress.steps)


def print_result(result: Result, as_json: bool, seconds: float) -> None:
    if as_json:
        lines = [json.dumps(result.to_dict() | {"seconds": round(seconds, 3)}, ensure_ascii=False)]
    else:
        lines = [str(file) for file in result.files]
    for line in lines:
        write_line(line)
    sys.stdout.flush()


def _locks(items: list[str]) -> dict[str, float | str]:
    locks: dict[str, float | str] = {}
    for item in items:
        name, found, text = item.partition("=")
        if not found:
            raise ZelligeError(f"Expected --lock MAP=VALUE, such as roughness=0.8, but got {item!r}")
        if name in locks:
            raise ZelligeError(f"Expected --lock to name each map once, but got {name} twice")
        try:
            locks[name] = float(text)
        except ValueError:
            locks[name] = text
    return locks
