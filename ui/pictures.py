"""Requests of kind image and upscale: a picture, its 2x2 tiling where it tiles, and `image.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asd.errors import CheckpointError, ZelligeError
from ui.request import Request

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = "1"
MANIFEST = "image.json"
_LARGEST_PREVIEW = 1024


def is_stable_diffusion(model: str) -> bool:
    """Whether a checkpoint says that it is of a layout that `AnySizePipeline` loads."""
    from asd.pipeline import layout
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
    request: Request, folder: Path, pipeline: Any, report: Callable[[int, int], None] | None
) -> list[str]:
    """Make one sample and write it into `folder`; the sorted names of its files.

    Raises:
        ZelligeError: a picture that cannot be read, or a mask of another size than its image.
        CheckpointError: a pipeline that paints no pictures.
        OutputError: where the folder is full or not writable.
    """
    from asd.pictures import read_picture
    from asd.seam_report import seam_report
    from materials.atomic import replacing
    from materials.files import parameters_line, quantise
    from materials.png import write_png
    from textile_metric.seam import seam_ratio

    image = None if request.image is None else read_picture(request.image)
    mask = None if request.mask is None else read_picture(request.mask)
    if image is not None and mask is not None and mask.size != image.size:
        sizes = ["x".join(map(str, each.size)) for each in (image, mask)]
        raise ZelligeError(f"Expected a mask of the image's {sizes[0]} pixels, but got {sizes[1]}")
    if hasattr(pipeline, "latent_model"):
        pixels, pitch = _stable_diffusion(request, pipeline, image, mask, report)
    else:
        pixels, pitch = _texture(request, pipeline, image, mask, report)
    asked = request.to_dict()
    text = {"parameters": parameters_line(asked, request.size), "zellige": json.dumps(asked, ensure_ascii=False)}
    files = {"image": "image.png"}
    data = quantise(pixels, 8)
    write_png(folder / "image.png", data, colour="srgb", text=text)
    if request.seamless != "none":
        files["tiled"] = "tiled.png"
        write_png(folder / "tiled.png", quantise(_tiled(pixels, request.seamless), 8), colour="srgb", text=text)
    seams = seam_ratio(data)
    shown: Any = seam_report(pixels, pitch, seamless=request.seamless).as_dict() if max(request.size) > pitch else None
    manifest = {
        "schema": SCHEMA_VERSION,
        "request": asked,
        "size": list(request.size),
        "seamless": request.seamless,
        "files": files,
        "seam": {axis: round(float(seams[0, i]), 4) for i, axis in enumerate("xy") if axis in request.seamless},
        "tiles": shown,
    }
    with replacing(folder / MANIFEST) as handle:
        handle.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    return sorted([*files.values(), MANIFEST])


def _texture(
    request: Request, pipeline: Any, image: Any, mask: Any, report: Callable[[int, int], None] | None
) -> tuple[Tensor, int]:
    """Pixels (3, H, W) in [0, 1] by a material model, and the pitch of its tiles in pixels."""
    from materials.texture_model import TILE
    from materials.textures import paint_texture, upscale_texture

    common: dict[str, Any] = {
        "size": request.size,
        "seamless": request.seamless,
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "negative": request.negative,
        "strength": request.strength,
        "callback": report,
    }
    if not hasattr(pipeline, "stride"):
        raise CheckpointError(f"Expected a model that paints images, but got {type(pipeline).__name__}")
    if request.kind == "upscale":
        return upscale_texture(pipeline, image, prompt=request.prompt, **common), 8 * TILE
    common |= {"scale": request.scale, "image": image, "mask": mask}
    return paint_texture(pipeline, request.prompt, **common), 8 * TILE


def _stable_diffusion(
    request: Request, pipeline: Any, image: Any, mask: Any, report: Callable[[int, int], None] | None
) -> tuple[Tensor, int]:
    import torch

    from asd.upscaling import STEPS, STRENGTH, upscale

    if request.scale is not None:
        raise ZelligeError("Expected no scale with a checkpoint of Stable Diffusion, but got one")
    pitch = pipeline.family.side
    if request.kind == "upscale":
        made = upscale(
            image,
            pipeline,
            size=request.size,
            prompt=request.prompt,
            negative_prompt=request.negative,
            guidance_scale=request.guidance,
            strength=request.strength or STRENGTH,
            steps=request.steps or STEPS,
            seamless=request.seamless,
            seed=request.seed,
            output_type="pt",
            callback=report,
        )
        return made, pitch
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
        seamless=request.seamless,
        image=image,
        mask_image=mask,
        strength=request.strength or 0.8,
        output_type="pt",
        callback_on_step_end=after,
    )
    return made.images[0], pitch


def _tiled(pixels: Tensor, seamless: str) -> Tensor:
    """The picture repeated along the axes that tile, no larger than a preview."""
    from asd.resample import resample

    _, height, width = pixels.shape
    share = min(1.0, _LARGEST_PREVIEW / 2 / max(height, width))
    small = (max(1, round(height * share)), max(1, round(width * share)))
    made = resample(pixels[None], small, wrap_x="x" in seamless, wrap_y="y" in seamless)[0].clamp(0, 1)
    return made.repeat(1, 2 if "y" in seamless else 1, 2 if "x" in seamless else 1)
