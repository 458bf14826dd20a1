"""Tune a model to a folder of images at many ratios: `python -m asd.train_arad FOLDER --out OUT`.

Trains a LoRA (Hu et al. 2022) on views at one area and many ratios, as Any-Size-Diffusion's first stage does (Zheng et
al. 2024), of Stable Diffusion 1.5, 2.1 or XL, or of the model in the package. Captions come from metadata.jsonl, a .txt
beside an image, or its name. The same command goes on where it was stopped. OUT/pytorch_lora_weights.safetensors is
what `zellige image --lora OUT` and diffusers' load_lora_weights take. For several GPUs: `accelerate launch -m`.
Exit status: 0 done, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from .errors import OutputError, ZelligeError
from .seamless import SeamlessAxes
from .views import Crop, parse_ratios, sizes_between

if TYPE_CHECKING:
    from .buckets import Family
    from .image_folder import Captioned
    from .latent_set import Cutting, LatentSet
    from .tunable import Tunable
    from .tuning import TuningOptions

JOB, LATENTS, SHEET = "tuning.json", "latents.safetensors", "sheet.png"
LARGEST_SIDE = 4096


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ZelligeError(f"Expected arguments as --help shows, but got: {message}.")


def parser() -> argparse.ArgumentParser:
    """The options; their defaults are `TuningOptions`'."""
    made = _Parser(
        prog="python -m asd.train_arad", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("folder", type=Path, metavar="FOLDER", help="images, also in subfolders: PNG, JPEG, WebP")
    add("--out", type=Path, required=True, metavar="OUT", help="folder of the result and the state")
    add("--model", metavar="PATH_OR_ID", help="a diffusers folder or a hub id (the model in the package)")
    add("--rank", type=int, default=16, help="of the adapter (%(default)s)")
    add("--alpha", type=float, help="the change is scaled by alpha / rank (the rank)")
    add("--conv", action="store_true", help="adapt convolutions too, not attention alone")
    add("--rate", type=float, default=1e-4, help="learning rate (%(default)s)")
    add("--steps", type=int, default=1000, help="optimiser steps; more later go on from there (%(default)s)")
    add("--batch", type=int, default=4, help="views in a batch, all of one size (%(default)s)")
    add("--accumulate", type=int, default=1, help="batches in a step (%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--drop", type=float, default=0.1, help="share of captions left out, for guidance (%(default)s)")
    add("--resolution", type=int, metavar="PIXELS", help="side of a square view, and the others' area (the model's)")
    add("--ratios", default="1:4..4:1", metavar="A:B..C:D", help="width over height of the views (%(default)s)")
    add("--views", type=int, default=1, help="views of an image: one at its own ratio, others at any (%(default)s)")
    add("--crop", choices=get_args(Crop), default="random", help="what is cut off where ratios differ (%(default)s)")
    add("--seamless", choices=get_args(SeamlessAxes), default="none", help="axes on which they tile (%(default)s)")
    add("--validation", type=Path, metavar="FOLDER", help="images to measure the loss on before and after")
    add("--sheet", action="store_true", help=f"paint OUT/{SHEET} at the end: captions of the folder at three ratios")
    add("--precision", choices=("no", "fp16", "bf16"), default="no", help="of the computation (%(default)s)")
    add("--checkpointing", action="store_true", help="less memory, more time: activations are computed twice")
    add("--save-every", type=int, default=100, metavar="STEPS", help="how often the state is saved (%(default)s)")
    add("--device", choices=("auto", "cpu"), default="auto", help="a GPU where there is one, or the CPU (%(default)s)")
    add("-q", "--quiet", action="store_true", help="no progress")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    try:
        return run(parser().parse_args(argv))
    except ZelligeError as error:
        _say(str(error))
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        _say("Expected enough memory for this, but it ran out; a smaller --batch, --checkpointing or bf16 need less.")
        return 2
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from the last saved step")
        return 130


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say; raises ZelligeError for bad input, before anything heavy where that is possible."""
    from textile_metric.torchvision_guard import guard_torchvision

    guard_torchvision()
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from .image_folder import find_images
    from .noising import Noising
    from .tunable import load_tunable, model_told
    from .tuning import Tuning

    options = _options(args)
    ratios = parse_ratios(args.ratios)
    if not 1 <= args.views <= 1000:
        raise ZelligeError(f"Expected views from 1 to 1000, but got {args.views}.")
    images = find_images(args.folder)
    held = None if args.validation is None else find_images(args.validation)
    _check_out(args.out, args.folder)
    on_gpu = args.device == "auto" and (torch.cuda.is_available() or torch.backends.mps.is_available())
    if options.precision == "fp16" and not on_gpu:
        raise ZelligeError("Expected precision fp16 on a GPU alone, but got it on the CPU; bf16 works there.")
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[options.precision]
    try:
        accelerator = Accelerator(
            mixed_precision=options.precision, gradient_accumulation_steps=options.accumulate, cpu=args.device == "cpu"
        )
    except ValueError as error:
        raise ZelligeError(f"Expected another precision than {args.precision} on this machine: {error}.") from error
    set_seed(options.seed)
    model = load_tunable(args.model, dtype)
    Noising(model.scheduler)  # refuses a scheduler before latents are made
    family = _family(model.family, args.resolution)
    cutting = _cutting(args, family, ratios)
    job = json.dumps(
        {
            **model_told(model),
            "images": _told(images, args.folder),
            "cutting": dataclasses.asdict(cutting),
            "options": options.told(),
            "processes": accelerator.num_processes,
        },
        sort_keys=True,
    )
    if accelerator.is_main_process:
        _claim(args.out, job)
    accelerator.wait_for_everyone()
    model.to(accelerator.device)
    with accelerator.main_process_first():
        latents = _latents(args.out / LATENTS, job, images, model, cutting, quiet=args.quiet)
    if accelerator.is_main_process:
        _say(f"{len(latents)} views of {len(images)} images in {len(latents.kinds)} sizes")
    seen = None if held is None else _latents(None, job, held, model, cutting, quiet=args.quiet)
    tuning = Tuning(model, latents, options, args.out, job, accelerator)
    if tuning.step and accelerator.is_main_process:
        _say(f"going on from step {tuning.step}")
    if seen is not None and tuning.step == 0:
        _validated(tuning, seen)
    with _Bar(options.steps, tuning.step, args.quiet or not accelerator.is_main_process) as bar:
        tuning.run(bar.update)
    if seen is not None:
        _validated(tuning, seen)
    if accelerator.is_main_process:
        sys.stdout.write(f"{tuning.save()}\n")
        if args.sheet:
            from .sample_sheet import write_sheet

            sys.stdout.write(f"{write_sheet(args.out / SHEET, model, latents, args.seamless, options.seed)}\n")
    accelerator.end_training()
    return 0


def _options(args: argparse.Namespace) -> TuningOptions:
    from .tuning import TuningOptions

    names = {field.name for field in dataclasses.fields(TuningOptions)} - {"convolutions"}
    shared = {name: value for name, value in vars(args).items() if name in names}
    return TuningOptions(**shared, convolutions=args.conv)


def _family(family: Family, side: int | None) -> Family:
    if side is None:
        return family
    if not (family.multiple <= side <= LARGEST_SIDE and side % family.multiple == 0):
        raise ZelligeError(
            f"Expected a resolution up to {LARGEST_SIDE} that {family.multiple} divides for this model, but got {side}."
        )
    return dataclasses.replace(family, side=side)


def _cutting(args: argparse.Namespace, family: Family, ratios: tuple[float, float]) -> Cutting:
    from .latent_set import Cutting

    sizes = sizes_between(family, *ratios)
    return Cutting(sizes=sizes, count=args.views, crop=args.crop, seamless=args.seamless, seed=args.seed)


def _told(images: list[Captioned], folder: Path) -> list[list[Any]]:
    return [
        [image.path.relative_to(folder).as_posix(), image.path.stat().st_size, image.caption, image.seamless]
        for image in images
    ]


def _check_out(out: Path, images: Path) -> None:
    """Make the folder; raises OutputError where it cannot be written, holds other files, or lies among the images."""
    try:
        if out.resolve().is_relative_to(images.resolve()):
            raise OutputError(f"Expected --out outside of the folder of images, but {out} is in {images}.")
        out.mkdir(parents=True, exist_ok=True)
        for path in out.glob(".*.tmp"):  # what a kill left of a file that was being written
            path.unlink()
        if any(out.iterdir()) and not (out / JOB).is_file():
            raise OutputError(f"Expected an empty folder or that of a training, but {out} holds other files.")
        if not os.access(out, os.W_OK | os.X_OK):
            raise OutputError(f"Expected to write {out}, but it is not writable.")
    except OSError as error:
        raise OutputError(f"Expected to write {out}, but the system refused: {error.strerror or error}.") from error


def _claim(out: Path, job: str) -> None:
    """Write what the folder is of, or raise ZelligeError where it is of another training."""
    from .canvas_file import replacing

    path = out / JOB
    if path.is_file():
        before = _job(path)
        if before != (now := json.loads(job)):
            changed = [name for name in now if before.get(name) != now[name]]
            raise ZelligeError(
                f"Expected the folder of this training, but {out} is that of one with other {' and '.join(changed)}; "
                "take another --out."
            )
        return
    with replacing(path) as beside:
        beside.write_text(json.dumps(json.loads(job), indent=1), encoding="utf-8")


def _job(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZelligeError(f"Expected what a training wrote in {path}, but it cannot be read: {error}.") from error
    return made if isinstance(made, dict) else {}


def _latents(
    path: Path | None, job: str, images: list[Captioned], model: Tunable, cutting: Cutting, *, quiet: bool
) -> LatentSet:
    """Those in the file, or new ones, which go into it."""
    from .latent_set import LatentSet, encode_images

    made = None if path is None else LatentSet.load(path, job)
    if made is None:
        with _Bar(len(images), 0, quiet, "images") as bar:
            made = encode_images(images, model, cutting, say=_say, progress=lambda done, _: bar.update(done))
        if path is not None:
            made.save(path, job)
    return made


def _validated(tuning: Any, latents: LatentSet) -> None:
    losses = {name: round(value, 6) for name, value in tuning.validate(latents).items()}
    if tuning.accelerator.is_main_process:
        row = {"step": tuning.step, "validation": losses}
        tuning.log(row)
        sys.stdout.write(json.dumps(row) + "\n")


class _Bar:
    """Progress with the time left on stderr; a line each half minute where no terminal reads it."""

    def __init__(self, total: int, done: int, quiet: bool, unit: str = "steps") -> None:
        from tqdm import tqdm

        seen = sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=done, unit=f" {unit}", disable=quiet, file=sys.stderr, smoothing=0.05, leave=False,
            mininterval=0.5 if seen else 30.0,
        )  # fmt: skip
        self.mean: float | None = None

    def update(self, done: int, loss: float | None = None) -> None:
        if loss is not None:
            self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
            self.bar.set_postfix(loss=f"{self.mean:.4f}", refresh=False)
        self.bar.update(done - self.bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.close()


def _say(text: str) -> None:
    line = " ".join(text.split())
    sys.stderr.write(f"train_arad: {line}\n".encode("utf-8", "backslashreplace").decode())


if __name__ == "__main__":
    raise SystemExit(main())
