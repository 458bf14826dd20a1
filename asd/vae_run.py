"""One image through an autoencoder's layers, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .patching import replaced
from .vae_canvas import Canvas, Moments
from .vae_host import Host, HostCanvas
from .vae_layers import (
    Attend,
    Conv,
    Fork,
    Join,
    Keep,
    Layer,
    Local,
    Norm,
    Pointwise,
    Segment,
    Span,
    TilingError,
    Upsample,
    convolution,
    reads,
    sizes,
    steps,
)

_Window = tuple[Span, Span]
_Made = TypeVar("_Made", bound=Canvas | HostCanvas | None)
LEAST_ROWS = 8
"""Of a full-width strip: below it most of the work is the strip's surroundings."""


def accelerated(device: torch.device) -> bool:
    """Whether channels lie last, moments are taken by channel, and canvases wait in pinned memory.

    The weights stay as they are: PyTorch brings those of a convolution over channels-last cells into their order at
    each call, which costs nothing beside the cells, and the model isn't touched.
    """
    return device.type == "cuda"


class _Tiler:
    """What both ways share: where tiles lie, and the cells of one."""

    def __init__(self, layers: Sequence[Layer], tile: int, wrap: tuple[bool, bool], device: torch.device) -> None:
        self.layers = layers
        self.tile = tile
        self.wrap = wrap
        self.device = device
        self.shrinks = math.prod(layer.stride[0] for layer in layers if isinstance(layer, Conv))
        self.grid = (1, 1)
        self.fast = accelerated(device)

    def moments(self, groups: int) -> Moments:
        return Moments(groups, self.fast)

    def begin(self, image: Tensor | Canvas) -> Canvas:
        """The first canvas; sets the number of tiles, the same for every size that the image has on its way."""
        canvas = Canvas(image) if isinstance(image, Tensor) else image
        rows, columns = (-(-side // (self.shrinks * self.tile)) for side in canvas.data.shape[-2:])
        self.grid = rows, columns
        return canvas

    def windows(self, height: int, width: int, strips: bool = False) -> Iterator[_Window]:
        """Tiles, or full-width strips of as many cells."""
        rows, columns = (math.prod(self.grid), 1) if strips else self.grid
        for high in _split(height, rows):
            for wide in _split(width, columns):
                yield high, wide

    def tiles(
        self,
        layers: Sequence[Local],
        main: Canvas | HostCanvas,
        *,
        kept: Canvas | None = None,
        norm: Callable[[Tensor], Tensor] | None = None,
        strips: bool = False,
    ) -> Iterator[tuple[_Window, Tensor]]:
        """Every tile of what the layers make of a canvas, with its place; a canvas on the host is read in strips."""
        sides = main.shape[-2:]
        extents = [sizes(layers, side, axis) for axis, side in enumerate(sides)]
        windows = [*self.windows(extents[0][-1], extents[1][-1], strips or isinstance(main, HostCanvas))]
        every: list[list[_Window]] = []
        for window in windows:
            needs = [reads(layers, window[axis], axis, extents[axis], wrap=self.wrap[axis]) for axis in (0, 1)]
            every.append([*zip(needs[0], needs[1], strict=True)])
        firsts = [spans[0] for spans in every]
        feed = main.feed(firsts) if isinstance(main, HostCanvas) else (main.read(*w, self.device) for w in firsts)
        for window, spans in zip(windows, every, strict=True):
            cells = next(feed)
            if self.fast:
                cells = cells.contiguous(memory_format=torch.channels_last)
            yield window, self._local(layers, spans, cells if norm is None else norm(cells), kept, norm is not None)

    def shape(self, layers: Sequence[Local], main: Canvas | HostCanvas) -> tuple[int, int]:
        """Height and width of what the layers make of a canvas."""
        height, width = (sizes(layers, side, axis)[-1] for axis, side in enumerate(main.shape[-2:]))
        return height, width

    def _local(
        self, layers: Sequence[Local], spans: Sequence[_Window], x: Tensor, kept: Canvas | None, own: bool
    ) -> Tensor:
        """`x` holds the cells spans[0], and nobody else does if `own`; returns those of spans[-1]."""
        have = spans[0]
        branch: tuple[Tensor, _Window] | None = None
        for layer, out in zip(layers, spans[1:], strict=True):
            match layer:
                case Conv():
                    x, have, own = _convolved(layer, x, have, out), out, True
                case Upsample(factor):
                    x = F.interpolate(x, scale_factor=float(factor), mode="nearest")
                    have, own = (_scaled(have[0], factor), _scaled(have[1], factor)), True
                case Pointwise(function):
                    # a SiLU has no weights: nothing is lost by not calling the module
                    x = F.silu(x, inplace=True) if own and type(function) is nn.SiLU else function(x)
                    own = own or layer.makes
                case Fork():
                    branch, own = (x, have), False
                case Join(shortcut, scale):
                    if branch is not None:
                        other = _window(branch[0], branch[1], out)
                    elif kept is not None:
                        other = kept.read(*out, self.device)
                    else:
                        raise TilingError("Expected a branch to join, but got none.")
                    other = other if shortcut is None else shortcut(other)
                    x = _window(x, have, out)
                    x = x.add_(other) if own and x.dtype == other.dtype else x + other
                    have, branch, own = out, None, True
                    x = x if scale == 1 else x / scale
        return _window(x, have, spans[-1])


class Waiting(_Tiler):
    """All tiles are brought to a norm, and wait there in host memory or in a folder."""

    def __init__(
        self,
        layers: Sequence[Layer],
        tile: int,
        wrap: tuple[bool, bool],
        device: torch.device,
        folder: Path | None,
        sink: Canvas | None = None,
    ) -> None:
        super().__init__(layers, tile, wrap, device)
        self.folder = folder
        self.sink = sink

    def run(self, image: Tensor | Canvas) -> Tensor:
        """(C, H, W) to (C', H', W') in host memory; a sink takes the place of the last canvas."""
        main, kept = self.begin(image), None
        moments: Moments | None = None
        todo = steps(self.layers)
        for i, step in enumerate(todo):
            if isinstance(step, Keep):
                kept = main
                continue
            groups = _groups_next(todo[i + 1 :])
            gathered = None if groups is None else self.moments(groups)
            folder = None if i == len(todo) - 1 else self.folder
            if isinstance(step, Attend):
                made = self._attend(step.module, main, gathered)
            else:
                last = i == len(todo) - 1
                sink = self.sink if last else None
                made = self._segment(step, main, kept, moments, gathered, folder, sink, last)
                if any(isinstance(layer, Join) for layer in step.layers) and kept is not None:
                    kept.close()
                    kept = None
            if main is not kept:
                main.close()
            main, moments = made, gathered
        return main.data

    def _attend(self, module: nn.Module, main: Canvas, gathered: Moments | None) -> Canvas:
        channels, height, width = main.data.shape
        made = module(main.read(Span(0, height), Span(0, width), self.device))
        canvas = Canvas.empty((channels, height, width), made.dtype, self.folder, None, self.fast)
        for rows, columns in self.windows(height, width):
            cells = made[:, :, rows.start : rows.stop, columns.start : columns.stop]
            canvas.write(rows, columns, cells)
            if gathered is not None:
                gathered.add(cells)
        return canvas

    def _segment(
        self,
        step: Segment,
        main: Canvas,
        kept: Canvas | None,
        moments: Moments | None,
        gathered: Moments | None,
        folder: Path | None,
        sink: Canvas | None,
        last: bool,
    ) -> Canvas:
        norm = None
        if step.norm is not None:
            if moments is None:
                raise TilingError("Expected a layer before the first norm, but got none.")
            norm = _given(step.norm, *moments.result(), self.device)
        canvas = sink
        for window, cells in self.tiles(step.layers, main, kept=kept, norm=norm):
            if canvas is None:
                shape = (cells.shape[1], *self.shape(step.layers, main))
                canvas = Canvas.empty(shape, cells.dtype, folder, None, self.fast and not last)
            canvas.write(*window, cells)
            if gathered is not None:
                gathered.add(cells)
        if canvas is None:
            raise TilingError("Expected a canvas of at least one cell, but got none.")
        return canvas


class Again(_Tiler):
    """A norm's statistics are gathered by computing all tiles from the last canvas that was kept.

    Canvases are kept between residual blocks: on the device where they are no larger than `hold` bytes, and larger
    ones, on CUDA and where the host has room, in pinned memory. What can't be kept is computed again.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        tile: int,
        wrap: tuple[bool, bool],
        device: torch.device,
        hold: int,
        sink: Canvas | None = None,
    ) -> None:
        super().__init__(layers, tile, wrap, device)
        self.hold = hold
        self.sink = sink
        self.host = Host(device) if self.fast else None

    def run(self, image: Tensor | Canvas) -> Tensor:
        """(C, H, W) to (C', H', W') on the image's device; a sink takes the place of the last canvas."""
        base: Canvas | HostCanvas = self.begin(image)
        try:
            chain: list[Local] = []
            kept: Canvas | HostCanvas | None = None
            known: Moments | None = None
            for i, layer in enumerate(self.layers):
                if isinstance(layer, Norm):
                    moments = known or self._gathered(chain, base, layer.module.num_groups)
                    known = None
                    chain.append(Pointwise(_given(layer.module, *moments.result(), self.device), makes=True))
                elif isinstance(layer, Attend):
                    whole = self._filled(chain, base, self._place(self.device))
                    self._closed(base)
                    base, kept, chain = Canvas(layer.module(whole.data[None])[0]), None, []
                    del whole
                else:
                    if chain and self._parts(i):
                        following = self.layers[i + 1]
                        groups = following.module.num_groups if isinstance(following, Norm) else None
                        known = None if groups is None else self.moments(groups)
                        kept = self._kept(chain, base, known)
                        if kept is None:
                            known = None
                        else:
                            self._closed(base)
                            base, kept, chain = kept, None, []
                    chain.append(layer)
            if self.sink is None:
                device = image.device if isinstance(image, Tensor) else self.device
                made = self._filled(chain, base, lambda shape, dtype: Canvas.empty(shape, dtype, None, device))
            else:
                sink = self.sink
                made = self._filled(chain, base, lambda *_: sink)
            return made.data
        finally:
            self._closed(base)

    def _parts(self, at: int) -> bool:
        """Whether a canvas kept before this layer lies between residual blocks and is of use to a norm further on."""
        layer, rest = self.layers[at], self.layers[at + 1 :]
        if isinstance(layer, Fork):
            return bool(rest) and isinstance(rest[0], Norm)
        # before it the canvas is smaller than after it
        return isinstance(layer, Upsample) and any(isinstance(other, Norm) for other in rest)

    def _gathered(self, chain: Sequence[Local], base: Canvas | HostCanvas, groups: int) -> Moments:
        moments = self.moments(groups)
        for _, cells in self.tiles(chain, base):
            moments.add(cells)
            del cells  # or it would be there beside the next
        return moments

    def _kept(
        self, chain: Sequence[Local], base: Canvas | HostCanvas, gathered: Moments | None
    ) -> Canvas | HostCanvas | None:
        """What the chain makes, on the device or the host; None where it fits neither or isn't worth the way."""
        if self._bytes(chain, base) <= self.hold:
            return self._filled(chain, base, self._place(self.device), gathered)
        host = self.host
        blocks = any(isinstance(layer, Join) for layer in chain)
        if host is None or not blocks or self.shape(chain, base)[0] < LEAST_ROWS * math.prod(self.grid):
            return None
        return self._filled(chain, base, host.canvas, gathered, strips=True)

    def _bytes(self, chain: Sequence[Local], base: Canvas | HostCanvas) -> int:
        """Of the canvas that the chain makes, whose channels and type are the last convolution's."""
        height, width = self.shape(chain, base)
        last = next((layer.module for layer in reversed(chain) if isinstance(layer, Conv)), None)
        conv = convolution(last)
        if conv is None:
            return base.shape[0] * height * width * base.dtype.itemsize
        return conv.out_channels * height * width * conv.weight.element_size()

    def _place(self, device: torch.device) -> Callable[[tuple[int, int, int], torch.dtype], Canvas]:
        return lambda shape, dtype: Canvas.empty(shape, dtype, None, device, self.fast)

    def _closed(self, base: Canvas | HostCanvas) -> None:
        if isinstance(base, HostCanvas):  # others are the caller's, or go by themselves
            base.close()

    def _filled(
        self,
        chain: Sequence[Local],
        base: Canvas | HostCanvas,
        make: Callable[[tuple[int, int, int], torch.dtype], _Made],
        gathered: Moments | None = None,
        *,
        strips: bool = False,
    ) -> _Made:
        """A canvas with what the chain makes; the first tile tells its type, and None that there is no room."""
        canvas: _Made | None = None
        for window, cells in self.tiles(chain, base, strips=strips):
            if canvas is None:
                canvas = make((cells.shape[1], *self.shape(chain, base)), cells.dtype)
                if canvas is None:
                    return canvas
            canvas.write(*window, cells)
            if gathered is not None:
                gathered.add(cells)
            del cells
        if canvas is None:
            raise TilingError("Expected a canvas of at least one cell, but got none.")
        if isinstance(canvas, HostCanvas):
            canvas.finish()
        return canvas


class _Statistics(TorchFunctionMode):
    """`group_norm` inside it normalises by a mean and variance given per channel instead of its input's own."""

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.mean = mean
        self.variance = variance

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.group_norm:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)) | (kwargs or {})
        weight, bias = (p if p is None else p.to(self.mean.dtype) for p in (given["weight"], given["bias"]))
        return _normalised(given["input"], self.mean, self.variance, weight, bias, given["eps"])


def _normalised(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """One fused kernel with no copy in float32, which writing the formula out would make."""
    if x.is_cuda:  # PyTorch's own kernel for channels that lie last; batch_norm may take cuDNN's
        return torch.batch_norm_elemt(x, weight, bias, mean, (variance + eps).rsqrt(), eps)
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def _given(norm: nn.GroupNorm, mean: Tensor, variance: Tensor, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The norm with the canvas' statistics, called as a module so that offload hooks see it."""
    each = norm.num_channels // norm.num_groups
    dtype = torch.float64 if norm.weight is not None and norm.weight.dtype == torch.float64 else torch.float32
    mode = _Statistics(*(t.repeat_interleave(each).to(dtype).to(device) for t in (mean, variance)))

    def normalised(x: Tensor) -> Tensor:
        with mode:
            return norm(x)

    return normalised


@contextmanager
def unpadded(model: nn.Module) -> Iterator[None]:
    """Convolutions add no padding but where a tile asks for their own, nor what a `Seamless` around this adds."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                stack.enter_context(replaced(module, "_conv_forward", _valid(module)))
        yield


_own_padding: ContextVar[tuple[bool, bool]] = ContextVar("_own_padding", default=(False, False))


def _valid(conv: nn.Conv2d) -> Callable[..., Tensor]:
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        own = _own_padding.get()
        padding = [int(conv.padding[axis]) if own[axis] else 0 for axis in (0, 1)]
        return F.conv2d(x, weight, bias, conv.stride, padding, conv.dilation, conv.groups)

    return forward


def _convolved(layer: Conv, x: Tensor, have: _Window, out: _Window) -> Tensor:
    """The cells `out`; a convolution adds the zeros of two opposite borders itself, which saves a copy."""
    need = (layer.reads(out[0], 0), layer.reads(out[1], 1))
    own = [_both_borders(layer, need[axis], have[axis], axis) for axis in (0, 1)]
    need = (have[0] if own[0] else need[0], have[1] if own[1] else need[1])
    token = _own_padding.set((own[0], own[1]))
    try:
        return layer.module(_window(x, have, need))
    finally:
        _own_padding.reset(token)


def _both_borders(layer: Conv, need: Span, have: Span, axis: int) -> bool:
    """Whether what is missing on both sides is what the convolution's own padding is."""
    before, after = layer.before[axis], layer.after[axis]
    return before == after > 0 and need == (have.start - before, have.stop + after)


def _window(x: Tensor, have: _Window, want: _Window) -> Tensor:
    """The cells `want` out of those in hand; what is beyond them is beyond the border, and zero there."""
    pad: list[int] = []
    for axis in (1, 0):  # F.pad starts with the last axis
        pad += [have[axis].start - want[axis].start, want[axis].stop - have[axis].stop]
    return F.pad(x, pad) if any(pad) else x


def _scaled(span: Span, factor: int) -> Span:
    return Span(span.start * factor, span.stop * factor)


def _split(size: int, parts: int) -> Iterator[Span]:
    """`parts` spans that differ by one cell at most; fewer where there are fewer cells."""
    parts = min(parts, size)
    for i in range(parts):
        yield Span(i * size // parts, (i + 1) * size // parts)


def _groups_next(rest: Sequence[Segment | Attend | Keep]) -> int | None:
    """Groups of the norm that reads the canvas made now, if one does."""
    step = next((step for step in rest if not isinstance(step, Keep)), None)
    return step.norm.num_groups if isinstance(step, Segment) and step.norm is not None else None
