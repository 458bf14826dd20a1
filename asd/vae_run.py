"""One image through an autoencoder's layers, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .patching import replaced
from .vae_canvas import Canvas, Moments
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
    reads,
    sizes,
    steps,
)

_Window = tuple[Span, Span]


class _Tiler:
    """What both ways share: where tiles lie, and the cells of one."""

    def __init__(self, layers: Sequence[Layer], tile: int, wrap: tuple[bool, bool], device: torch.device) -> None:
        self.layers = layers
        self.tile = tile
        self.wrap = wrap
        self.device = device
        self.shrinks = math.prod(layer.stride[0] for layer in layers if isinstance(layer, Conv))
        self.grid = (1, 1)

    def begin(self, image: Tensor | Canvas) -> Canvas:
        """The first canvas; sets the number of tiles, the same for every size that the image has on its way."""
        canvas = Canvas(image) if isinstance(image, Tensor) else image
        rows, columns = (-(-side // (self.shrinks * self.tile)) for side in canvas.data.shape[-2:])
        self.grid = rows, columns
        return canvas

    def windows(self, height: int, width: int) -> Iterator[_Window]:
        for rows in _split(height, self.grid[0]):
            for columns in _split(width, self.grid[1]):
                yield rows, columns

    def tiles(
        self,
        layers: Sequence[Local],
        main: Canvas,
        *,
        kept: Canvas | None = None,
        norm: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[_Window, Tensor]]:
        """Every tile of what the layers make of a canvas, with its place."""
        extents = [sizes(layers, side, axis) for axis, side in enumerate(main.data.shape[-2:])]
        for window in self.windows(extents[0][-1], extents[1][-1]):
            needs = [reads(layers, window[axis], axis, extents[axis], wrap=self.wrap[axis]) for axis in (0, 1)]
            spans: list[_Window] = [*zip(needs[0], needs[1], strict=True)]
            cells = main.read(*spans[0], self.device)
            yield window, self._local(layers, spans, cells if norm is None else norm(cells), kept)

    def shape(self, layers: Sequence[Local], main: Canvas) -> tuple[int, int]:
        """Height and width of what the layers make of a canvas."""
        height, width = (sizes(layers, side, axis)[-1] for axis, side in enumerate(main.data.shape[-2:]))
        return height, width

    def _local(self, layers: Sequence[Local], spans: Sequence[_Window], x: Tensor, kept: Canvas | None) -> Tensor:
        """`x` holds the cells spans[0]; returns those of spans[-1]."""
        have = spans[0]
        branch: tuple[Tensor, _Window] | None = None
        for layer, out in zip(layers, spans[1:], strict=True):
            match layer:
                case Conv():
                    need = (layer.reads(out[0], 0), layer.reads(out[1], 1))
                    x, have = layer.module(_window(x, have, need)), out
                case Upsample(factor):
                    x = F.interpolate(x, scale_factor=float(factor), mode="nearest")
                    have = (_scaled(have[0], factor), _scaled(have[1], factor))
                case Pointwise(function):
                    x = function(x)
                case Fork():
                    branch = x, have
                case Join(shortcut, scale):
                    if branch is not None:
                        other = _window(branch[0], branch[1], out)
                    elif kept is not None:
                        other = kept.read(*out, self.device)
                    else:
                        raise TilingError("Expected a branch to join, but got none.")
                    other = other if shortcut is None else shortcut(other)
                    x, have, branch = _window(x, have, out) + other, out, None
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
            gathered = None if groups is None else Moments(groups)
            folder = None if i == len(todo) - 1 else self.folder
            if isinstance(step, Attend):
                made = self._attend(step.module, main, gathered)
            else:
                sink = self.sink if i == len(todo) - 1 else None
                made = self._segment(step, main, kept, moments, gathered, folder, sink)
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
        canvas = Canvas.empty((channels, height, width), made.dtype, self.folder)
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
    ) -> Canvas:
        norm = None
        if step.norm is not None:
            if moments is None:
                raise TilingError("Expected a layer before the first norm, but got none.")
            norm = _given(step.norm, *moments.result(), self.device)
        canvas = sink
        for window, cells in self.tiles(step.layers, main, kept=kept, norm=norm):
            if canvas is None:
                canvas = Canvas.empty((cells.shape[1], *self.shape(step.layers, main)), cells.dtype, folder)
            canvas.write(*window, cells)
            if gathered is not None:
                gathered.add(cells)
        if canvas is None:
            raise TilingError("Expected a canvas of at least one cell, but got none.")
        return canvas


class Again(_Tiler):
    """Nothing waits: a norm's statistics are gathered by computing all tiles from the last canvas that was kept.

    Canvases are kept on the device, between residual blocks, where they are no larger than `hold` bytes.
    """

    def __init__(
        self, layers: Sequence[Layer], tile: int, wrap: tuple[bool, bool], device: torch.device, hold: int
    ) -> None:
        super().__init__(layers, tile, wrap, device)
        self.hold = hold

    def run(self, image: Tensor | Canvas) -> Tensor:
        """(C, H, W) to (C', H', W') on the image's device."""
        base = self.begin(image)
        chain: list[Local] = []
        for layer, following in zip(self.layers, [*self.layers[1:], None], strict=True):
            if isinstance(layer, Norm):
                moments = Moments(layer.module.num_groups)
                for _, cells in self.tiles(chain, base):
                    moments.add(cells)
                chain.append(Pointwise(_given(layer.module, *moments.result(), self.device)))
            elif isinstance(layer, Attend):
                base, chain = self._kept(chain, base, self.device), []
                base = Canvas(layer.module(base.data[None])[0])
            else:
                if isinstance(layer, Fork) and isinstance(following, Norm) and chain:  # between residual blocks
                    small = self._bytes(chain, base, following.module) <= self.hold
                    base, chain = (self._kept(chain, base, self.device), []) if small else (base, chain)
                chain.append(layer)
        return self._kept(chain, base, image.device if isinstance(image, Tensor) else self.device).data

    def _bytes(self, chain: Sequence[Local], base: Canvas, norm: nn.GroupNorm) -> int:
        """Of the canvas that comes before a norm, which has its channels and type."""
        height, width = self.shape(chain, base)
        return norm.num_channels * height * width * next(norm.parameters()).element_size()

    def _kept(self, chain: Sequence[Local], base: Canvas, device: torch.device) -> Canvas:
        canvas: Canvas | None = None
        for window, cells in self.tiles(chain, base):
            if canvas is None:
                canvas = Canvas.empty((cells.shape[1], *self.shape(chain, base)), cells.dtype, None, device)
            canvas.write(*window, cells)
        if canvas is None:
            raise TilingError("Expected a canvas of at least one cell, but got none.")
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
        # one fused kernel with no copy in float32, which writing the formula out would make
        return F.batch_norm(given["input"], self.mean, self.variance, weight, bias, False, 0.0, given["eps"])


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
    """Convolutions add no padding of their own, nor what a `Seamless` around this adds."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                stack.enter_context(replaced(module, "_conv_forward", _valid(module)))
        yield


def _valid(conv: nn.Conv2d) -> Callable[..., Tensor]:
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, conv.stride, 0, conv.dilation, conv.groups)

    return forward


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
