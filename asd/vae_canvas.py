"""Where activations wait between tiles: host memory or a file, and the statistics gathered on the way there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from .errors import OutputError
from .vae_layers import Span


class Canvas:
    """(C, H, W) cells of one image, read and written in rectangles; on an axis that wraps, reads may leave it."""

    def __init__(self, data: Tensor, path: Path | None = None) -> None:
        self.data = data
        self._path = path

    @property
    def shape(self) -> torch.Size:
        return self.data.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @classmethod
    def empty(
        cls,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        folder: Path | None = None,
        device: torch.device | None = None,
        channels_last: bool = False,
    ) -> Canvas:
        """A canvas in host memory or on a device, or in a file of its own in `folder`; channels lie last if asked.

        Raises:
            OutputError: the file can't be made, or the disk has no room for it.
        """
        lies = (*shape[1:], shape[0]) if channels_last else shape

        def shaped(data: Tensor) -> Tensor:
            return data.view(lies).permute(2, 0, 1) if channels_last else data.view(lies)

        if folder is None:
            return cls(shaped(torch.empty(lies, dtype=dtype, device=device)))
        count = shape[0] * shape[1] * shape[2]
        size = count * torch.empty(0, dtype=dtype).element_size()
        try:
            handle, name = tempfile.mkstemp(suffix=".canvas", dir=folder)
            path = Path(name)
            try:
                _reserve(handle, size)
            except OSError:
                path.unlink()
                raise
            finally:
                os.close(handle)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"Expected room for {size} bytes in {folder}, but got {reason}.") from error
        return cls(shaped(torch.from_file(name, shared=True, size=count, dtype=dtype)), path)

    def close(self) -> None:
        """Give the memory or the file back."""
        self.data = self.data.new_empty(0)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def read(self, rows: Span, columns: Span, device: torch.device) -> Tensor:
        """(1, C, h, w) on `device`; a view where nothing has to move."""
        channels, height, width = self.data.shape
        tops, lefts = pieces(rows, height), pieces(columns, width)
        if len(tops) == len(lefts) == 1:
            return self.data[:, slice(*tops[0]), slice(*lefts[0])].unsqueeze(0).to(device)
        shape = (1, channels, rows.stop - rows.start, columns.stop - columns.start)
        made = torch.empty(shape, dtype=self.data.dtype, device=device)
        y = 0
        for top, bottom in tops:
            x = 0
            for left, right in lefts:
                made[0, :, y : y + bottom - top, x : x + right - left] = self.data[:, top:bottom, left:right]
                x += right - left
            y += bottom - top
        return made

    def write(self, rows: Span, columns: Span, cells: Tensor) -> None:
        self.data[:, rows.start : rows.stop, columns.start : columns.stop].copy_(cells[0])


class Moments:
    """Mean and variance over all cells of each channel group, from disjoint tiles (Chan, Golub & LeVeque 1983).

    By channel, no tile is copied: each channel's moments are taken where it lies, and groups are merged at the end.
    """

    def __init__(self, groups: int, by_channel: bool = False) -> None:
        self._groups = groups
        self._by_channel = by_channel
        self._counts: list[int] = []
        self._parts: list[Tensor] = []

    def add(self, cells: Tensor) -> None:
        """Take in (1, C, h, w)."""
        if self._by_channel:
            mean, variance = _channel_moments(cells)
        else:
            flat = cells.reshape(self._groups, -1)
            flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
            variance, mean = torch.var_mean(flat, 1, correction=0)
        self._counts.append(cells.shape[-2] * cells.shape[-1])
        self._parts.append(torch.stack([mean, variance]))

    def result(self) -> tuple[Tensor, Tensor]:
        """(mean, variance), each (groups,) in float64 on the CPU: one transfer for all tiles."""
        parts = torch.stack(self._parts).to("cpu", torch.float64)
        parts = parts.unflatten(2, (self._groups, -1))
        weight = torch.tensor(self._counts, dtype=torch.float64)[:, None, None] / sum(self._counts) / parts.shape[3]
        mean = (weight * parts[:, 0]).sum((0, 2))
        variance = (weight * (parts[:, 1] + (parts[:, 0] - mean[:, None]).square())).sum((0, 2))
        return mean, variance


def _channel_moments(cells: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, variance) of each channel, in float32 at least."""
    if not cells.is_cuda:
        wide = cells if cells.dtype in (torch.float32, torch.float64) else cells.float()
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        return mean, variance
    # Welford's sums in float32 of half precision, with no copy; it returns 1 / sqrt(variance), or 0 for 0
    mean, inverse = torch.batch_norm_stats(cells, 0.0)
    return mean, torch.where(inverse == 0, 0.0, inverse.square().reciprocal())


def _reserve(handle: int, size: int) -> None:
    # a sparse file on a full disk would kill the process at a write (SIGBUS) instead of raising here
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)


def pieces(span: Span, size: int) -> list[tuple[int, int]]:
    """The span's cells as runs inside 0..size."""
    made: list[tuple[int, int]] = []
    at = span.start
    while at < span.stop:
        start = at % size
        stop = min(size, start + span.stop - at)
        made.append((start, stop))
        at += stop - start
    return made
