"""Autoencoders as lists of layers whose reach is known: what an exact tiling needs to know about a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import ZelligeError


class TilingError(ZelligeError):
    """A model or a tile that can't be run in tiles with the result of the whole image."""


class Span(NamedTuple):
    """Cells start..stop-1 of one axis; on an axis that wraps it may leave the canvas."""

    start: int
    stop: int

    def within(self, size: int) -> Span:
        return Span(max(self.start, 0), min(self.stop, size))

    def joined(self, other: Span) -> Span:
        return Span(min(self.start, other.start), max(self.stop, other.stop))


@dataclass(frozen=True)
class Conv:
    """A convolution over `before` and `after` cells of zeros beyond the border; every pair is (y, x).

    `module` is called rather than its weights read, so that offload hooks and adapters do what they do elsewhere.
    """

    module: nn.Module
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]

    def size(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        return (size + self.before[axis] + self.after[axis] - reach - 1) // self.stride[axis] + 1

    def reads(self, out: Span, axis: int) -> Span:
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        stride, before = self.stride[axis], self.before[axis]
        return Span(out.start * stride - before, (out.stop - 1) * stride - before + reach + 1)


@dataclass(frozen=True)
class Upsample:
    """Every cell repeated `factor` times along both axes."""

    factor: int

    def size(self, size: int, axis: int) -> int:
        del axis
        return size * self.factor

    def reads(self, out: Span, axis: int) -> Span:
        del axis
        return Span(out.start // self.factor, -(-out.stop // self.factor))


@dataclass(frozen=True)
class Pointwise:
    """A function of each cell alone; `makes` if its result is never its argument."""

    function: Callable[[Tensor], Tensor]
    makes: bool = False


@dataclass(frozen=True)
class Fork:
    """What comes here is kept for the next `Join`."""


@dataclass(frozen=True)
class Join:
    """(main + shortcut(kept)) / scale; the shortcut is pointwise."""

    shortcut: Callable[[Tensor], Tensor] | None
    scale: float


@dataclass(frozen=True)
class Norm:
    """A GroupNorm: its statistics are those of the whole canvas."""

    module: nn.GroupNorm


@dataclass(frozen=True)
class Attend:
    """Attention over all cells, norm and residual included."""

    module: nn.Module


Local = Conv | Upsample | Pointwise | Fork | Join
Layer = Local | Norm | Attend


@dataclass(frozen=True)
class Keep:
    """The canvas at hand is the one that the next `Join` adds."""


@dataclass(frozen=True)
class Segment:
    """A norm, if any, and the local layers up to the next layer that needs the whole canvas."""

    norm: nn.GroupNorm | None
    layers: tuple[Local, ...]


Step = Segment | Attend | Keep


def steps(layers: Sequence[Layer]) -> list[Step]:
    """Cut where a layer needs the whole canvas; a `Fork` just there keeps the canvas and costs nothing."""
    made: list[Step] = []
    norm: nn.GroupNorm | None = None
    local: list[Local] = []

    def flush() -> None:
        nonlocal norm
        keep = bool(local) and isinstance(local[-1], Fork)
        if keep:
            local.pop()
        if norm is not None or local:
            made.append(Segment(norm, tuple(local)))
        if keep:
            made.append(Keep())
        norm = None
        local.clear()

    for layer in layers:
        if isinstance(layer, Norm):
            flush()
            norm = layer.module
        elif isinstance(layer, Attend):
            flush()
            made.append(layer)
        else:
            local.append(layer)
    flush()
    return made


def sizes(layers: Sequence[Local], size: int, axis: int) -> list[int]:
    """The size of one axis before each layer, and after the last."""
    made = [size]
    for layer in layers:
        made.append(layer.size(made[-1], axis) if isinstance(layer, Conv | Upsample) else made[-1])
    return made


def reads(layers: Sequence[Local], out: Span, axis: int, extents: Sequence[int], *, wrap: bool) -> list[Span]:
    """The cells needed before each layer, and after the last, for the cells `out`; `extents` as from `sizes`."""
    need = [out]
    branch: Span | None = None
    for layer, extent in zip(reversed(layers), reversed(extents[:-1]), strict=True):
        span = need[-1]
        if isinstance(layer, Conv | Upsample):
            span = layer.reads(span, axis)
            span = span if wrap else span.within(extent)
        elif isinstance(layer, Join):
            branch = span
        elif isinstance(layer, Fork) and branch is not None:
            span, branch = span.joined(branch), None
        need.append(span)
    return need[::-1]


def encoder_layers(vae: nn.Module) -> list[Layer]:
    """The layers of `vae.encode`, up to the latents or their moments."""
    return list(_with_quant(_network(vae, "encoder"), after=getattr(vae, "quant_conv", None)))


def decoder_layers(vae: nn.Module) -> list[Layer]:
    """The layers of `vae.decode`."""
    return list(_with_quant(_network(vae, "decoder"), before=getattr(vae, "post_quant_conv", None)))


def _network(vae: Any, part: str) -> Iterator[Layer]:
    from diffusers import AutoencoderKL, AutoencoderTiny

    if isinstance(vae, AutoencoderTiny):
        return _tiny_encoder(vae.encoder) if part == "encoder" else _tiny_decoder(vae.decoder)
    if isinstance(vae, AutoencoderKL):
        return _kl_encoder(vae.encoder) if part == "encoder" else _kl_decoder(vae.decoder)
    raise TilingError(f"Expected an AutoencoderKL or an AutoencoderTiny, but got {type(vae).__name__}.")


def _with_quant(
    layers: Iterator[Layer], *, before: nn.Module | None = None, after: nn.Module | None = None
) -> Iterator[Layer]:
    if before is not None:
        yield _conv(before)
    yield from layers
    if after is not None:
        yield _conv(after)


def _tiny_encoder(encoder: Any) -> Iterator[Layer]:
    yield Pointwise(lambda x: x.add(1).div(2))  # images in [-1, 1], as EncoderTiny does
    yield from _tiny_layers(encoder.layers)


def _tiny_decoder(decoder: Any) -> Iterator[Layer]:
    yield Pointwise(lambda x: torch.tanh(x / 3) * 3)  # as DecoderTiny does
    yield from _tiny_layers(decoder.layers)
    yield Pointwise(lambda x: x.mul(2).sub(1))


def _tiny_layers(modules: nn.Sequential) -> Iterator[Layer]:
    for module in modules:
        block: Any = module
        if isinstance(module, nn.Upsample):
            factor = module.scale_factor
            if module.mode != "nearest" or not isinstance(factor, int | float) or factor != int(factor):
                raise TilingError(
                    f"Expected nearest upsampling by a whole number, but got {module.mode!r} by {factor}."
                )
            yield Upsample(int(factor))
        elif type(module).__name__ == "AutoencoderTinyBlock":
            yield Fork()
            yield from _tiny_layers(block.conv)
            yield Join(None if isinstance(block.skip, nn.Identity) else block.skip, 1.0)
            yield _activation(block.fuse)
        elif convolution(module) is not None:
            yield _conv(module)
        else:
            yield _activation(module)


def _kl_encoder(encoder: Any) -> Iterator[Layer]:
    yield _conv(encoder.conv_in)
    for block in encoder.down_blocks:
        yield from _block(block)
        for sampler in block.downsamplers or ():
            yield _downsample(sampler)
    yield from _head(encoder)


def _kl_decoder(decoder: Any) -> Iterator[Layer]:
    yield _conv(decoder.conv_in)
    yield from _mid(decoder.mid_block)
    for block in decoder.up_blocks:
        yield from _block(block)
        for sampler in block.upsamplers or ():
            if sampler.norm is not None or sampler.use_conv_transpose or not sampler.interpolate:
                raise TilingError("Expected a nearest upsampler, but got one with a norm or a transposed convolution.")
            yield Upsample(2)
            if sampler.use_conv:
                yield _conv(sampler.conv if sampler.name == "conv" else sampler.Conv2d_0)
    yield _norm(decoder.conv_norm_out)
    yield _activation(decoder.conv_act)
    yield _conv(decoder.conv_out)


def _head(encoder: Any) -> Iterator[Layer]:
    yield from _mid(encoder.mid_block)
    yield _norm(encoder.conv_norm_out)
    yield _activation(encoder.conv_act)
    yield _conv(encoder.conv_out)


def _mid(block: Any) -> Iterator[Layer]:
    yield from _resnet(block.resnets[0])
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            yield Attend(attention)
        yield from _resnet(resnet)


def _block(block: Any) -> Iterator[Layer]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    for resnet, attention in zip(block.resnets, attentions, strict=True):
        yield from _resnet(resnet)
        if attention is not None:
            yield Attend(attention)


def _resnet(block: Any) -> Iterator[Layer]:
    plain = type(block).__name__ == "ResnetBlock2D" and block.time_emb_proj is None
    if not plain or block.upsample is not None or block.downsample is not None:
        raise TilingError(f"Expected plain residual blocks, but got a {type(block).__name__} that resamples or mixes.")
    yield Fork()
    yield _norm(block.norm1)
    yield _activation(block.nonlinearity)
    yield _conv(block.conv1)
    yield _norm(block.norm2)
    yield _activation(block.nonlinearity)
    yield _conv(block.conv2)
    yield Join(block.conv_shortcut, float(block.output_scale_factor))


def _downsample(sampler: Any) -> Conv:
    if type(sampler).__name__ != "Downsample2D" or not sampler.use_conv or sampler.norm is not None:
        raise TilingError(f"Expected a strided convolution to downsample, but got {type(sampler).__name__}.")
    # diffusers pads right and bottom by one where the module's own padding is 0
    return _conv(sampler.conv, extra=0 if sampler.padding else 1)


def _norm(module: nn.Module) -> Norm:
    if not isinstance(module, nn.GroupNorm) or module.weight is None:
        raise TilingError(f"Expected GroupNorm with weights, but got {module}.")
    return Norm(module)


def _activation(module: nn.Module) -> Pointwise:
    known = isinstance(module, nn.ReLU | nn.LeakyReLU | nn.SiLU | nn.GELU | nn.Mish)
    if not known and type(module).__name__ != "FP32SiLU":
        raise TilingError(f"Expected an activation that works on each cell alone, but got {type(module).__name__}.")
    return Pointwise(module)


def convolution(module: nn.Module | None) -> nn.Conv2d | None:
    """The convolution that a module is or adapts, if it is one."""
    base = getattr(module, "base_layer", module)  # peft's adapters wrap the convolution
    return base if isinstance(base, nn.Conv2d) else None


def _conv(module: nn.Module, *, extra: int = 0) -> Conv:
    conv = convolution(module)
    if conv is None or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        what = type(module).__name__ if conv is None else f"padding {conv.padding!r} ({conv.padding_mode})"
        raise TilingError(f"Expected Conv2d with a number of zeros around, but got {what}.")
    pad = (int(conv.padding[0]), int(conv.padding[1]))
    return Conv(
        module=module,
        kernel=(conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        dilation=(conv.dilation[0], conv.dilation[1]),
        before=pad,
        after=(pad[0] + extra, pad[1] + extra),
    )
