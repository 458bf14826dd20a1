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

    @classmethod
    def empty(
        cls,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        folder: Path | None = None,
        device: torch.device | None = None,
    ) -> Canvas:
        """A canvas in host memory or on a device, or in a file of its own in `folder`.

        Raises:
            OutputError: the file can't be made, or the disk has no room for it.
        """
        if folder is None:
            return cls(torch.empty(shape, dtype=dtype, device=device))
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
        return cls(torch.from_file(name, shared=True, size=count, dtype=dtype).view(shape), path)

    def close(self) -> None:
        """Give the memory or the file back."""
        self.data = self.data.new_empty(0)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def read(self, rows: Span, columns: Span, device: torch.device) -> Tensor:
        """(1, C, h, w) on `device`; a view where nothing has to move."""
        channels, height, width = self.data.shape
        tops, lefts = _pieces(rows, height), _pieces(columns, width)
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
    """Mean and variance over all cells of each channel group, from disjoint tiles (Chan, Golub & LeVeque 1983)."""

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._counts: list[int] = []
        self._parts: list[Tensor] = []

    def add(self, cells: Tensor) -> None:
        """Take in (1, C, h, w)."""
        flat = cells.reshape(self._groups, -1)
        flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
        variance, mean = torch.var_mean(flat, 1, correction=0)
        self._counts.append(flat.shape[1])
        self._parts.append(torch.stack([mean, variance]))

    def result(self) -> tuple[Tensor, Tensor]:
        """(mean, variance), each (groups,) in float64 on the CPU: one transfer for all tiles."""
        parts = torch.stack(self._parts).to("cpu", torch.float64)
        weight = torch.tensor(self._counts, dtype=torch.float64)[:, None] / sum(self._counts)
        mean = (weight * parts[:, 0]).sum(0)
        variance = (weight * (parts[:, 1] + (parts[:, 0] - mean).square())).sum(0)
        return mean, variance


def _reserve(handle: int, size: int) -> None:
    # a sparse file on a full disk would kill the process at a write (SIGBUS) instead of raising here
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)


def _pieces(span: Span, size: int) -> list[tuple[int, int]]:
    """The span's cells as runs inside 0..size."""
    made: list[tuple[int, int]] = []
    at = span.start
    while at < span.stop:
        start = at % size
        stop = min(size, start + span.stop - at)
        made.append((start, stop))
        at += stop - start
    return made
