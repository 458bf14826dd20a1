"""StableMaterials (Vecchio 2024, arXiv 2406.09293) behind the interface of `MaterialPipeline`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from asd.exact_vae import ExactTiledVAE
from asd.seamless import Seamless, SeamlessAxes
from materials.errors import ZelligeError
from materials.material import NETWORK_CHANNELS, Material
from materials.pipeline import FACTOR, MaterialPipeline, one_by_one
from materials.variation import Variation, between, start_noise, variation_of
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import DDIMScheduler, LCMScheduler, UNet2DConditionModel  # noqa: E402 - the guard must come first
from diffusers.models.embeddings import get_timestep_embedding  # noqa: E402 - as above

STEPS, GUIDANCE = 50, 10.0
"""Of the base U-Net, as published."""
LCM_STEPS, LCM_GUIDANCE = 4, 7.5
"""Of the distilled one, as published."""
MOST_LCM_STEPS = 8
"""More steps are the base U-Net's; more do nothing for the distilled one (Luo et al. 2023)."""
TILE = 64
"""Latent cells along a tile of the decoder."""


class PictureFormat(NamedTuple):
    """How CLIP wants its pictures: the side of a square in pixels, mean and spread of each colour."""

    side: int
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    def read(self, image: Tensor) -> Tensor:
        """(1, 3, side, side) of an image (3, H, W) in [0, 1]: scaled to its short side, cut to its middle."""
        rows, columns = image.shape[-2:]
        # the longer side rounded down, as in CLIP's own preparation
        size = [self.side * each // min(rows, columns) for each in (rows, columns)]
        x = F.interpolate(image[None].float(), size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top, left = ((each - self.side) // 2 for each in size)
        return self.scaled(x[..., top : top + self.side, left : left + self.side])

    def black(self) -> Tensor:
        """What says nothing: StableMaterials learnt a black picture as that."""
        return self.scaled(torch.zeros(1, 3, self.side, self.side))

    def scaled(self, x: Tensor) -> Tensor:
        mean, spread = (torch.tensor(each).view(1, 3, 1, 1) for each in (self.mean, self.spread))
        return (x - mean) / spread


@dataclass(frozen=True)
class ImagePrompt(Variation):
    """A `Variation` whose image is part of the prompt: it has no place in the result."""

    @property
    def placed(self) -> bool:
        return False


class Networks:
    """The U-Nets of a checkpoint by name, "unet_lcm" and "unet"; each is loaded when it is first asked for."""

    def __init__(self, names: tuple[str, ...], load: Callable[[str], UNet2DConditionModel]) -> None:
        self.names = names
        self._load = load
        self._loaded: dict[str, UNet2DConditionModel] = {}

    def of(self, steps: int | None) -> str:
        """The one for so many steps; None is the default."""
        few = steps is None or steps <= MOST_LCM_STEPS
        return "unet_lcm" if "unet_lcm" in self.names and (few or len(self.names) == 1) else "unet"

    def __getitem__(self, name: str) -> UNet2DConditionModel:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]


class StableMaterials(MaterialPipeline):
    """What `MaterialPipeline.from_pretrained` returns for a checkpoint in the layout of gvecchio/StableMaterials.

    Called as `MaterialPipeline` is, but for this:

    - Up to 8 steps the consistency model draws (`unet_lcm`, 4 by default), above the base one (`unet`, 50 by default
      where there is no other). `guidance` is 7.5 with the former, 10 with the latter, as published.
    - `image` is a picture that joins the prompt: the one token is the picture's at `strength` 0, the prompt's at 1, and
      between them what lies between. It keeps no layout; materials and masks are errors.
    - `scale` is an error: this model knows none. `grain` is 0 by default: its basecolor has a grain of its own.

    Where the published pipeline pads convolutions from a quarter of the steps on, and decodes a larger tile to cut its
    middle out, here every convolution of U-Net and decoder is circular at every step (`asd.Seamless`). Attention has no
    positions and norms take the whole canvas, so a roll of the latents by the networks' stride rolls the maps, exactly
    but for rounding.
    """

    infers_maps = False

    def __init__(
        self,
        vae: Any,
        networks: Networks,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: DDIMScheduler,
        vision_encoder: Any,
        picture: PictureFormat,
    ) -> None:
        super().__init__(vae, networks[networks.of(None)], text_encoder, tokenizer, scheduler)
        self.register_modules(vision_encoder=vision_encoder)
        self._levels: Mapping[str, Any] = dict(scheduler.config)
        self.networks = networks
        self.picture = picture
        self.trained_side = FACTOR * int(self.unet.config["sample_size"])

    def settled(self, steps: int | None, guidance: float | None, grain: float | None) -> tuple[int, float, float]:
        distilled = self.networks.of(steps) == "unet_lcm"
        if steps is None:
            steps = LCM_STEPS if distilled else STEPS
        config = self._levels
        most = MOST_LCM_STEPS if distilled else config["num_train_timesteps"] - config["steps_offset"]
        if steps > most:
            raise ZelligeError(f"Expected at most {most} steps, but got {steps}.")
        if guidance is None:
            guidance = LCM_GUIDANCE if distilled else GUIDANCE
        return steps, guidance, 0.0 if grain is None else grain

    def pattern_scale(self, scale: float | None, canvas: tuple[int, int]) -> float:
        if scale is not None:
            raise ZelligeError(f"Expected no scale with StableMaterials, which knows none, but got {scale:g}.")
        return super().pattern_scale(None, canvas)

    def variation(
        self,
        image: Material | Tensor | None,
        strength: float | None,
        mask: Tensor | None,
        neighbour: int | None,
        amount: float | None,
        size: tuple[int, int],
        seamless: SeamlessAxes,
    ) -> Variation:
        if mask is not None or isinstance(image, Material):
            got = "a material" if mask is None else "a mask"
            raise ZelligeError(f"Expected a picture for StableMaterials, which takes it as a prompt, but got {got}.")
        if image is not None and image.ndim == 3:
            size = (image.shape[2], image.shape[1])  # CLIP scales it itself
        return ImagePrompt(**vars(variation_of(image, strength, None, neighbour, amount, size, seamless)))

    @torch.no_grad()
    def denoise(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        canvas: tuple[int, int],
        seamless: SeamlessAxes,
        steps: int,
        guidance: float,
        scale: float,
        callback: Callable[[int, int], None] | None = None,
        variation: Variation = Variation(),  # noqa: B008 - frozen
        guide: SeamlessAxes = "none",
    ) -> Tensor:
        if guide != "none":
            raise ZelligeError(f"Expected no guide with StableMaterials, whose networks wrap, but got {guide}.")
        name, n = self.networks.of(steps), len(prompts)
        unet = self.networks[name]
        device, dtype = unet.device, unet.dtype
        if n > 1 and device.type == "cpu":
            fixed_for_all = (canvas, seamless, steps, guidance, scale)
            return one_by_one(
                n, callback, lambda i, tell: self.denoise([prompts[i]], [seeds[i]], *fixed_for_all, tell, variation)
            )
        distilled = name == "unet_lcm"
        scheduler: Any = scheduler_of(LCMScheduler if distilled else DDIMScheduler, self._levels)
        scheduler.set_timesteps(steps, device=device)
        shape = (int(unet.config["in_channels"]), canvas[1] // FACTOR, canvas[0] // FACTOR)
        x = torch.stack([start_noise(shape, seed, variation) for seed in seeds]).to(device)
        x = x * scheduler.init_noise_sigma
        tokens = torch.cat([self.token(prompt, variation) for prompt in prompts])
        guided = not distilled and guidance != 1
        if guided:
            tokens = torch.cat([self._seen(self.picture.black()).expand(n, -1, -1), tokens])
        told: dict[str, Any] = {"encoder_hidden_states": tokens.to(device, dtype), "return_dict": False}
        if distilled:
            told["timestep_cond"] = guidance_embedding(guidance, n, unet.config["time_cond_proj_dim"]).to(device, dtype)
        extra: dict[str, Any] = {}
        if distilled:  # new noise after every step: what each seed draws next
            extra["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
            for generator in extra["generator"]:
                torch.randn(shape, generator=generator)
        with Seamless(unet, seamless):
            for i, t in enumerate(scheduler.timesteps):
                both = scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
                noise = unet(both.to(dtype), t, **told)[0].float()
                if guided:
                    noise = noise[:n] + guidance * (noise[n:] - noise[:n])
                x = scheduler.step(noise, t, x, **extra, return_dict=False)[0]
                if callback is not None:
                    callback(i + 1, steps)
        return x

    @torch.no_grad()
    def decode(self, z: Tensor, seamless: SeamlessAxes = "none") -> Tensor:
        """As in `MaterialPipeline`; `seamless` are the axes of the `Seamless` around this."""
        vae: Any = self.vae
        raw = (z / vae.config["scaling_factor"]).to(vae.dtype)
        return ExactTiledVAE(vae, TILE, seamless).decode(raw).sample[:, :NETWORK_CHANNELS].float().cpu()

    @torch.no_grad()
    def token(self, prompt: str, variation: Variation = Variation()) -> Tensor:  # noqa: B008 - frozen
        """(1, 1, D): the projected embedding of the prompt, of the variation's image, or what lies between them."""
        encoder: Any = self.text_encoder
        most = int(encoder.config.max_position_embeddings)
        words: Any = self.tokenizer(prompt, truncation=True, max_length=most, return_tensors="pt")
        ids, mask = (words[key].to(encoder.device) for key in ("input_ids", "attention_mask"))
        text = encoder(input_ids=ids, attention_mask=mask).text_embeds[:, None]
        if not isinstance(variation.image, Tensor) or variation.strength == 1:
            return text
        seen = self._seen(self.picture.read(variation.image))
        return seen if variation.strength == 0 else between(seen.float(), text.float(), variation.strength)

    def _seen(self, pixels: Tensor) -> Tensor:
        """(1, 1, D): the projected embedding of a picture (1, 3, side, side)."""
        encoder: Any = self.vision_encoder
        return encoder(pixel_values=pixels.to(encoder.device, encoder.dtype)).image_embeds[:, None]


def guidance_embedding(guidance: float, count: int, width: int) -> Tensor:
    """(count, width): sines and cosines that tell a latent consistency model its guidance (Luo et al. 2023)."""
    weight = torch.full((count,), guidance - 1)
    return get_timestep_embedding(weight, width, scale=1000.0, downscale_freq_shift=1)


def scheduler_of(kind: Any, config: Mapping[str, Any]) -> Any:
    """A scheduler of the same noise levels: `from_config`, which warns of keys that other schedulers have."""
    return kind(**{key: value for key, value in config.items() if key in inspect.signature(kind).parameters})
