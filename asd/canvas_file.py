"""Pictures that needn't fit in memory: bytes in a file, read and written in rectangles, streamed out as BigTIFF."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import OutputError, ZelligeError
from .resample import resample_window
from .vae_canvas import Canvas
from .vae_layers import Span

TIFF_TILE = 256
STRIP = 256
"""Rows copied at once."""


def create(path: Path, size: tuple[int, int]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """A mapped array (3, height, width) of bytes in a new .npy file for `size` = (width, height).

    Raises:
        OutputError: the disk has no room, or the folder refuses.
    """
    width, height = size
    try:
        made = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(3, height, width))
        if hasattr(os, "posix_fallocate"):
            # a sparse file on a full disk would kill the process at a write (SIGBUS) instead of raising here
            with path.open("rb+") as handle:
                os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        reason = error.strerror or error
        raise OutputError(f"Expected room for {3 * width * height} bytes at {path}, but got {reason}.") from error
    return made


def opened(path: Path) -> NDArray[np.uint8]:
    """A mapped array that `create` made."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ZelligeError(f"Expected a canvas in {path}, but it cannot be read: {error}.") from error


class Enlarged(Canvas):
    """A picture (3, h, w) of bytes as the autoencoder reads its enlargement, which is never there as a whole.

    Args:
        pixels: the small picture, mapped or not.
        size: (height, width) that it is enlarged to.
        canvas: (height, width) to be read, which may be a little more: the border is repeated there.
        wrap: whether the picture wraps, (y, x).
        prepare: what makes the network's input of (1, 3, h, w) in [-1, 1].
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        size: tuple[int, int],
        canvas: tuple[int, int],
        wrap: tuple[bool, bool],
        prepare: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        # only the shape of `data` is asked for
        super().__init__(_shaped(canvas))
        self.pixels = pixels
        self.size = size
        self.wrap = wrap
        self.prepare = prepare

    def read(self, rows: Span, columns: Span, device: torch.device) -> Tensor:
        window = resample_window(
            self.pixels, self.size, (rows.start, rows.stop), (columns.start, columns.stop), wrap=self.wrap
        )
        return self.prepare((window / 127.5 - 1)[None]).to(device)

    def close(self) -> None:
        """Nothing is held."""


class Sink(Canvas):
    """Where a decoder's tiles end: `put` gets each with its place, and nothing is kept here."""

    def __init__(self, canvas: tuple[int, int], put: Callable[[Span, Span, Tensor], None]) -> None:
        super().__init__(_shaped(canvas))
        self.size = canvas
        self.put = put

    def write(self, rows: Span, columns: Span, cells: Tensor) -> None:
        self.put(rows, columns, cells)


def _shaped(canvas: tuple[int, int]) -> Tensor:
    """A tensor (3, height, width) that takes no memory."""
    return torch.zeros(1, dtype=torch.uint8).expand(3, *canvas)


def to_bytes(x: Tensor) -> NDArray[np.uint8]:
    """(3, h, w) in [-1, 1] to bytes, rounded and clipped."""
    return (x.float() * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file that takes its place, brought to the disk first, when the block ends well."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        try:
            yield beside
            with beside.open("rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(beside, path)
        except OSError as error:
            raise OutputError(f"Expected to write {path}, but the system refused: {error.strerror or error}") from error
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write_tiff(path: str | Path, pixels: NDArray[np.uint8], *, description: str | None = None) -> Path:
    """Write a picture (3, H, W) of bytes as a tiled, deflated TIFF, a tile at a time; BigTIFF from 2 GiB of pixels.

    Raises:
        OutputError: the system refuses, or the disk is full; nothing is left half-written.
    """
    import tifffile

    _, height, width = pixels.shape

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for top in range(0, height, TIFF_TILE):
            band = np.ascontiguousarray(pixels[:, top : top + TIFF_TILE])
            for left in range(0, width, TIFF_TILE):
                part = band[:, :, left : left + TIFF_TILE]
                whole = np.zeros((TIFF_TILE, TIFF_TILE, 3), np.uint8)
                whole[: part.shape[1], : part.shape[2]] = part.transpose(1, 2, 0)
                yield whole

    options: dict[str, Any] = {"tile": (TIFF_TILE, TIFF_TILE), "compression": "zlib", "predictor": True}
    path = Path(path)
    with replacing(path) as beside, tifffile.TiffWriter(beside, bigtiff=pixels.size >= 2**31) as writer:
        writer.write(
            tiles(), shape=(height, width, 3), dtype=np.uint8, photometric="rgb", description=description,
            metadata=None, software="zellige", **options,
        )  # fmt: skip
    return path
