"""A tiled autoencoder whose result is that of the whole image, on memory set by the tile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .errors import OutputError, SizeError
from .patching import replaced
from .seamless import SeamlessAxes, parse_axes
from .vae_canvas import Canvas, Moments
from .vae_layers import (
    Attend,
    Conv,
    Fork,
    Join,
    Keep,
    Layer,
    Local,
    Pointwise,
    Segment,
    Span,
    TilingError,
    Upsample,
    decoder_layers,
    encoder_layers,
    reads,
    sizes,
    steps,
)

if TYPE_CHECKING:
    from os import PathLike

    from diffusers import AutoencoderKL, AutoencoderTiny

MIN_TILE = 8
"""Smallest tile in latent cells: below it most of the work is the tiles' surroundings."""
_Window = tuple[Span, Span]


class ExactTiledVAE:
    """An AutoencoderKL or AutoencoderTiny run in tiles, with the result of the whole image up to float rounding.

    Each tile is computed from just the cells that it depends on: the layers' own reach, zeros at the image's border,
    the other side on an axis that wraps. Where a layer needs the whole canvas, all tiles are brought there first: the
    cells wait in host memory or in files, GroupNorm uses the statistics of all of them (gathered as the tiles pass),
    and attention runs once over the latent grid. An AutoencoderTiny has no such layer.

    The device holds one tile at a time, and at attention the latent grid. Host memory holds at most three canvases of
    activations, or files in `spill` do. The images of a batch are run one by one. Results carry no gradient and lie on
    the device that the input is on; compute happens on the model's.

    Args:
        vae: the model; every other attribute of this object is the model's own.
        tile: longest side of a tile, in latent cells, at least 8. Tiles are spread evenly.
        seamless: axes on which the image is a torus; the convolutions' zeros are replaced by the other side, so that
            `decode(roll(z)) == roll(decode(z))`. It is given here and not by `Seamless`.
        spill: a folder for the canvases; they are removed again, also after an exception.

    Raises:
        TilingError: another class of model, a layer whose reach isn't known, or a tile below 8.
        SeamlessError: unknown axes.
        OutputError: `spill` is not a folder.
    """

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        tile: int = 64,
        seamless: SeamlessAxes = "none",
        *,
        spill: str | PathLike[str] | None = None,
    ) -> None:
        wrap_x, wrap_y = parse_axes(seamless)
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < MIN_TILE:
            raise TilingError(f"Expected a tile of at least {MIN_TILE} latent cells, a whole number, but got {tile!r}.")
        self.vae = vae
        self.tile = tile
        self.seamless = seamless
        self.spill = None if spill is None else Path(spill)
        if self.spill is not None and not self.spill.is_dir():
            raise OutputError(f"Expected spill to be a folder, but got {self.spill}.")
        self._wrap = (wrap_y, wrap_x)
        self._encoder = encoder_layers(vae)
        self._decoder = decoder_layers(vae)

    def __getattr__(self, name: str) -> Any:
        if name in ("vae", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.vae, name)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """What `vae.encode` returns, for images (N, C, H, W) in [-1, 1].

        Raises:
            SizeError: another number of axes or channels; an empty image; or, on an axis that wraps, a side that the
                model's total stride doesn't divide.
        """
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
        from diffusers.models.modeling_outputs import AutoencoderKLOutput

        self._check(x, "images", self.vae.config["in_channels"])
        stride = _product(layer.stride[0] for layer in self._encoder if isinstance(layer, Conv))
        for side, wrap, name in zip(x.shape[-2:], self._wrap, ("height", "width"), strict=True):
            if side < stride or (wrap and side % stride):
                least = f"a multiple of {stride}" if wrap else f"at least {stride}"
                raise SizeError(f"Expected images whose {name} is {least} pixels, but got {side}.")
        made = self._run(self._encoder, x)
        if hasattr(self.vae, "quant_conv"):
            posterior = DiagonalGaussianDistribution(made)
            return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)
        return AutoencoderTinyOutput(latents=made) if return_dict else (made,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """What `vae.decode` returns, for latents (N, C, H, W); the generator is unused, there as in diffusers.

        Raises:
            SizeError: another number of axes or channels, or no cells.
        """
        from diffusers.models.autoencoders.vae import DecoderOutput

        del generator
        self._check(z, "latents", self.vae.config["latent_channels"])
        made = self._run(self._decoder, z)
        return DecoderOutput(sample=made) if return_dict else (made,)

    def _check(self, x: Tensor, what: str, channels: int) -> None:
        if x.ndim != 4 or x.shape[1] != channels or x.numel() == 0:
            raise SizeError(f"Expected {what} of shape (N, {channels}, H, W), but got {tuple(x.shape)}.")

    @torch.no_grad()
    def _run(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        vae: Any = self.vae
        if not any(self._wrap) and any("_conv_forward" in module.__dict__ for module in vae.modules()):
            raise TilingError("Expected the axes as ExactTiledVAE(..., seamless=...), but got a model in Seamless.")
        hook: Any = getattr(vae, "_hf_hook", None)
        if hasattr(hook, "pre_forward"):  # accelerate's model offload brings the weights in here
            hook.pre_forward(vae)
        weights = next(vae.parameters()).device
        device = x.device if weights.type == "meta" else weights
        with ExitStack() as stack:
            stack.enter_context(_unpadded(vae))
            folder = None
            if self.spill is not None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zellige-", dir=self.spill)))
            made = [_Runner(layers, self.tile, self._wrap, device, folder).run(image) for image in x]
            return torch.stack(made).to(x.device) if len(made) > 1 else made[0][None].to(x.device)


class _Runner:
    """One image through the layers."""

    def __init__(
        self, layers: Sequence[Layer], tile: int, wrap: tuple[bool, bool], device: torch.device, folder: Path | None
    ) -> None:
        self.steps = steps(layers)
        self.tile = tile
        self.wrap = wrap
        self.device = device
        self.folder = folder
        self.shrinks = _product(layer.stride[0] for layer in layers if isinstance(layer, Conv))

    def run(self, image: Tensor) -> Tensor:
        """(C, H, W) to (C', H', W') in host memory."""
        latent = [-(-side // self.shrinks) for side in image.shape[-2:]]
        self.tiles = (-(-latent[0] // self.tile), -(-latent[1] // self.tile))
        main, kept = Canvas(image), None
        moments: Moments | None = None
        for i, step in enumerate(self.steps):
            if isinstance(step, Keep):
                kept = main
                continue
            groups = self._groups_after(i)
            gathered = None if groups is None else Moments(groups)
            last = i == len(self.steps) - 1
            if isinstance(step, Attend):
                made = self._attend(step.module, main, gathered)
            else:
                made = self._segment(step, main, kept, moments, gathered, None if last else self.folder)
                if any(isinstance(layer, Join) for layer in step.layers) and kept is not None:
                    kept.close()
                    kept = None
            if main is not kept:
                main.close()
            main, moments = made, gathered
        return main.data

    def _groups_after(self, index: int) -> int | None:
        for step in self.steps[index + 1 :]:
            if isinstance(step, Segment):
                return None if step.norm is None else step.norm.num_groups
            if isinstance(step, Attend):
                return None
        return None

    def _windows(self, height: int, width: int) -> Iterator[_Window]:
        for rows in _split(height, self.tiles[0]):
            for columns in _split(width, self.tiles[1]):
                yield rows, columns

    def _attend(self, module: nn.Module, main: Canvas, gathered: Moments | None) -> Canvas:
        channels, height, width = main.data.shape
        made = module(main.read(Span(0, height), Span(0, width), self.device))
        canvas = Canvas.empty((channels, height, width), made.dtype, self.folder)
        for rows, columns in self._windows(height, width):
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
    ) -> Canvas:
        norm = None
        if step.norm is not None:
            if moments is None:
                raise TilingError("Expected a layer before the first norm, but got none.")
            norm = _given(step.norm, *moments.result(), self.device)
        extents = [sizes(step.layers, side, axis) for axis, side in enumerate(main.data.shape[-2:])]
        canvas: Canvas | None = None
        for window in self._windows(extents[0][-1], extents[1][-1]):
            needs = [reads(step.layers, window[axis], axis, extents[axis], wrap=self.wrap[axis]) for axis in (0, 1)]
            spans: list[_Window] = [*zip(needs[0], needs[1], strict=True)]
            cells = main.read(*spans[0], self.device)
            cells = self._local(step.layers, spans, cells if norm is None else norm(cells), kept)
            if canvas is None:
                shape = (cells.shape[1], extents[0][-1], extents[1][-1])
                canvas = Canvas.empty(shape, cells.dtype, folder)
            canvas.write(*window, cells)
            if gathered is not None:
                gathered.add(cells)
        if canvas is None:
            raise TilingError("Expected a model with an output, but got no cells.")
        return canvas

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
def _unpadded(model: nn.Module) -> Iterator[None]:
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


def _product(values: Iterator[int]) -> int:
    made = 1
    for value in values:
        made *= value
    return made
