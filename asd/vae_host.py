"""Canvases that wait in pinned host memory as strips of rows, copied while the device computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from .host_memory import available_memory
from .vae_canvas import pieces
from .vae_layers import Span

CHUNK = 2**26
"""Bytes pinned at once: a power of two, to which PyTorch would round them."""
SHARE = 0.8
"""Of the host's free memory, that canvases may take."""

_most_pinned = 0


class Host:
    """Pinned chunks of one run, used again by the next canvas, and the two streams that copies go through.

    PyTorch keeps what was pinned for later runs (`torch.accelerator.empty_host_cache` gives it back). On a CPU the
    same code copies at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.chunk = CHUNK
        cuda = device.type == "cuda"
        self.reading = torch.cuda.Stream(device) if cuda else None
        self.writing = torch.cuda.Stream(device) if cuda else None
        self._free: list[Tensor] = []
        self._taken = 0
        self._room: int | None = None

    def canvas(self, shape: tuple[int, int, int], dtype: torch.dtype) -> HostCanvas | None:
        """A canvas (C, H, W); None where the host has no room for it."""
        channels, height, width = shape
        rows = self.chunk // (channels * width * dtype.itemsize)
        if rows == 0:
            return None
        chunks = self._take(-(-height // rows))
        if chunks is None:
            return None
        self.follow(self.writing, self.reading)  # whoever had the chunks before may still be read
        return HostCanvas(self, shape, dtype, rows, chunks)

    def _take(self, count: int) -> list[Tensor] | None:
        global _most_pinned
        if self._room is None:
            free = available_memory()
            self._room = _most_pinned + (0 if free is None else int(SHARE * free))
        more = count - len(self._free)
        if more > 0 and (self._taken + more) * self.chunk > self._room:
            return None
        try:
            for _ in range(more):
                pinned = self.device.type == "cuda"
                self._free.append(torch.empty(self.chunk, dtype=torch.uint8, pin_memory=pinned))
                self._taken += 1
        except RuntimeError:  # the system refuses to pin so much
            return None
        finally:
            _most_pinned = max(_most_pinned, self._taken * self.chunk)
        made, self._free = self._free[:count], self._free[count:]
        return made

    def give(self, chunks: Sequence[Tensor]) -> None:
        self._free.extend(chunks)

    @property
    def computing(self) -> torch.cuda.Stream | None:
        return torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None

    def follow(self, stream: torch.cuda.Stream | None, other: torch.cuda.Stream | None) -> None:
        """What comes on one stream waits for all that there is on the other."""
        if stream is not None and other is not None:
            stream.wait_stream(other)

    def mark(self, stream: torch.cuda.Stream | None) -> torch.cuda.Event | None:
        """When all that there is on a stream is done."""
        if stream is None:
            return None
        event = torch.cuda.Event()
        event.record(stream)
        return event

    def on(self, stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
        return nullcontext() if stream is None else torch.cuda.stream(stream)


class HostCanvas:
    """(C, H, W) cells of one image as chunks (rows, W, C): full-width windows are read and written without gaps."""

    def __init__(
        self, host: Host, shape: tuple[int, int, int], dtype: torch.dtype, rows: int, chunks: list[Tensor]
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._host = host
        self._rows = rows
        self._chunks = chunks
        self._waiting: tuple[Tensor, torch.cuda.Event | None] | None = None

    def close(self) -> None:
        self._host.give(self._chunks)
        self._chunks = []

    def write(self, rows: Span, columns: Span, cells: Tensor) -> None:
        """Full-width (1, C, h, W); they are copied while the next are computed."""
        if columns != Span(0, self.shape[2]):
            raise ValueError(f"Expected all {self.shape[2]} columns, but got {columns}.")
        host, data = self._host, cells[0].permute(1, 2, 0).contiguous()
        host.follow(host.writing, host.computing)
        with host.on(host.writing):
            for start, stop, part in self._parts(rows.start, rows.stop):
                part.copy_(data[start - rows.start : stop - rows.start], non_blocking=True)
        self._release()
        self._waiting = data, host.mark(host.writing)

    def finish(self) -> None:
        """All is written; reads may begin."""
        self._release()
        self._host.follow(self._host.reading, self._host.writing)

    def _release(self) -> None:
        """Let go of the cells written before the last ones, whose memory computation takes from here on."""
        if self._waiting is not None and self._waiting[1] is not None:
            self._waiting[1].wait(self._host.computing)
        self._waiting = None

    def feed(self, windows: Sequence[tuple[Span, Span]]) -> Iterator[Tensor]:
        """(1, C, h, w) of each window, channels last; the next one is copied while one is used, and ends it."""
        if not windows:
            return
        channels, _, width = self.shape
        host = self._host
        most = max(rows.stop - rows.start for rows, _ in windows)
        slots = [torch.empty((most, width, channels), dtype=self.dtype, device=host.device) for _ in windows[:2]]
        ready = self._fetch(slots[0], windows[0][0])
        try:
            for i, (rows, columns) in enumerate(windows):
                now = ready
                if i + 1 < len(windows):
                    ready = self._fetch(slots[(i + 1) % 2], windows[i + 1][0])
                if now is not None:
                    now.wait(host.computing)
                yield _cut(slots[i % 2][: rows.stop - rows.start].permute(2, 0, 1)[None], columns)
        finally:
            host.follow(host.computing, host.reading)

    def _fetch(self, slot: Tensor, rows: Span) -> torch.cuda.Event | None:
        """Copy the rows once all that was asked of the device so far, the slot's last use included, is done."""
        host = self._host
        host.follow(host.reading, host.computing)
        with host.on(host.reading):
            at = 0
            for top, bottom in pieces(rows, self.shape[1]):
                for start, stop, part in self._parts(top, bottom):
                    slot[at : at + stop - start].copy_(part, non_blocking=True)
                    at += stop - start
        return host.mark(host.reading)

    def _parts(self, top: int, bottom: int) -> Iterator[tuple[int, int, Tensor]]:
        """Rows top..bottom-1 as they lie in chunks: first row, row after the last, and the cells."""
        channels, _, width = self.shape
        size = self._rows * width * channels * self.dtype.itemsize
        for number in range(top // self._rows, -(-bottom // self._rows)):
            first = number * self._rows
            start, stop = max(top, first), min(bottom, first + self._rows)
            chunk = self._chunks[number][:size].view(self.dtype).view(self._rows, width, channels)
            yield start, stop, chunk[start - first : stop - first]


def _cut(cells: Tensor, columns: Span) -> Tensor:
    """The columns asked for out of full-width cells; on an axis that wraps they may lie beyond."""
    parts = [cells[..., left:right] for left, right in pieces(columns, cells.shape[-1])]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
