"""Stable Diffusion 1.5, 2.1 and XL, as diffusers loads them, seen as latent models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .canvas_file import Enlarged, Sink
from .errors import CheckpointError
from .exact_vae import ExactTiledVAE
from .sampling import Predictor
from .seamless import SeamlessAxes
from .tiles import Place

LAYOUTS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""Classes whose folders load; the others of these families (img2img, inpainting) hold the same parts."""


class Prompt(NamedTuple):
    """Embeddings of one prompt an image: tokens (N, T, D); pooled (N, P) with XL; the same for the negative prompt."""

    tokens: Tensor
    negative: Tensor | None
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None


TilePrompt = Callable[[Place, tuple[int, int]], Prompt | None]


class StableDiffusion:
    """A `LatentModel`: a diffusers pipeline's parts with a prompt.

    Args:
        base: StableDiffusionPipeline or StableDiffusionXLPipeline.
        prompt: embeddings; None where nothing is to be denoised.
        guidance: classifier-free guidance; it acts where there are negative embeddings.
        vae_tile: latent cells, of `ExactTiledVAE`; `spill` and `hold` are its too.
        size_ids: XL's micro-conditioning (original height and width, crop top and left, target height and width) for a
            tile of so many (height, width) pixels.
        tile_prompt: called with a tile's place and the canvas' (height, width) in cells: the prompt of that tile in
            place of `prompt`, or None to keep that.
    """

    def __init__(
        self,
        base: Any,
        prompt: Prompt | None,
        *,
        guidance: float = 1.0,
        guidance_rescale: float = 0.0,
        vae_tile: int = 64,
        spill: str | None = None,
        hold: int | None = None,
        size_ids: Callable[[int, int], Sequence[int]] | None = None,
        tile_prompt: TilePrompt | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.base = base
        self.prompt = prompt
        self.guidance = guidance
        self.guidance_rescale = guidance_rescale
        self.network = base.unet
        self.scheduler: Any = base.scheduler
        self.vae = base.vae
        self.factor = 2 ** (len(base.vae.config.block_out_channels) - 1)
        self.multiple = 2 ** (len(base.unet.config.block_out_channels) - 1)
        self.channels = int(base.unet.config.in_channels)
        self.tile = trained_side(base.unet)
        self.count = 0 if prompt is None else len(prompt.tokens)
        self._vae_options: dict[str, Any] = {"tile": vae_tile, "spill": spill, "hold": hold}
        self._size_ids = size_ids or (lambda height, width: (height, width, 0, 0, height, width))
        self._tile_prompt = tile_prompt
        self._cross_attention_kwargs = cross_attention_kwargs

    @property
    def device(self) -> torch.device:
        return torch.device(self.base._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    def predictor(self, canvas: tuple[int, int], seamless: SeamlessAxes) -> Predictor:
        del seamless  # a tile looks like any picture to these networks

        def predict(tiles: Tensor, timestep: Any, places: Sequence[Place], /) -> Tensor:
            return self._predict(tiles, timestep, self._prompt_of(places, canvas))

        return predict

    def _predict(self, tiles: Tensor, timestep: Any, prompt: Prompt) -> Tensor:
        guided = prompt.negative is not None
        # the order of diffusers' pipelines, so that one tile gives their result to the bit
        both = torch.cat([tiles, tiles]) if guided else tiles
        options: dict[str, Any] = {}
        if prompt.pooled is not None:
            pooled = torch.cat([t for t in (prompt.negative_pooled, prompt.pooled) if t is not None])
            pixels = (tiles.shape[-2] * self.factor, tiles.shape[-1] * self.factor)
            ids = torch.tensor([[*self._size_ids(*pixels)]], dtype=pooled.dtype, device=pooled.device)
            options["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.expand(len(both), -1)}
        if self.network.config.time_cond_proj_dim is not None:  # distilled by guidance (LCM)
            scale = torch.full((len(both),), self.guidance - 1, device=tiles.device)
            options["timestep_cond"] = self.base.get_guidance_scale_embedding(
                scale, embedding_dim=self.network.config.time_cond_proj_dim
            ).to(device=tiles.device, dtype=self.dtype)
        tokens = torch.cat([t for t in (prompt.negative, prompt.tokens) if t is not None])
        made = self.network(
            both.to(self.dtype),
            timestep,
            encoder_hidden_states=tokens,
            cross_attention_kwargs=self._cross_attention_kwargs,
            return_dict=False,
            **options,
        )[0].to(tiles.dtype)
        if not guided:
            return made
        without, given = made.chunk(2)
        fused = without + self.guidance * (given - without)
        return _rescaled(fused, given, self.guidance_rescale) if self.guidance_rescale > 0 else fused

    def _prompt_of(self, places: Sequence[Place], canvas: tuple[int, int]) -> Prompt:
        whole = self.prompt
        if whole is None:
            raise CheckpointError("Expected a prompt to denoise with, but got none.")
        rows = [place.sample for place in places]
        parts = [Prompt(*(None if t is None else t[n : n + 1] for t in whole)) for n in rows]  # pyright: ignore[reportArgumentType] - None stays where None was
        if self._tile_prompt is not None:
            own = [self._tile_prompt(place, canvas) for place in places]
            parts = [
                part if mine is None else mine._replace(negative=part.negative, negative_pooled=part.negative_pooled)
                for part, mine in zip(parts, own, strict=True)
            ]
        joined = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
        return Prompt(*joined)  # pyright: ignore[reportArgumentType] - as above

    def encode(self, images: Tensor, seamless: SeamlessAxes) -> Tensor:
        with self._whole_precision():
            made = self._tiled(seamless).encode(images.to(self.device, self.vae.dtype), return_dict=False)[0]
        return self._scaled(made.mode())

    def encode_from(self, source: Enlarged, seamless: SeamlessAxes) -> Tensor:
        with self._whole_precision():
            source.prepare = lambda x: x.to(self.vae.dtype)
            moments = self._tiled(seamless).encode_canvas(source)
        return self._scaled(moments.chunk(2, 1)[0])

    def decode_into(self, latents: Tensor, sink: Sink, seamless: SeamlessAxes) -> None:
        with self._whole_precision():
            self._tiled(seamless).decode_canvas(self._raw(latents).to(self.vae.dtype), sink)

    def _tiled(self, seamless: SeamlessAxes) -> ExactTiledVAE:
        return ExactTiledVAE(self.vae, seamless=seamless, **self._vae_options)

    def _scaled(self, raw: Tensor) -> Tensor:
        mean, spread = latent_statistics(self.vae.config, raw.float())
        return (raw.float() - mean) * (self.vae.config.scaling_factor / spread)

    def _raw(self, latents: Tensor) -> Tensor:
        mean, spread = latent_statistics(self.vae.config, latents)
        return latents * spread / self.vae.config.scaling_factor + mean

    def decode(self, latents: Tensor, seamless: SeamlessAxes) -> Tensor:
        with self._whole_precision():
            made = self._tiled(seamless).decode(self._raw(latents).to(self.vae.dtype), return_dict=False)[0]
        return made.float().cpu()

    @contextmanager
    def _whole_precision(self) -> Iterator[None]:
        """XL's autoencoder overflows in half precision, and says so."""
        dtype = self.vae.dtype
        if dtype != torch.float16 or not self.vae.config.get("force_upcast"):
            yield
            return
        self.vae.to(torch.float32)
        try:
            yield
        finally:
            self.vae.to(dtype)


def latent_statistics(config: Any, latents: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Mean and spread of raw latents where a checkpoint gives them for each channel (Playground 2.5), else 0 and 1."""
    mean, spread = config.get("latents_mean"), config.get("latents_std")
    if mean is None or spread is None:
        return 0.0, 1.0
    options: dict[str, Any] = {"device": latents.device, "dtype": latents.dtype}
    return torch.tensor(mean, **options).view(1, -1, 1, 1), torch.tensor(spread, **options).view(1, -1, 1, 1)


def _rescaled(fused: Tensor, given: Tensor, share: float) -> Tensor:
    """Guidance without its growth of contrast (Lin et al. 2023, section 3.4)."""
    axes = list(range(1, fused.ndim))
    plain = fused * (given.std(dim=axes, keepdim=True) / fused.std(dim=axes, keepdim=True))
    return share * plain + (1 - share) * fused


def trained_side(unet: Any) -> int:
    """Latent cells along the side of the images that a U-Net was trained on."""
    size = unet.config.sample_size
    if isinstance(size, list | tuple):
        size = max(size)
    if not size:
        raise CheckpointError("Expected a U-Net whose config gives its sample_size, but got none.")
    return int(size)
