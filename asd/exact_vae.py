"""A tiled autoencoder whose result is that of the whole image, on memory set by the tile."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import OutputError, SizeError
from .seamless import SeamlessAxes, parse_axes
from .vae_canvas import Canvas
from .vae_layers import Conv, Layer, TilingError, decoder_layers, encoder_layers
from .vae_run import Again, Waiting, unpadded

if TYPE_CHECKING:
    from os import PathLike

    from diffusers import AutoencoderKL, AutoencoderTiny

MIN_TILE = 8
"""Smallest tile in latent cells: below it most of the work is the tiles' surroundings."""


class ExactTiledVAE:
    """An AutoencoderKL or AutoencoderTiny run in tiles, with the result of the whole image up to float rounding.

    Each tile is computed from just the cells that it depends on: the layers' own reach, zeros at the image's border,
    the other side on an axis that wraps. Where a layer needs the whole canvas, all tiles are brought there first: the
    cells wait in host memory or in files, GroupNorm uses the statistics of all of them (gathered as the tiles pass),
    and attention runs once over the latent grid. An AutoencoderTiny has no such layer.

    The device holds one tile at a time, and at attention the latent grid. Host memory holds at most three canvases of
    activations, or files in `spill` do. For images whose canvases are too large for either, or for the bus, there is
    `hold`: canvases up to that many bytes are kept, on the device, two at most at a time, and what lies beyond is
    computed again from the last of them for each norm that needs statistics. The more norms lie beyond, the more work:
    so on CUDA larger canvases, two at most at a time, wait in pinned host memory where there is room for them, and
    come and go while tiles are computed. PyTorch keeps pinned memory for the next call.

    The images of a batch are run one by one. Results carry no gradient and lie on the device that the input is on;
    compute happens on the model's.

    Args:
        vae: the model; every other attribute of this object is the model's own.
        tile: longest side of a tile, in latent cells, at least 8. Tiles are spread evenly.
        seamless: axes on which the image is a torus; the convolutions' zeros are replaced by the other side, so that
            `decode(roll(z)) == roll(decode(z))`. It is given here and not by `Seamless`.
        spill: a folder for the canvases; they are removed again, also after an exception.
        hold: bytes of the largest canvas kept, to compute again instead of waiting; None lets all wait.

    Raises:
        TilingError: another class of model, a layer whose reach isn't known, a tile below 8, or both spill and hold.
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
        hold: int | None = None,
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
        if hold is not None and (hold < 0 or spill is not None):
            raise TilingError(
                f"Expected hold as a number of bytes, and no spill beside it, but got {hold} and {spill}."
            )
        self.hold = hold
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
        stride = math.prod(layer.stride[0] for layer in self._encoder if isinstance(layer, Conv))
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

    def encode_canvas(self, source: Canvas) -> Tensor:
        """`encode` of a picture that is read in rectangles; returns what the encoder does, (1, C, h, w)."""
        return self._run(self._encoder, source)

    def decode_canvas(self, z: Tensor, sink: Canvas) -> None:
        """`decode` of latents (1, C, h, w) whose pixels are handed to a canvas, tile by tile, and not kept.

        Raises:
            SizeError: another shape.
        """
        self._check(z, "latents", self.vae.config["latent_channels"])
        if len(z) != 1:
            raise SizeError(f"Expected latents of one image, but got {len(z)}.")
        self._run(self._decoder, z, sink)

    def _check(self, x: Tensor, what: str, channels: int) -> None:
        if x.ndim != 4 or x.shape[1] != channels or x.numel() == 0:
            raise SizeError(f"Expected {what} of shape (N, {channels}, H, W), but got {tuple(x.shape)}.")

    @torch.no_grad()
    def _run(self, layers: Sequence[Layer], x: Tensor | Canvas, sink: Canvas | None = None) -> Tensor:
        vae: Any = self.vae
        if not any(self._wrap) and any("_conv_forward" in module.__dict__ for module in vae.modules()):
            raise TilingError("Expected the axes as ExactTiledVAE(..., seamless=...), but got a model in Seamless.")
        hook: Any = getattr(vae, "_hf_hook", None)
        if hasattr(hook, "pre_forward"):  # accelerate's model offload brings the weights in here
            hook.pre_forward(vae)
        weights = next(vae.parameters()).device
        given = x.device if isinstance(x, Tensor) else weights
        device = given if weights.type == "meta" else weights
        with ExitStack() as stack:
            stack.enter_context(unpadded(vae))
            if device.type == "cuda":
                stack.enter_context(_exact_attention(vae))
            if self.hold is not None:
                run = Again(layers, self.tile, self._wrap, device, self.hold, sink).run
            else:
                folder = None
                if self.spill is not None:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zellige-", dir=self.spill)))
                run = Waiting(layers, self.tile, self._wrap, device, folder, sink).run
            if sink is not None:
                run(x[0] if isinstance(x, Tensor) else x)
                return torch.empty(0)
            images = x if isinstance(x, Tensor) else [x]
            made = [run(image) for image in images]
            return (torch.stack(made) if len(made) > 1 else made[0][None]).to(given)


def _exact_attention(vae: Any) -> AbstractContextManager[object]:
    """`kernels.attention` in the model's attention, eight times as fast as PyTorch's at a grid of 512x512 cells."""
    from kernels.diffusers import install

    try:
        return install(vae)
    except ValueError:  # no attention, or none that can be replaced
        return nullcontext()
