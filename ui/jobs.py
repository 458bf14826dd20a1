"""`run_job`: the only way a request becomes files."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from asd.errors import OutputError, SizeError, ZelligeError
from materials.atomic import refused, staged
from materials.density import base_size
from ui import memory
from ui.enlarging import in_one_step
from ui.locks import load_locks
from ui.output import check_output, free_space, sample_folders
from ui.request import OWN_SIZE, Request
from ui.sources import load_variation

if TYPE_CHECKING:
    from materials.material import Material
    from materials.provenance import Source

log = logging.getLogger(__name__)

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


class Pipeline(Protocol):
    """What `run_job` needs of `materials.MaterialPipeline`."""

    def __call__(
        self,
        prompt: str,
        *,
        size: tuple[int, int],
        seamless: Any,
        seed: int,
        steps: int | None,
        guidance: float | None,
        scale: float | None,
        lock: Mapping[str, Any] | None,
        callback: Callable[[int, int], None] | None,
        **variation: Any,
    ) -> Material: ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`step` of `steps` of sample `sample` of `count` is done; samples count from 0, steps from 1."""

    sample: int
    count: int
    step: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One finished result folder and its files, sorted by name."""

    index: int
    seed: int
    folder: Path
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job made: `samples` in order, all of them unless the job was interrupted."""

    request: Request
    out: Path
    samples: tuple[Sample, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of all samples, in order."""
        return tuple(file for sample in self.samples for file in sample.files)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for `--json`."""
        samples = [
            {
                "index": sample.index,
                "seed": sample.seed,
                "folder": str(sample.folder),
                "files": [str(file) for file in sample.files],
            }
            for sample in self.samples
        ]
        return {"request": self.request.to_dict(), "out": str(self.out), "samples": samples}


class JobInterrupted(KeyboardInterrupt):
    """Ctrl-C during a job: `result` holds the samples that are whole, `missing` the folders that are not there."""

    def __init__(self, result: Result, missing: tuple[Path, ...]) -> None:
        super().__init__(f"{len(missing)} of {result.request.count} results are missing")
        self.result = result
        self.missing = missing


def run_job(
    request: Request,
    out: str | Path,
    pipeline: Pipeline | None = None,
    progress: Callable[[Progress], None] | None = None,
    *,
    device: str = "auto",
    overwrite: bool = False,
    vram: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Result:
    """Make the request's samples and write each as a folder that is complete or absent.

    One sample is written to `out`, more to `out`/0000, `out`/0001, … Sample i has the seed `request.seed` + i.

    Args:
        request: what to make.
        out: a folder that is absent or empty.
        pipeline: a loaded pipeline, used in place of `request.model`; None loads that one on `device`. The shipped
            upscaler (`ui.enlarging.in_one_step`) needs none.
        progress: called after every denoising step.
        device: "auto" or a torch device such as "cuda:1"; of no effect on a given pipeline.
        vram: bytes of the device's memory to keep to, see `asd.memory_plan`; on the CPU of this process'.
        say: called with a line about what is to come: the plan of memory, the cost of an enlargement.
        overwrite: let `out` hold an earlier result, which is replaced; a folder with anything else in it never is.

    Raises:
        ZelligeError: SizeError where memory does not suffice, OutputError where `out` cannot be written or disk space
            does not suffice, CheckpointError for a missing or damaged model or LoRA; all but a disk that fills up
            meanwhile are found before anything is generated, and nothing is left half-written.
        JobInterrupted: on Ctrl-C.
    """
    out = Path(out)
    check_output(out, request.count, overwrite=overwrite)
    _check_resources(request, out)
    locks = load_locks(request)
    variation = load_variation(request) if request.kind == "material" else {}
    samples: list[Sample] = []
    folders = sample_folders(out, request.count)
    try:
        with ExitStack() as adapted:
            for index, folder in enumerate(folders):
                # opened before the model is loaded and the sample made, so that a refusal costs no time
                with staged(folder) as stage:
                    if pipeline is None:
                        pipeline = None if in_one_step(request) else _load(request.model, device)
                        if vram is not None:
                            from ui.pictures import keep_to

                            keep_to(pipeline, request, vram, say or log.info)
                    if index == 0 and request.lora is not None:
                        from asd.lora import lora_loaded

                        scale = 1.0 if request.lora_scale is None else request.lora_scale
                        adapted.enter_context(lora_loaded(pipeline, request.lora, scale))
                    report = _reporter(progress, index, request.count)
                    names = _make(request.sample(index), stage, folder, pipeline, locks, variation, report, say, device)
                files = tuple(folder / name for name in names)
                samples.append(Sample(index=index, seed=request.seed + index, folder=folder, files=files))
                log.info("wrote %s", folder)
    except KeyboardInterrupt as error:
        result = Result(request=request, out=out, samples=tuple(samples))
        raise JobInterrupted(result, tuple(folders[len(samples) :])) from error
    return Result(request=request, out=out, samples=tuple(samples))


def _make(
    request: Request,
    stage: Path,
    folder: Path,
    pipeline: Pipeline | None,
    locks: Mapping[str, Any],
    variation: Mapping[str, Any],
    report: Callable[[int, int], None] | None,
    say: Callable[[str], None] | None = None,
    device: str = "auto",
) -> list[str]:
    """Generate one sample into `stage`; the sorted names of its files. Errors name `folder`, the place to be."""
    from materials.files import save_material

    try:
        if request.kind in ("image", "upscale"):
            from ui.pictures import make_picture

            with refused(folder):
                return make_picture(request, stage, folder, pipeline, report, say or log.info, device)
        assert pipeline is not None  # only an enlargement does without
        _check_material_model(pipeline)
        extra: dict[str, Any] = {}
        if request.kind == "maps":
            material, extra = _maps(request, pipeline, report)
        else:
            material = pipeline(
                request.prompt,
                size=request.size,
                seamless=request.seamless,
                seed=request.seed,
                steps=request.steps,
                guidance=request.guidance,
                scale=request.scale,
                lock=locks or None,
                callback=report,
                **({} if request.guide == "none" else {"guide": request.guide}),
                **({} if request.refine == 1 else {"refine": request.refine}),
                **variation,
            )
        with refused(folder):
            save_material(
                material,
                stage,
                request=request.to_dict(),
                extra=extra,
                height_format=request.height_format,
                metadata=not request.strip_metadata,
                source=_source(request),
            )
    except OutputError as error:
        raise OutputError(str(error).replace(str(stage), str(folder))) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            raise SizeError(f"Expected enough memory for {_pixels(request)}, but it ran out") from error
        raise
    return sorted(file.name for file in stage.iterdir())


def _maps(
    request: Request, pipeline: Any, report: Callable[[int, int], None] | None
) -> tuple[Material, dict[str, Any]]:
    """The maps of a photo, and what `material.json` says beside them."""
    from materials.estimate import estimate_maps, prepare_photo

    ready = prepare_photo(str(request.image), request.seamless)
    size = None if request.size == OWN_SIZE else request.size
    material = estimate_maps(ready, size=size, model=pipeline, callback=report)
    return material, {} if ready.remade is None else {"remade": ready.remade}


def sized(request: Request) -> Request:
    """The request with the size that the result will have: that of the photo, where none is asked for.

    Raises ZelligeError for a photo that cannot be read.
    """
    if request.kind != "maps" or request.size != OWN_SIZE:
        return request
    from materials.photo import photo_size

    return dataclasses.replace(request, size=photo_size(str(request.image)))


def _source(request: Request) -> Source:
    given = request.image is not None or any(isinstance(v, str) and not v.startswith("#") for _, v in request.lock)
    return "compositeWithTrainedAlgorithmicMedia" if given else "trainedAlgorithmicMedia"


def _check_material_model(pipeline: Pipeline) -> None:
    from asd.errors import CheckpointError

    if hasattr(pipeline, "latent_model"):
        raise CheckpointError("Expected a material model, but got a Stable Diffusion checkpoint, which paints images")


def _reporter(
    progress: Callable[[Progress], None] | None, sample: int, count: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda step, steps: progress(Progress(sample=sample, count=count, step=step, steps=steps))


def _load(model: str | None, device: str) -> Pipeline:
    _check_device(device)
    from materials.pipeline import MaterialPipeline
    from ui.pictures import is_stable_diffusion, load_stable_diffusion

    if model is not None and is_stable_diffusion(model):
        return load_stable_diffusion(model, device)
    return MaterialPipeline.from_pretrained(model, device=device)


def _check_device(device: str) -> None:
    if device == "auto":
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ZelligeError(f"Expected device to be auto, cpu, cuda or mps, but {device!r} fails: {reason}") from error


def memory_needed(request: Request) -> int:
    """Peak resident bytes of one sample, estimated. Raises ZelligeError for a photo that cannot be read."""
    if request.kind != "maps":
        kind = request.kind if request.guide == "none" else "guided"
        if request.refine == 1:
            return memory.memory_estimate(request.size, kind)
        return memory.refined_memory_estimate(request.size, base_size(request.size, request.refine), kind)
    from materials.photo import photo_size

    return memory.maps_memory_estimate(photo_size(str(request.image)), sized(request).size)


def _check_resources(request: Request, out: Path) -> None:
    needed, there, request = memory_needed(request), memory.available_memory(), sized(request)
    if there is not None and needed > there:
        raise SizeError(f"Expected a size that fits the {memory.human(there)} of free memory, "
                        f"but {_pixels(request)} takes about {memory.human(needed)}")  # fmt: skip
    needed, there = memory.disk_estimate(request.size, request.count), free_space(out)
    if there is not None and needed > there:
        raise OutputError(f"Expected {memory.human(needed)} of free disk for {request.count} x {_pixels(request)}, "
                          f"but {out} has {memory.human(there)}")  # fmt: skip


def _pixels(request: Request) -> str:
    return f"{request.size[0]}x{request.size[1]} pixels"
