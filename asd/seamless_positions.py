"""Periodic positions: what makes a transformer see a torus, where a circular convolution makes a U-Net see one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import SeamlessError
from .patching import replaced

ROTARY_AXES = (1, 2)
"""Where Flux's position ids hold y and x; the others (image, text) stay as they are."""
SINCOS_THETA = 10000.0
SINCOS_TOLERANCE = 1e-2
"""A stored table this close to the formula is the formula, rounded to bfloat16 at worst."""
ROTARY_MODELS = ("ChromaTransformer2DModel", "Flux2Transformer2DModel", "FluxTransformer2DModel")
SINCOS_MODELS = ("PixArtTransformer2DModel", "SD3Transformer2DModel", "SanaTransformer2DModel")


class Extent(NamedTuple):
    """Height and width of the torus, in the units of the model's positions."""

    height: float
    width: float


def turns(frequencies: Tensor, extent: float) -> Tensor:
    """Whole turns over `extent` nearest to each frequency (radians per unit); half a turn or less becomes none.

    With these, cos and sin of 2 pi turns p / extent have period `extent` in p, and depend on a difference of positions
    through its remainder alone: rotary attention logits become those of a torus.
    """
    return (frequencies * extent / (2 * math.pi)).round()


def is_transformer(model: nn.Module) -> bool:
    """Whether a model as a whole is one of diffusers' transformers, which all but a few have positions."""
    return type(model).__module__.startswith("diffusers.models.transformers.")


def make_periodic(
    stack: ExitStack, model: nn.Module, *, wrap_x: bool, wrap_y: bool, extent: tuple[float, float] | None
) -> bool:
    """Patch a transformer's positions for as long as `stack` is open; False where there are none to patch.

    Rotary models (Flux, Flux.2, Chroma): on the axes that wrap, each frequency is replaced by the nearest whole number
    of turns over the image. Sine and cosine tables (SD3, PixArt, Sana with positions): likewise, each channel keeping
    the phase that it has in the middle of the image, so that those too slow for one turn say "middle" everywhere.

    Raises:
        SeamlessError: another transformer, or a table of positions that was learnt and has no period to round to.
    """
    name = type(model).__name__
    if name in ROTARY_MODELS:
        _rotary(stack, model, (wrap_y, wrap_x), extent)
        return True
    if name in SINCOS_MODELS:
        tables = [module for module in model.modules() if getattr(module, "pos_embed", None) is not None]
        tables = [module for module in tables if type(module).__name__ == "PatchEmbed"]
        for module in tables:
            _sincos(stack, module, (wrap_y, wrap_x), extent)
        return bool(tables)
    raise SeamlessError(
        f"Expected positions that can be made periodic ({', '.join((*ROTARY_MODELS, *SINCOS_MODELS))}), "
        f"but got {name}; use --seamless none."
    )


def _rotary(stack: ExitStack, model: nn.Module, wrap: tuple[bool, bool], extent: tuple[float, float] | None) -> None:
    embed: Any = model.pos_embed
    original = _original(embed)
    dims: Sequence[int] = embed.axes_dim
    theta = float(embed.theta)
    signature = inspect.signature(type(model).forward)
    size = [None if extent is None else Extent(*extent)]

    def measure(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = signature.bind_partial(module, *args, **kwargs).arguments.get("img_ids")
        if isinstance(ids, Tensor):
            size[0] = _extent(ids[0] if ids.ndim == 3 else ids)

    def periodic(ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (t.clone() for t in original(ids))
        if size[0] is None:
            raise SeamlessError("Expected img_ids, from which the torus is measured, or extent, but got neither.")
        for axis, wraps, length in zip(ROTARY_AXES, wrap, size[0], strict=True):
            if wraps:
                start, dim = sum(dims[:axis]), dims[axis]
                frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
                # whole turns are dropped before the sine, so that one period further is the same to the bit
                angle = ids[:, axis].cpu().double()[:, None] * turns(frequencies, length) / length
                angle = (2 * math.pi) * (angle - angle.floor()).repeat_interleave(2, 1)
                cos[:, start : start + dim] = angle.cos().to(cos)
                sin[:, start : start + dim] = angle.sin().to(sin)
        return cos, sin

    if extent is None:
        handle = model.register_forward_pre_hook(measure, with_kwargs=True)
        stack.callback(handle.remove)
    stack.enter_context(replaced(embed, "forward", _Periodic(original, periodic)))


def _extent(ids: Tensor) -> Extent:
    """The image's size from its tokens' ids (tokens, axes), less reference images, which differ in the first id."""
    ids = ids[ids[:, 0] == ids[0, 0]].cpu().double()
    sides = []
    for axis in ROTARY_AXES:
        values = ids[:, axis].unique()
        count = len(values)
        # evenly spaced: one step beyond the last is the first again
        sides.append(float(values[-1] - values[0]) * count / (count - 1) if count > 1 else 1.0)
    return Extent(*sides)


def _sincos(stack: ExitStack, module: nn.Module, wrap: tuple[bool, bool], extent: tuple[float, float] | None) -> None:
    embed: Any = module
    stored: Tensor = embed.pos_embed
    grid = embed.pos_embed_max_size or round(stored.shape[1] ** 0.5)
    if embed.pos_embed_max_size is None and extent is not None:
        raise SeamlessError("Expected no extent for positions that are relative to the image, but got one.")
    own = _axis(grid, grid, 0, embed)
    plain = _table(own, own, stored.shape[-1], (False, False), None)
    if plain.shape != stored.shape[1:] or float((plain.to(stored) - stored[0]).abs().max()) > SINCOS_TOLERANCE:
        raise SeamlessError("Expected positions made of sines and cosines, but got a table that was learnt.")
    original = _original(embed)

    def periodic(latent: Tensor) -> Tensor:
        rows, columns = (side // embed.patch_size for side in latent.shape[-2:])
        limit: int | None = embed.pos_embed_max_size
        if limit is not None and max(rows, columns) > limit:
            raise SeamlessError(f"Expected at most {limit} tokens a side, but got {columns}x{rows}.")
        axes = [_axis(n, limit or n, 0 if limit is None else (limit - n) // 2, embed) for n in (rows, columns)]
        table = _table(axes[0], axes[1], stored.shape[-1], wrap, extent)
        # without a table the module only projects
        kept = embed._buffers["pos_embed"]
        embed._buffers["pos_embed"] = None
        try:
            x = original(latent)
        finally:
            embed._buffers["pos_embed"] = kept
        return (x + table[None].to(kept)).to(x.dtype)

    stack.enter_context(replaced(module, "forward", _Periodic(original, periodic)))


@dataclass(frozen=True)
class _Periodic:
    """A patched forward that knows what it replaced, so that a context within another starts from the model's own."""

    original: Callable[..., Any]
    forward: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)


def _original(module: Any) -> Callable[..., Any]:
    return module.forward.original if isinstance(module.forward, _Periodic) else module.forward


class _Axis(NamedTuple):
    positions: Tensor
    step: float


def _axis(count: int, grid: int, first: int, embed: Any) -> _Axis:
    """Tokens first..first+count-1 of a grid of `grid`, scaled as by diffusers' get_2d_sincos_pos_embed."""
    step = embed.base_size / grid / embed.interpolation_scale
    return _Axis((first + torch.arange(count, dtype=torch.float64)) * step, step)


def _table(
    rows: _Axis, columns: _Axis, channels: int, wrap: tuple[bool, bool], extent: tuple[float, float] | None
) -> Tensor:
    """(rows * columns, channels) float64: sines and cosines of x, then of y."""
    halves = []
    for axis, wraps, tokens in zip((columns, rows), wrap[::-1], (extent or (None, None))[::-1], strict=True):
        omega = SINCOS_THETA ** -(torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))
        angle = axis.positions[:, None] * omega
        if wraps:
            length = (len(axis.positions) if tokens is None else tokens) * axis.step
            middle = (axis.positions[0] + axis.positions[-1]) / 2
            angle = (axis.positions[:, None] - middle) * (2 * math.pi * turns(omega, length) / length) + middle * omega
        halves.append(torch.cat([angle.sin(), angle.cos()], 1))
    height, width = len(rows.positions), len(columns.positions)
    across = halves[0][None].expand(height, -1, -1)
    down = halves[1][:, None].expand(-1, width, -1)
    return torch.cat([across, down], -1).reshape(height * width, channels)
