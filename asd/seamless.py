"""Seamless networks: on a torus, a cylinder, or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import SeamlessError
from .patching import replaced
from .seamless_positions import is_transformer, make_periodic

if TYPE_CHECKING:
    from types import TracebackType

MIN_MENDED = 256
"""Shortest side for which mending the border beats padding a copy."""
SeamlessAxes = Literal["none", "x", "y", "xy"]


def parse_axes(axes: str) -> tuple[bool, bool]:
    """(wrap_x, wrap_y) for "none", "x", "y" or "xy".

    >>> parse_axes("x")
    (True, False)
    """
    if axes not in get_args(SeamlessAxes):
        raise SeamlessError(f"Expected seamless to be one of {', '.join(get_args(SeamlessAxes))}, but got {axes!r}.")
    return "x" in axes, "y" in axes


def wrap_pad(x: Tensor, left: int, right: int, dim: int) -> Tensor:
    """`x` after its last `left` slices and before its first `right` along `dim`, wrapping as often as needed."""
    size = x.shape[dim]
    if max(left, right) > size:
        index = torch.arange(-left, size + right, device=x.device) % size
        return x.index_select(dim, index)
    parts = [x.narrow(dim, size - left, left), x, x.narrow(dim, 0, right)]
    return torch.cat([p for p in parts if p.shape[dim]], dim)


class Seamless:
    """Context manager that makes some models see a torus along the axes asked for.

    Convolutions become circular. Inside it `roll(f(z)) == f(roll(z))` along those axes, for rolls by multiples of the
    network's total stride, because a circular convolution commutes with a roll and so do norms over space and attention
    without positions. On an axis not asked for the models keep the padding they came with.

    Transformers' positions become periodic (`asd.seamless_positions`): with rotary positions (Flux, Flux.2, Chroma) the
    attention between image tokens depends on their displacement on the torus alone; text tokens have a place of their
    own, so that a roll of the input may still change what is drawn where. With added sines and cosines (SD3, PixArt)
    only the positions' own products have that property: cells across the border are neighbours, but attention may still
    tell places apart.

    Instances are patched, never classes; leaving restores every one of them, also after an exception. Contexts nest:
    the innermost wins.

    Args:
        models: one module or several (U-Net, transformer, autoencoder, ...).
        axes: "none", "x" (left meets right), "y" (top meets bottom) or "xy".
        extent: (height, width) of the torus in tokens, where a transformer is called on parts of it; by default each
            call's image is the torus.

    Raises:
        SeamlessError: axes is not one of the four; an axis is to wrap and a model has positions of another kind or
            transposed convolutions; or an extent is given and no model has positions.
    """

    def __init__(
        self,
        models: nn.Module | Iterable[nn.Module],
        axes: SeamlessAxes,
        *,
        extent: tuple[int, int] | None = None,
    ) -> None:
        self.models: list[nn.Module] = [models] if isinstance(models, nn.Module) else list(models)
        self.wrap_x, self.wrap_y = parse_axes(axes)
        self.extent = extent
        if extent is not None and (len(extent) != 2 or min(extent) < 1):
            raise SeamlessError(f"Expected an extent of (height, width) in tokens, at least 1, but got {extent}.")
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self.wrap_x or self.wrap_y:
                placed = [self._enter(stack, model) for model in self.models]
                if self.extent is not None and not any(placed):
                    raise SeamlessError("Expected an extent only for models with positions, but none has any.")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def _enter(self, stack: ExitStack, model: nn.Module) -> bool:
        """Patch one model; whether it has positions."""
        transformer = is_transformer(model)
        placed = transformer and make_periodic(stack, model, wrap_x=self.wrap_x, wrap_y=self.wrap_y, extent=self.extent)
        for name, module in model.named_modules():
            self._patch(stack, name, module, placed=transformer)
        return placed

    def _patch(self, stack: ExitStack, name: str, module: nn.Module, *, placed: bool) -> None:
        positions = not placed and getattr(module, "pos_embed", None) is not None
        if isinstance(module, nn.ConvTranspose2d) or positions:
            raise SeamlessError(
                f"Expected convolutions and attention without positions, but got {type(module).__name__} at {name!r}: "
                "this model can't be made seamless by circular padding; use --seamless none."
            )
        if isinstance(module, nn.Conv2d):
            padding = _padding(module)
            if padding is not None:
                stack.enter_context(replaced(module, "_conv_forward", self._conv(module, padding)))
        elif type(module).__name__ == "Downsample2D" and getattr(module, "use_conv", False) and not _pads(module):
            # diffusers' autoencoder encoders pad one side with zeros before an unpadded strided convolution.
            stack.enter_context(replaced(module, "forward", self._downsample(module)))

    def _conv(self, conv: nn.Conv2d, padding: tuple[int, int]) -> Callable[..., Tensor]:
        pad_y, pad_x = padding
        wrap_y, wrap_x = self.wrap_y and pad_y > 0, self.wrap_x and pad_x > 0
        rest = (0 if wrap_y else pad_y, 0 if wrap_x else pad_x)
        plain = conv.kernel_size == (3, 3) and padding == (1, 1) and conv.stride == (1, 1) and conv.dilation == (1, 1)

        def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if plain and x.device.type == "cpu" and min(x.shape[-2:]) >= MIN_MENDED and not torch.is_grad_enabled():
                return _mended(x, weight, bias, conv.groups, wrap_x=wrap_x, wrap_y=wrap_y)
            if wrap_x:
                x = wrap_pad(x, pad_x, pad_x, -1)
            if wrap_y:
                x = wrap_pad(x, pad_y, pad_y, -2)
            return F.conv2d(x, weight, bias, conv.stride, rest, conv.dilation, conv.groups)

        return forward

    def _downsample(self, module: nn.Module) -> Callable[..., Tensor]:
        def forward(x: Tensor, *args: object, **kwargs: object) -> Tensor:
            norm: nn.Module | None = getattr(module, "norm", None)
            if norm is not None:
                x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = wrap_pad(x, 0, 1, -1) if self.wrap_x else F.pad(x, (0, 1, 0, 0))
            x = wrap_pad(x, 0, 1, -2) if self.wrap_y else F.pad(x, (0, 0, 0, 1))
            conv: nn.Module = module.conv  # pyright: ignore[reportAssignmentType] - nn.Module types attributes as Tensor | Module
            return conv(x)

        return forward


def _mended(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, *, wrap_x: bool, wrap_y: bool) -> Tensor:
    """A 3x3 circular convolution as the zero-padded one with its border lines computed again.

    On a CPU a padded copy of a large input costs a third of the convolution; four lines cost nothing. The four lines
    that the two border outputs read are the last two and the first two.
    """
    out = F.conv2d(x, weight, bias, 1, 1, 1, groups)
    if wrap_x:
        lines = torch.cat([x[..., -2:], x[..., :2]], -1)
        lines = F.conv2d(lines, weight, bias, 1, (1, 0), 1, groups)
        out[..., -1], out[..., 0] = lines[..., 0], lines[..., 1]
    if wrap_y:
        lines = torch.cat([x[..., -2:, :], x[..., :2, :]], -2)
        lines = wrap_pad(lines, 1, 1, -1) if wrap_x else lines
        lines = F.conv2d(lines, weight, bias, 1, (0, 0 if wrap_x else 1), 1, groups)
        out[..., -1, :], out[..., 0, :] = lines[..., 0, :], lines[..., 1, :]
    return out


def _pads(module: nn.Module) -> bool:
    return bool(getattr(module, "padding", 1))


def _padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """(y, x) zero padding of a convolution, or None where it has none to replace."""
    if conv.padding_mode == "circular" or conv.padding == "valid":
        return None
    if isinstance(conv.padding, str):
        spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(s % 2 for s in spans):
            raise SeamlessError(
                f"Expected symmetric padding, but got padding='same' with kernel size {conv.kernel_size}."
            )
        return spans[0] // 2, spans[1] // 2
    pad_y, pad_x = conv.padding
    return (int(pad_y), int(pad_x)) if pad_y or pad_x else None
