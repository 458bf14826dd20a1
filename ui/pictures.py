"""Requests of kind image and upscale: a picture, its 2x2 tiling where it tiles, and `image.json`."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asd.errors import CheckpointError, SizeError, ZelligeError
from ui.enlarging import enlarge_by_diffusion, enlarge_in_one_step, in_one_step, work_folder
from ui.request import Request

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

SCHEMA_VERSION = "1"
LARGEST_PNG = 2**27
"""Pixels; viewers refuse larger ones, so that these become tiled TIFFs."""
REPORTED = 2048
"""Pixels along the side of the part that the figures are of."""
MANIFEST = "image.json"
_LARGEST_PREVIEW = 1024
_BAND = 64


def is_stable_diffusion(model: str) -> bool:
    """Whether a checkpoint says that it is of a layout that `AnySizePipeline` loads."""
    from asd.loading import layout
    from asd.stable_diffusion import LAYOUTS

    try:
        return layout(model) in LAYOUTS
    except (ZelligeError, OSError, ValueError):
        return False


def load_stable_diffusion(model: str, device: str) -> Any:
    """An `AnySizePipeline` on a device: float32 on the CPU, else float16; no chatter but for a download."""
    from contextlib import nullcontext

    import torch

    from asd.pipeline import AnySizePipeline
    from materials.quiet import quiet_loading

    chosen = device
    if device == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    with quiet_loading() if Path(model).is_dir() else nullcontext():
        dtype = torch.float32 if chosen == "cpu" else torch.float16
        pipeline = AnySizePipeline.from_pretrained(model, torch_dtype=dtype)
    pipeline.base.to(chosen)
    pipeline.base.set_progress_bar_config(disable=True)
    return pipeline


def make_picture(
    request: Request,
    folder: Path,
    place: Path,
    pipeline: Any,
    report: Callable[[int, int], None] | None,
    say: Callable[[str], None],
    device: str = "auto",
) -> list[str]:
    """Make one sample and write it into `folder`, which becomes `place`; the sorted names of its files.

    An enlargement works in a hidden folder beside `place`, and goes on from it after whatever stopped it. `device` is
    of no effect where `pipeline` is used.

    Raises:
        ZelligeError: a picture that cannot be read, or a mask of another size than its image.
        CheckpointError: a pipeline that paints no pictures.
        OutputError: where the folder is full or not writable.
    """
    from asd.canvas_file import write_tiff
    from asd.pictures import read_picture
    from materials.atomic import replacing
    from materials.files import quantise
    from materials.png import write_png
    from materials.provenance import describe
    from ui.cli import VERSION

    image = None if request.image is None else read_picture(request.image)
    mask = None if request.mask is None else read_picture(request.mask)
    if image is not None and mask is not None and mask.size != image.size:
        sizes = ["x".join(map(str, each.size)) for each in (image, mask)]
        raise ZelligeError(f"Expected a mask of the image's {sizes[0]} pixels, but got {sizes[1]}")
    alone = in_one_step(request)
    if not alone and not hasattr(pipeline, "latent_model") and not hasattr(pipeline, "stride"):
        raise CheckpointError(f"Expected a model that paints images, but got {type(pipeline).__name__}")
    asked = request.to_dict()
    told = {"size": list(request.size), "seamless": request.axes, "versions": {"zellige": VERSION}}
    made_of = "trainedAlgorithmicMedia" if image is None else "compositeWithTrainedAlgorithmicMedia"
    text = {} if request.strip_metadata else describe({"request": asked, **told}, made_of)
    work: Path | None = None
    if request.kind == "upscale":
        source = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
        work = work_folder(place, asked, source)
        if alone:
            data, pitch = enlarge_in_one_step(request, source, work, place, device, report, say)
        else:
            data, pitch = enlarge_by_diffusion(request, pipeline, source, work, place, report, say)
    elif hasattr(pipeline, "latent_model"):
        pixels, pitch = _stable_diffusion(request, pipeline, image, mask, report)
        data = quantise(pixels, 8)
    else:
        pixels, pitch = _texture(request, pipeline, image, mask, report)
        data = quantise(pixels, 8)
    whole = data.shape[1] * data.shape[2] <= LARGEST_PNG
    files = {"image": "image.png" if whole else "image.tif"}
    if whole:
        write_png(folder / files["image"], data, colour="srgb", text=text)
    else:
        write_tiff(folder / files["image"], data.astype(np.uint8, copy=False), description=text.get("zellige", ""))
    if request.axes != "none":
        files["tiled"] = "tiled.png"
        write_png(folder / "tiled.png", quantise(_tiled(data, request.axes), 8), colour="srgb", text=text)
    manifest = {
        "schema": SCHEMA_VERSION,
        **({} if request.strip_metadata else {"request": asked}),
        "size": list(request.size),
        "seamless": request.axes,
        "files": files,
        **_figures(data, pitch, request.axes),
    }
    with replacing(folder / MANIFEST) as handle:
        handle.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    if work is not None:
        shutil.rmtree(work, ignore_errors=True)
    return sorted([*files.values(), MANIFEST])


def keep_to(pipeline: Any, request: Request, budget: int, say: Callable[[str], None]) -> None:
    """Make a pipeline keep to so many bytes, and say how.

    Raises:
        SizeError: nothing keeps to it; the message says what would.
    """
    from ui.memory import human, memory_estimate

    if hasattr(pipeline, "keep_to"):
        say(str(pipeline.keep_to(budget, request.size)))
        return
    needed = memory_estimate(request.size, request.kind)
    if needed > budget:
        raise SizeError(f"Expected at least {human(needed)} for this size, but got {human(budget)}")
    say(f"{human(needed)} of {human(budget)}, the small model as it is")


def _figures(data: Any, pitch: int, seamless: str) -> dict[str, Any]:
    """Seams along the axes that wrap, and how much of the tiles shows, on the first REPORTED pixels of each side."""
    import torch

    from asd.seam_report import seam_report
    from textile_metric.seam import seam_ratio

    _, height, width = data.shape
    seams = {}
    part = torch.from_numpy(np.array(data[:, :REPORTED, :REPORTED])).float() / 255
    if max(height, width) <= REPORTED:
        ratios = seam_ratio(np.array(data))
        seams = {axis: round(float(ratios[0, i]), 4) for i, axis in enumerate("xy") if axis in seamless}
    else:
        seamless = "none"
    shown: Any = None
    if max(height, width) > pitch:
        axes: Any = seamless
        shown = seam_report(part, pitch, seamless=axes).as_dict()
    return {"seam": seams, "tiles": shown}


def _texture(
    request: Request, pipeline: Any, image: Any, mask: Any, report: Callable[[int, int], None] | None
) -> tuple[Tensor, int]:
    """Pixels (3, H, W) in [0, 1] by a material model, and the pitch of its tiles in pixels."""
    from materials.texture_model import TILE
    from materials.textures import paint_texture

    common: dict[str, Any] = {
        "size": request.size,
        "seamless": request.axes,
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "negative": request.negative,
        "strength": request.strength,
        "callback": report,
    }
    common |= {"scale": request.scale, "image": image, "mask": mask}
    return paint_texture(pipeline, request.prompt, **common), 8 * TILE


def _stable_diffusion(
    request: Request, pipeline: Any, image: Any, mask: Any, report: Callable[[int, int], None] | None
) -> tuple[Tensor, int]:
    import torch

    from asd.upscaling import STEPS

    if request.scale is not None:
        raise ZelligeError("Expected no scale with a checkpoint of Stable Diffusion, but got one")
    pitch = pipeline.family.side
    steps = request.steps or STEPS
    total = pipeline.steps(request.size, steps, None if image is None else request.strength or 0.8)

    def after(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        del timestep, tensors
        if report is not None:
            report(step + 1, total)
        return {}

    made = pipeline(
        request.prompt,
        width=request.size[0],
        height=request.size[1],
        num_inference_steps=steps,
        guidance_scale=request.guidance,
        negative_prompt=request.negative,
        # one generator on the CPU: the device doesn't change the noise
        generator=torch.Generator().manual_seed(request.seed),
        seamless=request.axes,
        image=image,
        mask_image=mask,
        strength=request.strength or 0.8,
        output_type="pt",
        callback_on_step_end=after,
    )
    return made.images[0], pitch


def _tiled(data: Any, seamless: str) -> Tensor:
    """The picture (3, H, W) of bytes repeated along the axes that tile, no larger than a preview, in [0, 1]."""
    import torch

    from asd.resample import resample_window

    _, height, width = data.shape
    share = min(1.0, _LARGEST_PREVIEW / 2 / max(height, width))
    small = (max(1, round(height * share)), max(1, round(width * share)))
    wrap = ("y" in seamless, "x" in seamless)
    bands = [
        resample_window(data, small, (top, min(top + _BAND, small[0])), (0, small[1]), wrap=wrap)
        for top in range(0, small[0], _BAND)
    ]
    made = (torch.cat(bands, 1) / 255).clamp(0, 1)
    return made.repeat(1, 2 if "y" in seamless else 1, 2 if "x" in seamless else 1)
