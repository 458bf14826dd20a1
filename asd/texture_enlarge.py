"""Enlarging with the shipped upscaler: any factor, in memory, or in a folder that a killed run goes on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .canvas_file import create, opened, replacing, to_bytes
from .errors import CheckpointError, OutputError
from .job_folder import RESULT, Bytes, begin, check_bytes, cut, publish, release
from .resample import resample
from .seamless import SeamlessAxes, parse_axes
from .sizes import Size
from .texture_tiles import GATHER, PAINT, TILE, TileRun, units
from .texture_upscaler import SCALE, TextureUpscaler

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the upscaler that ships."""
FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def has_upscaler(folder: Path | None = None) -> bool:
    """Whether there are weights of an upscaler in a folder, by default the one that ships."""
    return all(((folder or WEIGHTS) / name).is_file() for name in FILES)


def load_upscaler(device: str = "auto", folder: Path | None = None) -> TextureUpscaler:
    """The upscaler of a folder, by default the one that ships, float32, on a device ("auto": the first GPU there is).

    Raises:
        CheckpointError: no weights, or damaged ones.
    """
    return _loaded(device, folder or WEIGHTS)


@lru_cache(maxsize=1)
def _loaded(device: str, folder: Path) -> TextureUpscaler:
    if not has_upscaler(folder):
        raise CheckpointError(f"Expected the upscaler's {' and '.join(FILES)} in {folder}, but it lacks them.")
    try:
        made: Any = TextureUpscaler.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    except Exception as error:  # diffusers and safetensors raise all kinds for a damaged folder
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"Expected an upscaler in {folder}, but it does not load: {reason}") from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    module: nn.Module = made.eval().float()
    nn.Module.to(module, device=torch.device(device), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - the stubs lack this overload
    return made


def stages(source: tuple[int, int], target: tuple[int, int]) -> list[Size]:
    """Sizes from which a picture is made four times larger, the first its own; the last is then brought to `target`.

    What leads to the last is brought to a quarter of the target before, so that no more pixels are made than needed.

    >>> stages((100, 80), (400, 320)), stages((100, 80), (1001, 800)), stages((100, 80), (100, 80))
    ([Size(width=100, height=80)], [Size(width=100, height=80), Size(width=251, height=200)], [])
    """
    if tuple(source) == tuple(target):
        return []
    sizes, reached = [Size(*source)], SCALE
    while any(reached * a < b for a, b in zip(source, target, strict=True)):
        sizes.append(Size(*(reached * side for side in source)))
        reached *= SCALE
    if len(sizes) > 1:
        sizes[-1] = Size(*(-(-side // SCALE) for side in target))
    return sizes


@torch.no_grad()
def enlarged_texture(
    pixels: Tensor,
    model: TextureUpscaler,
    size: tuple[int, int],
    *,
    seamless: SeamlessAxes = "none",
    seed: int = 0,
    tile: int = TILE,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """A picture (3, h, w) in [0, 1] at `size` = (width, height) of the same ratio: (3, height, width) in [0, 1].

    In memory; `enlarge_texture` does the same in files, where pixels are bytes in between.
    """
    wrap_x, wrap_y = parse_axes(seamless)
    target = Size(*size)
    sizes = stages((pixels.shape[2], pixels.shape[1]), target)
    done, total = 0, sum(units(each, tile) for each in sizes)

    def tick(units: int) -> None:
        nonlocal done
        done += units
        if callback is not None:
            callback(done, total)

    for k, each in enumerate(sizes):
        pixels = resample(pixels[None], (each.height, each.width), wrap_x=wrap_x, wrap_y=wrap_y)[0].clamp(0, 1)
        run = TileRun(model, pixels.cpu().numpy(), wrap=(wrap_y, wrap_x), seed=seed, stage=k, tile=tile)
        sums = torch.stack([run.gather(row, tick) for row in range(len(run.rows))]).sum(0)
        made = torch.empty(3, each.height * SCALE, each.width * SCALE)
        for row in range(len(run.rows)):
            for rows, columns, part in run.paint(sums, row, tick):
                made[:, rows.start : rows.stop, columns.start : columns.stop] = part
        pixels = made.clamp_(0, 1)
    return resample(pixels[None], (target.height, target.width), wrap_x=wrap_x, wrap_y=wrap_y)[0].clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class TextureEnlargement:
    """What to do; equal ones, with one model, make equal bytes.

    Attributes:
        size: (width, height) in pixels.
        seamless: axes on which the picture tiles and shall go on tiling.
        seed: of the detail that the small picture doesn't decide.
        tile: see `TileRun`.
        model: what decides the network's answers, as text, such as a hash of the weights.
    """

    size: tuple[int, int]
    seamless: SeamlessAxes = "none"
    seed: int = 0
    tile: int = TILE
    model: str = ""


def texture_disk(image_size: tuple[int, int], job: TextureEnlargement) -> int:
    """Bytes that `enlarge_texture` of an image of (width, height) takes in its folder at most."""
    sizes = stages(image_size, job.size)
    pixels = max((each.width * each.height * SCALE**2 for each in sizes), default=0)
    return 3 * (pixels + job.size[0] * job.size[1]) + 2**20


def texture_work(image_size: tuple[int, int], job: TextureEnlargement) -> int:
    """Cells that the network paints: of all small pictures together."""
    return sum(each.width * each.height for each in stages(image_size, job.size))


@torch.no_grad()
def enlarge_texture(
    image: Bytes,
    model: TextureUpscaler,
    folder: str | Path,
    job: TextureEnlargement,
    *,
    callback: Callable[[int, int], None] | None = None,
) -> Bytes:
    """Enlarge a picture (3, h, w) of bytes; returns the result, mapped from a file in `folder`.

    After every row of tiles the pixels and how far they are go to the disk. A run that stops, by an exception, Ctrl-C
    or kill -9, is gone on with by the same call, and the bytes are those of a run without a stop. Memory depends on
    the tile alone, but for the small picture.

    Args:
        image: sRGB.
        model: on any device.
        folder: the job's own; it is made if need be.
        job: size, seed, ...
        callback: called as (done, of all) in units of work; a run that is gone on with starts with a higher number.

    Raises:
        ZelligeError: the folder is of another job.
        OutputError: the disk has no room.
        CheckpointError: a file in the folder is damaged.
    """
    folder = Path(folder)
    check_bytes(image)
    begin(folder, image, asdict(job))
    wrap_x, wrap_y = parse_axes(job.seamless)
    image = cut(image, job.size, wrap_x=wrap_x, wrap_y=wrap_y)
    sizes = stages((image.shape[2], image.shape[1]), job.size)
    if not sizes:
        return _kept(image, folder / RESULT)
    total = sum(units(each, job.tile) for each in sizes)
    targets = [*(folder / f"pass-{k}.npy" for k in range(len(sizes) - 1)), folder / RESULT]
    finished = [k for k, target in enumerate(targets) if target.is_file()]
    for k in range(max(finished, default=0), len(sizes)):
        before = sum(units(each, job.tile) for each in sizes[:k])

        def tick(done: int, before: int = before) -> None:
            if callback is not None:
                callback(before + done, total)

        if not targets[k].is_file():
            wrap = (wrap_y, wrap_x)
            run = TileRun(model, image, wrap=wrap, seed=job.seed, stage=k, tile=job.tile)
            _stage(run, folder, f"{k}", targets[k], [*sizes[1:], Size(*job.size)][k], tick)
        image = opened(targets[k])
        for rest in (*folder.glob(f"{k}-*"), *folder.glob(f".{k}-*"), *targets[:k]):
            rest.unlink(missing_ok=True)
    return image


def _stage(run: TileRun, folder: Path, stem: str, target: Path, size: Size, tick: Callable[[int], None]) -> None:
    """One fourfold enlargement, from the row of tiles that an earlier run was at."""
    path, told = folder / f"{stem}-pixels.npy", _Progress(folder, stem)
    done = 0

    def worked(more: int) -> None:
        nonlocal done
        done += more
        tick(done)

    _, height, width = run.pixels.shape
    gathered = painted = 0
    if told.begun:
        gathered, painted, sums = told.read()
        worked(len(run.columns) * (GATHER * gathered + PAINT * painted))
    else:
        sums = torch.zeros(())
    for row in range(gathered, len(run.rows)):
        sums = sums + run.gather(row, worked)
        told.reach(row + 1, 0, sums)
        release(run.pixels)
    made = told.pixels((3, height * SCALE, width * SCALE)) if painted else create(path, (width * SCALE, height * SCALE))
    for row in range(painted, len(run.rows)):
        for rows, columns, tile in run.paint(sums, row, worked):
            made[:, rows.start : rows.stop, columns.start : columns.stop] = to_bytes(tile * 2 - 1)
        made.flush()
        told.reach(len(run.rows), row + 1, sums)
        release(made)
        release(run.pixels)
    publish(made, path, target, size, run.wrap)


class _Progress:
    """Says in a file how far an enlargement is: the rows of tiles of both passes, and the sums of the first."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._file, self._pixels = folder / f"{stem}-rows.safetensors", folder / f"{stem}-pixels.npy"

    @property
    def begun(self) -> bool:
        return self._file.is_file()

    def reach(self, gathered: int, painted: int, sums: Tensor) -> None:
        with replacing(self._file) as beside:
            save_file({"rows": torch.tensor([gathered, painted]), "sums": sums}, beside)

    def read(self) -> tuple[int, int, Tensor]:
        try:
            told = load_file(self._file)
            gathered, painted = told["rows"].tolist()
            return gathered, painted, told["sums"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"Expected an earlier run's {self._file}, but it is damaged: {error}.") from error

    def pixels(self, shape: tuple[int, int, int]) -> Any:
        """Those that are painted, mapped to be gone on with."""
        try:
            made = np.lib.format.open_memmap(self._pixels, mode="r+")
            if made.shape != shape or made.dtype != np.uint8:
                raise ValueError(f"they have the shape {made.shape}")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"Expected an earlier run's {self._pixels}, but it is damaged: {error}.") from error
        return made


def _kept(image: Bytes, target: Path) -> Bytes:
    """A picture that has its size already, as a result."""
    if not target.is_file():
        try:
            with replacing(target) as beside, beside.open("wb") as handle:
                np.save(handle, np.ascontiguousarray(image))
        except OSError as error:
            raise OutputError(f"Expected room at {target}, but got {error.strerror or error}.") from error
    return opened(target)
