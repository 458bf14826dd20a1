"""Requests of kind upscale: by the shipped upscaler in one step, or by the second stage of a diffusion model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asd.errors import OutputError
from ui.request import Request

Report = Callable[[int, int], None]
_DIFFUSION = ("strength", "steps", "guidance", "negative", "lora")
_TRIED = 64
"""Cells along the side of the tile that tells how long the others will take."""


def in_one_step(request: Request) -> bool:
    """Whether the shipped upscaler enlarges: no model is named, and nothing asked for that only diffusion has."""
    if request.kind != "upscale" or request.model is not None:
        return False
    from asd.texture_enlarge import has_upscaler

    return all(getattr(request, name) is None for name in _DIFFUSION) and has_upscaler()


def enlarge_in_one_step(
    request: Request, source: Any, work: Path, place: Path, device: str, report: Report | None,
    say: Callable[[str], None],
) -> tuple[Any, int]:  # fmt: skip
    """The enlarged picture (3, H, W) of bytes, mapped from a file in `work`, and the pitch of its tiles in pixels.

    Raises:
        OutputError: the disk beside `place` has no room.
    """
    from asd.texture_enlarge import TextureEnlargement, enlarge_texture, load_upscaler, texture_disk, texture_work
    from asd.texture_tiles import TILE
    from asd.texture_upscaler import SCALE

    model = load_upscaler(device)
    job = TextureEnlargement(
        size=request.size, seamless=request.axes, seed=request.seed, model=upscaler_version()
    )
    size = (source.shape[2], source.shape[1])
    if not work.exists():
        cells = texture_work(size, job)
        told = f"{cells} pixels through the upscaler, about {cells * _seconds_per_cell(model) / 60:.1f} minutes"
        _say_cost(told, texture_disk(size, job), place, say)
    return enlarge_texture(source, model, work, job, callback=report), SCALE * TILE


def enlarge_by_diffusion(
    request: Request, pipeline: Any, source: Any, work: Path, place: Path, report: Report | None,
    say: Callable[[str], None],
) -> tuple[Any, int]:  # fmt: skip
    """As `enlarge_in_one_step`, with the prompt, strength, … of the request."""
    from asd.big import enlarge, enlargement_cost, seconds_per_call

    model, job = enlargement(request, pipeline)
    if not work.exists():
        cost = enlargement_cost((source.shape[2], source.shape[1]), model, job)
        told = f"{cost.steps} steps of {cost.calls // cost.steps} network calls in the mean, about "
        told += f"{cost.calls * seconds_per_call(model, job) / 60:.1f} minutes and the autoencoder's"
        _say_cost(told, cost.disk, place, say)
    return enlarge(source, model, work, job, callback=report), model.tile * model.factor


def upscaler_version() -> str:
    """What decides the pixels of an enlargement in one step: the contents of the weights."""
    from asd.texture_enlarge import FILES, WEIGHTS
    from ui.fingerprint import digest

    return hashlib.sha256("".join(digest(WEIGHTS / name) for name in FILES).encode()).hexdigest()


def _seconds_per_cell(model: Any) -> float:
    """By trying it on a small tile, which repeats more around it than a real one does."""
    import torch

    side = _TRIED + 2 * model.reach
    parameter = next(model.parameters())
    cells = torch.zeros(1, 4, side, side, device=parameter.device)
    with torch.no_grad():
        sums = model.sums(cells)
        began = time.perf_counter()
        model.paint(cells, sums).cpu()
    # what is worked on shrinks from what goes in to what comes out; tiles have some 30 % around them and a first pass
    return (time.perf_counter() - began) / ((_TRIED + side) / 2) ** 2 * 1.3


def enlargement(request: Request, pipeline: Any) -> tuple[Any, Any]:
    """The model with its prompt and the `Enlargement` of a request of kind upscale."""
    from asd.big import Enlargement
    from asd.upscaling import STEPS, STRENGTH
    from materials.texture_model import TextureModel
    from materials.textures import UPSCALE_GUIDANCE, UPSCALE_STEPS, UPSCALE_STRENGTH
    stable = hasattr(pipeline, "latent_model")
    if stable:
        model = pipeline.latent_model(
            request.prompt, negative_prompt=request.negative, guidance_scale=request.guidance
        )
    else:
        guidance = UPSCALE_GUIDANCE if request.guidance is None else request.guidance
        model = TextureModel(pipeline, [request.prompt], negative=request.negative, guidance=guidance)
    job = Enlargement(
        size=request.size,
        strength=request.strength or (STRENGTH if stable else UPSCALE_STRENGTH),
        steps=request.steps or (STEPS if stable else UPSCALE_STEPS),
        seamless=request.axes,
        seed=request.seed,
        faithful=not stable,
        model=json.dumps([_weights(request), request.prompt, request.negative, request.guidance]),
    )
    return model, job


def _weights(request: Request) -> Any:
    """What tells one model, with its LoRA, from another."""
    from ui.fingerprint import find_weights, lora_version

    found = find_weights(request.model).version
    return found if request.lora is None else [found, lora_version(request.lora), request.lora_scale]


def work_folder(place: Path, asked: dict[str, Any], source: Any) -> Path:
    """The hidden folder beside `place` that an interrupted enlargement is gone on with from."""
    mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + source.tobytes()).hexdigest()[:8]
    return place.resolve().with_name(f".{place.name}.{mark}.job")


def _say_cost(told: str, disk: int, place: Path, say: Callable[[str], None]) -> None:
    """What is to come, or an OutputError where the disk has no room for it."""
    from ui.memory import human
    from ui.output import free_space

    say(f"{told}; up to {human(disk)} of disk beside {place}")
    there = free_space(place)
    if there is not None and disk > there:
        raise OutputError(f"Expected {human(disk)} of free disk beside {place}, but it has {human(there)}")
