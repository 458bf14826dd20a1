"""Convolutions whose padding is chosen per sample and axis, for training on tiles and crops in one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_wrap: tuple[Tensor, Tensor] | None = None


def set_wrap(wrap_x: Tensor, wrap_y: Tensor) -> None:
    """Set what the next forward and backward pass use: (N,) tensors, 1 = circular, 0 = zero padding."""
    global _wrap
    _wrap = (wrap_x.view(-1, 1, 1, 1), wrap_y.view(-1, 1, 1, 1))


class _WrapPad(torch.autograd.Function):
    """One texel of padding on every side; copies the inside once each way, which is what eager mode needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wrap_x: Tensor, wrap_y: Tensor) -> Tensor:
        ctx.save_for_backward(wrap_x, wrap_y)
        n, c, h, w = x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        out = x.new_empty((n, c, h + 2, w + 2))
        out = out.to(memory_format=torch.channels_last) if last else out
        out[..., 1:-1, 1:-1] = x
        out[..., 1:-1, :1] = x[..., -1:] * wrap_x
        out[..., 1:-1, -1:] = x[..., :1] * wrap_x
        out[..., :1, :] = out[..., -2:-1, :] * wrap_y
        out[..., -1:, :] = out[..., 1:2, :] * wrap_y
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        wrap_x, wrap_y = ctx.saved_tensors
        grad = grads[0]
        rows = grad[..., 1:-1, :].clone()
        rows[..., -1:, :] += grad[..., :1, :] * wrap_y
        rows[..., :1, :] += grad[..., -1:, :] * wrap_y
        inside = rows[..., 1:-1].clone()
        inside[..., -1:] += rows[..., :1] * wrap_x
        inside[..., :1] += rows[..., -1:] * wrap_x
        return inside, None, None


def wrap_pad(x: Tensor, wrap_x: Tensor, wrap_y: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, H + 2, W + 2), circular where the (N, 1, 1, 1) masks are 1, zeros where 0."""
    if torch.compiler.is_compiling():
        # Two concatenations with a mask: the form that inductor fuses into one pass.
        x = torch.cat([x[..., -1:] * wrap_x, x, x[..., :1] * wrap_x], -1)
        return torch.cat([x[..., -1:, :] * wrap_y, x, x[..., :1, :] * wrap_y], -2)
    return _WrapPad.apply(x, wrap_x, wrap_y)  # pyright: ignore[reportReturnType] - apply is untyped


class WrapConv2d(nn.Conv2d):
    """A padded 3x3 convolution that wraps where `set_wrap` says so and pads with zeros elsewhere.

    For one sample it equals the convolution inside `asd.Seamless` of the same axes.
    """

    def forward(self, input: Tensor) -> Tensor:
        assert _wrap is not None, "call set_wrap first"
        x = wrap_pad(input, _wrap[0].to(input.dtype), _wrap[1].to(input.dtype))
        return F.conv2d(x, self.weight, self.bias, self.stride)


def wrap_convolutions(model: nn.Module) -> nn.Module:
    """Turn every 3x3 convolution of `model` with padding 1 into a `WrapConv2d`, in place; the state dict stays."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
            if module.kernel_size != (3, 3) or module.padding != (1, 1):
                raise ValueError(f"Expected 3x3 convolutions with padding 1, but got {module}")
            module.__class__ = WrapConv2d
    return model
