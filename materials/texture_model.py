"""Textures from the material model: the network's basecolor as a picture, for `asd`'s two stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asd.canvas_file import Enlarged, Sink
from asd.errors import ZelligeError
from asd.exact_vae import ExactTiledVAE
from asd.sampling import Predictor
from asd.seamless import SeamlessAxes, parse_axes
from asd.sizes import Size, torus_size
from asd.tiles import Place
from materials.conditioning import SCALE_RANGE, condition_vector
from materials.estimate import inferring
from materials.material import basecolor_alone
from materials.pipeline import BASE_TEXELS, DOMAIN, FACTOR, GUIDANCE, GUIDED, MaterialPipeline, stacked
from materials.prompt import PromptEmbedding, encode_prompts

TILE = 64
"""Latent cells: the largest squares that the network was trained on, twice the side of most."""


class TextureModel:
    """An `asd.latent_model.LatentModel`: colour of a surface, and no more of its maps.

    Args:
        pipeline: the material model.
        prompts: one for each picture; an empty one says nothing of what is in it.
        negative: what guidance leads away from.
        guidance: classifier-free guidance, 4 by default; 1 turns it off.
        scale: size of the pattern, see `MaterialPipeline.__call__`; by default what fits the canvas.
        vae_tile: latent cells, of `ExactTiledVAE`.
    """

    def __init__(
        self,
        pipeline: MaterialPipeline,
        prompts: Sequence[str],
        *,
        negative: str | None = None,
        guidance: float | None = None,
        scale: float | None = None,
        vae_tile: int = 64,
    ) -> None:
        if not prompts:
            raise ZelligeError("Expected at least one prompt, but got none.")
        if scale is not None and not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
            raise ZelligeError(f"Expected scale from {SCALE_RANGE[0]:g} to {SCALE_RANGE[1]:g}, but got {scale:g}.")
        self.pipeline = inferring(pipeline)
        self.network: nn.Module = pipeline.unet
        self.scheduler: Any = pipeline.scheduler
        self.factor = FACTOR
        self.multiple = pipeline.stride
        self.channels = int(pipeline.unet.config["in_channels"])
        self.tile = TILE
        self.count = len(prompts)
        self.guidance = GUIDANCE if guidance is None else guidance
        self.scale = scale
        self._vae_tile = vae_tile
        encode = (pipeline.tokenizer, pipeline.text_encoder)
        given = [encode_prompts(*encode, [p]) for p in prompts]
        without = encode_prompts(*encode, [negative or ""])
        self._text = stacked([*given, *([without] * len(given))])

    @property
    def device(self) -> torch.device:
        return self.pipeline.unet.device

    def least_size(self, size: tuple[int, int]) -> Size:
        """The pixels to generate for a picture of `size`: at least as many as the network knows, to be resampled."""
        least = torus_size(size, multiple=self.factor * self.multiple, least_area=BASE_TEXELS**2, least_side=96)
        small = size[0] * size[1] < BASE_TEXELS**2 or min(size) < 96
        return least if small else Size(*size)

    def predictor(self, canvas: tuple[int, int], seamless: SeamlessAxes) -> Predictor:
        scale = math.log2(min(canvas) * self.factor / BASE_TEXELS) if self.scale is None else self.scale
        scale = min(SCALE_RANGE[1], max(SCALE_RANGE[0], scale))
        wraps = [float(w) for w in parse_axes(seamless)]
        tokens, mask, pooled = self._text
        fixed = [torch.full((len(pooled),), v, device=self.device) for v in (scale, *wraps, DOMAIN)]
        text = PromptEmbedding(tokens, mask, condition_vector(pooled.float(), *fixed).to(self.pipeline.unet.dtype))

        def predict(tiles: Tensor, timestep: Any, places: Sequence[Place], /) -> Tensor:
            rows = torch.tensor([place.sample for place in places], device=self.device)
            guided = self.guidance != 1 and GUIDED[0] <= float(timestep) / 1000 <= GUIDED[1]
            if guided:
                rows, tiles = torch.cat([rows, rows + self.count]), torch.cat([tiles, tiles])
            v = self.network(
                tiles.to(self.pipeline.unet.dtype),
                timestep.expand(len(tiles)),
                text.tokens[rows],
                class_labels=text.pooled[rows],
                encoder_attention_mask=text.mask[rows],
                return_dict=False,
            )[0].float()
            if not guided:
                return v
            given, without = v.chunk(2)
            return without + self.guidance * (given - without)

        return predict

    def encode(self, images: Tensor, seamless: SeamlessAxes) -> Tensor:
        vae = self.pipeline.vae
        images = basecolor_alone(images).to(self.device, vae.dtype)
        return self._scaled(self._tiled(seamless).encode(images, return_dict=False)[0])

    def encode_from(self, source: Enlarged, seamless: SeamlessAxes) -> Tensor:
        source.prepare = lambda x: basecolor_alone(x).to(self.pipeline.vae.dtype)
        return self._scaled(self._tiled(seamless).encode_canvas(source))

    def decode(self, latents: Tensor, seamless: SeamlessAxes) -> Tensor:
        raw = self._raw(latents)
        return self._tiled(seamless).decode(raw, return_dict=False)[0][:, :3].float().cpu()

    def decode_into(self, latents: Tensor, sink: Sink, seamless: SeamlessAxes) -> None:
        colour = Sink(sink.size, lambda rows, columns, tile: sink.put(rows, columns, tile[:, :3]))
        self._tiled(seamless).decode_canvas(self._raw(latents), colour)

    def _tiled(self, seamless: SeamlessAxes) -> ExactTiledVAE:
        return ExactTiledVAE(self.pipeline.vae, self._vae_tile, seamless)

    def _scaled(self, raw: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        return (raw.float() - config["shift_factor"]) * config["scaling_factor"]

    def _raw(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return (latents / vae.config["scaling_factor"] + vae.config["shift_factor"]).to(vae.dtype)
