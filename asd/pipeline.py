"""`AnySizePipeline`: Stable Diffusion checkpoints at any size, called as diffusers' own pipelines are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from textile_metric.torchvision_guard import guard_torchvision

from .buckets import FAMILIES, MAX_RATIO, Family, first_size
from .callbacks import CALLBACK_INPUTS, Run
from .clean import CleanHook
from .errors import CheckpointError, SizeError, ZelligeError
from .loading import load_base
from .memory_plan import MemoryPlan, plan_memory
from .pictures import check_output_type, from_tensor, to_tensor
from .seamless import SeamlessAxes, parse_axes
from .sizes import Size
from .stable_diffusion import LAYOUTS, Prompt, StableDiffusion, TilePrompt, trained_side
from .tiles import Method, Place
from .two_stage import (
    LEAST,
    Settings,
    Tiling,
    finished,
    first_stage,
    from_canvas,
    image_to_image,
    passes,
    pasted,
    second_stage,
    steps_run,
)

guard_torchvision()

from diffusers.utils.outputs import BaseOutput  # noqa: E402 - the guard must come first
from diffusers.utils.torch_utils import randn_tensor  # noqa: E402 - as above

STAGE_TWO_STRENGTH = 0.35
"""Share of the schedule that each pass of the second stage runs."""


XL_ALONE = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds", "prompt_2", "negative_prompt_2")


class Box(NamedTuple):
    """A tile's place in the picture, in shares of its width and height; beyond 1 on an axis that wraps."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass
class AnySizeOutput(BaseOutput):
    """images: a list of PIL images, an array (N, H, W, 3), a tensor (N, 3, H, W), or latents.

    nsfw_content_detected: one bool an image where the checkpoint has a safety checker, else None.
    """

    images: Any
    nsfw_content_detected: list[bool] | None = None


class AnySizePipeline:
    """Text to image, image to image and inpainting at any pixel size, seamless on the axes asked for.

    It holds a pipeline of diffusers, `base`, and whatever isn't found here is looked up there: `load_lora_weights`,
    `fuse_lora`, `load_textual_inversion`, `to`, `enable_model_cpu_offload`, `scheduler`, `unet`, ... An image of the
    trained size, without `seamless`, is what `base` makes of the same arguments, to the bit on the CPU.

    Args:
        base: StableDiffusionPipeline or StableDiffusionXLPipeline.

    Raises:
        CheckpointError: another class, or a U-Net for other inputs than latents alone.
    """

    def __init__(self, base: Any) -> None:
        if type(base).__name__ not in LAYOUTS:
            raise CheckpointError(f"Expected {' or '.join(LAYOUTS)}, but got {type(base).__name__}.")
        if base.unet.config.in_channels != base.vae.config.latent_channels:
            raise CheckpointError(
                f"Expected a U-Net for {base.vae.config.latent_channels} latent channels, but got one for "
                f"{base.unet.config.in_channels}, as inpainting and depth checkpoints have."
            )
        self.base = base
        self.plan: MemoryPlan | None = None
        self._interrupt = False

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # `pipe.scheduler = ...` must reach the pipeline that samples
        if name in ("scheduler", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
            setattr(self.base, name, value)
        else:
            super().__setattr__(name, value)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, **options: Any) -> Self:
        """Load a diffusers folder or hub id of the layout of Stable Diffusion 1.5, 2.1 or XL.

        Args:
            path_or_id: a folder, or a hub id (pin it with `revision=`).
            options: those of diffusers' `from_pretrained` (torch_dtype, revision, variant, safety_checker=None, ...);
                weights are safetensors and code is diffusers' own, whatever is asked for.

        Raises:
            CheckpointError: nothing there, damaged, pickled, of another layout, or with code of its own.
        """
        return cls(load_base(path_or_id, options))

    @property
    def family(self) -> Family:
        """The sizes that the model was trained near: a known family's, or squares of the U-Net's sample size."""
        unet, vae = self.base.unet, self.base.vae
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        side = trained_side(unet) * factor
        multiple = factor * 2 ** (len(unet.config.block_out_channels) - 1)
        known = [family for family in FAMILIES.values() if (family.side, family.multiple) == (side, multiple)]
        return known[0] if known else Family("own", side, 0.8, multiple)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        prompt_2: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        image: Any = None,
        mask_image: Any = None,
        strength: float = 0.8,
        seamless: SeamlessAxes = "none",
        upscale_strength: float = STAGE_TWO_STRENGTH,
        anchor: float = 1.0,
        tile: int | None = None,
        method: Method = "fstd",
        tile_batch: int | None = None,
        vae_tile: int | None = None,
        spill: str | None = None,
        tile_prompt: Callable[[Box], str | None] | None = None,
        steer: CleanHook | None = None,
    ) -> Any:
        """Make images. What diffusers' pipelines take means the same here; below is what they don't have.

        Without `image` a picture is made at the size of the trained area that is nearest in ratio, and enlarged, at
        most twofold a pass, to the exact pixels: each pass adds noise and denoises in moving tiles. With `image` the
        canvas has the wanted size from the start (by default the image's own).

        Args:
            latents: the first stage's noise; its shape is that of `first_size`.
            callback_on_step_end: called as (pipeline, step, timestep, tensors); steps count through all passes. It may
                set `pipeline._interrupt = True`: what there is then is decoded.
            image: what to start from: PIL image, file, array or tensor, or a list as long as the batch.
            mask_image: white where `image` is to be made anew, black where it is kept to the pixel.
            strength: how much of `image` is given up.
            seamless: axes on which the result tiles: none, x, y or xy.
            upscale_strength: how much each pass of the second stage may change.
            anchor: 0 to 1, how firmly the low frequencies of the image that is enlarged are kept against colour drift.
            tile: latent cells along a tile's side (the trained size).
            method: how tiles lie, see `asd.tiles.Method`.
            tile_batch: tiles that go through the network at once (the plan's, or 4).
            vae_tile: latent cells along the autoencoder's tiles (the plan's, or 64); `spill` is a folder for its
                canvases.
            tile_prompt: called with a tile's `Box`; the prompt for that tile, or None for the common one.
            steer: changes the clean latents that are predicted at every step, such as `asd.tile_guide.TileGuide`.

        Raises:
            ZelligeError: an argument out of range; SizeError for a size, or latents of another shape.
        """
        check_output_type(output_type)
        parse_axes(seamless)
        if mask_image is not None and image is None:
            raise ZelligeError("Expected an image to go with mask_image, but got none.")
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in CALLBACK_INPUTS]
        if unknown:
            known = ", ".join(CALLBACK_INPUTS)
            raise ZelligeError(f"Expected callback tensors out of {known}, but got {unknown[0]!r}.")
        given = None if image is None else to_tensor(image) * 2 - 1
        size = self._size(width, height, given)
        self._interrupt = False
        guidance = self._guidance(guidance_scale)
        distilled = self.base.unet.config.time_cond_proj_dim is not None
        self._set_base(guidance, guidance_rescale, clip_skip, cross_attention_kwargs)
        guided = guidance > 1 and not distilled
        text: dict[str, Any] = {
            "num_images_per_prompt": num_images_per_prompt,
            "lora_scale": (cross_attention_kwargs or {}).get("scale"),
            "clip_skip": clip_skip,
        }
        whole = self._encoded(
            prompt, guided=guided, negative_prompt=negative_prompt, prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds, pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds, prompt_2=prompt_2,
            negative_prompt_2=negative_prompt_2, **text,
        )  # fmt: skip
        model = StableDiffusion(
            self.base,
            whole,
            guidance=guidance,
            guidance_rescale=guidance_rescale,
            vae_tile=self._vae_tile(vae_tile),
            spill=spill,
            hold=self._hold(spill),
            tile_prompt=None if tile_prompt is None else self._tile_prompts(tile_prompt, text),
            cross_attention_kwargs=cross_attention_kwargs,
        )
        if given is not None and len(given) not in (1, model.count):
            raise ZelligeError(f"Expected 1 or {model.count} images for {model.count} results, but got {len(given)}.")
        run = Run(self, model, callback_on_step_end, callback_on_step_end_tensor_inputs)

        def noise(canvas: tuple[int, int]) -> Tensor:
            shape = (model.count, model.channels, *canvas)
            return randn_tensor(shape, generator=generator, device=model.device, dtype=whole.tokens.dtype)

        # the tiles' offsets follow the seed, and leave the generator's numbers to the noise
        leader = generator[0] if isinstance(generator, list) else generator
        batch = tile_batch or (4 if self.plan is None else self.plan.tile_batch)
        settings = Settings(
            steps=num_inference_steps,
            noise=noise,
            seamless=seamless,
            tiling=Tiling(tile=tile, method=method, batch=batch),
            generator=generator,
            seed=None if leader is None else leader.initial_seed(),
            on_step=run.step_done,
            stopped=lambda: self._interrupt,
            steer=steer,
        )
        mask = None if mask_image is None else to_tensor(mask_image, 1)
        if given is None:
            at = self.first_size(*size)
            later = passes(at, size)
            run.expect([1.0] + [upscale_strength] * len(later), num_inference_steps)
            made = first_stage(model, at, settings, latents)
            if later and not self._interrupt:
                pixels = from_canvas(model.decode(made, seamless), at, seamless)
                made, at = second_stage(model, pixels, later, settings, strength=upscale_strength, anchor=anchor)
        else:
            at = size
            run.expect([strength], num_inference_steps)
            made = image_to_image(model, given, size, settings, strength=strength, mask=mask, latents=latents)
        if output_type == "latent":
            images, nsfw = made, None
        else:
            pixels = finished(model, made, at, size, seamless)
            if given is not None and mask is not None:
                pixels = pasted(pixels, given, mask, seamless)
            pixels, nsfw = self._checked_images(pixels)
            images = from_tensor(pixels, output_type)
        run.close()
        self.base.maybe_free_model_hooks()
        return AnySizeOutput(images=images, nsfw_content_detected=nsfw) if return_dict else (images, nsfw)

    def first_size(self, width: int, height: int) -> Size:
        """Pixels of the first stage for an image of this size: these where they are as many as the model knows."""
        family, share = self.family, width * height / self.family.side**2
        if family.least_area <= share < LEAST**2 and max(width, height) <= MAX_RATIO * min(width, height):
            return Size(width, height)
        return first_size((width, height), family)

    def latent_model(
        self,
        prompt: str | list[str] = "",
        *,
        negative_prompt: str | list[str] | None = None,
        guidance_scale: float | None = None,
        vae_tile: int | None = None,
        spill: str | None = None,
    ) -> StableDiffusion:
        """The checkpoint with a prompt, as `asd.two_stage` and `asd.upscale` take it."""
        guidance = self._guidance(guidance_scale)
        guided = guidance > 1 and self.base.unet.config.time_cond_proj_dim is None
        self._set_base(guidance, 0.0, None, None)
        text = self._encoded(prompt, guided=guided, negative_prompt=negative_prompt, num_images_per_prompt=1)
        return StableDiffusion(
            self.base,
            text,
            guidance=guidance,
            vae_tile=self._vae_tile(vae_tile),
            spill=spill,
            hold=self._hold(spill),
        )

    def steps(
        self, size: tuple[int, int], steps: int, strength: float | None = None, upscale: float = STAGE_TWO_STRENGTH
    ) -> int:
        """Calls of the callback for an image of `size` = (width, height); `strength` is given with an image."""
        at = self.first_size(*size)
        shares = [1.0] + [upscale] * len(passes(at, size)) if strength is None else [strength]
        return sum(len(steps_run(self.base.scheduler, steps, share)) for share in shares)

    def keep_to(self, budget: int, size: tuple[int, int], device: str | None = None) -> MemoryPlan:
        """Plan for so many bytes and an image of `size` = (width, height), and run by it from now on.

        Sets the weights' type and offload, the tiles' defaults and, on CUDA, the process' limit.

        Raises:
            SizeError: no plan keeps to it; the message says what would.
        """
        factor = 2 ** (len(self.base.vae.config.block_out_channels) - 1)
        at = self.first_size(*size)
        canvas = (max(size[1], at.height) // factor + 1, max(size[0], at.width) // factor + 1)
        device = device or str(self.base._execution_device)
        plan = plan_memory(self.base, budget, device=device, canvas=canvas)
        dtype = torch.float32 if plan.dtype == "float32" else torch.float16
        if plan.offload == "none":
            self.base.to(device, dtype)
        else:
            self.base.to("cpu", dtype)
            enable = "enable_model_cpu_offload" if plan.offload == "model" else "enable_sequential_cpu_offload"
            getattr(self.base, enable)(device=device)
        if device.startswith("cuda"):
            index = torch.device(device).index
            index = torch.cuda.current_device() if index is None else index  # PyTorch wants a number here
            total = torch.cuda.get_device_properties(index).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), index)
        self.plan = plan
        return plan

    def _vae_tile(self, given: int | None) -> int:
        return given or (64 if self.plan is None else self.plan.vae_tile)

    def _hold(self, spill: str | None) -> int | None:
        """The plan's, unless the canvases are to be in files."""
        return None if self.plan is None or spill is not None else self.plan.hold

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def _size(self, width: int | None, height: int | None, image: Tensor | None) -> tuple[int, int]:
        side = self.family.side
        default = (side, side) if image is None else (image.shape[-1], image.shape[-2])
        size = tuple(plain if given is None else given for given, plain in zip((width, height), default, strict=True))
        if any(isinstance(v, bool) or not isinstance(v, int) for v in size) or min(size) < 1:
            raise SizeError(f"Expected width and height as whole numbers above 0, but got {width} and {height}.")
        return size[0], size[1]

    def _guidance(self, given: float | None) -> float:
        """As diffusers' own defaults are."""
        return (5.0 if hasattr(self.base, "text_encoder_2") else 7.5) if given is None else given

    def _set_base(self, guidance: float, rescale: float, clip_skip: int | None, kwargs: Any) -> None:
        # encode_prompt and the properties of the base read these
        for name, value in (
            ("_guidance_scale", guidance),
            ("_guidance_rescale", rescale),
            ("_clip_skip", clip_skip),
            ("_cross_attention_kwargs", kwargs),
            ("_interrupt", False),
        ):
            setattr(self.base, name, value)

    def _encoded(self, prompt: Any, *, guided: bool, **options: Any) -> Prompt:
        xl = hasattr(self.base, "text_encoder_2")
        if (prompt is None) == (options.get("prompt_embeds") is None):
            raise ZelligeError("Expected either prompt or prompt_embeds, but got both or neither.")
        if prompt is not None and not isinstance(prompt, str | list):
            raise ZelligeError(f"Expected prompt as text or a list of texts, but got {type(prompt).__name__}.")
        if not xl:
            dropped = [name for name in XL_ALONE if options.pop(name, None) is not None]
            if dropped:
                raise ZelligeError(f"Expected {dropped[0]} with an XL checkpoint alone, but this one is none.")
        made = self.base.encode_prompt(
            prompt=prompt, device=self.base._execution_device, do_classifier_free_guidance=guided, **options
        )
        prompt_embeds, negative = made[0], made[1] if guided else None
        if not xl:
            return Prompt(prompt_embeds, negative)
        return Prompt(prompt_embeds, negative, made[2], made[3] if guided else None)

    def _tile_prompts(self, ask: Callable[[Box], str | None], text: dict[str, Any]) -> TilePrompt:
        known: dict[str, Prompt] = {}

        def prompt(place: Place, canvas: tuple[int, int]) -> Prompt | None:
            rows, columns = canvas
            box = Box(
                place.x / columns,
                place.y / rows,
                (place.x + len(place.columns)) / columns,
                (place.y + len(place.rows)) / rows,
            )
            found = ask(box)
            if found is None:
                return None
            if found not in known:
                known[found] = self._encoded(found, guided=False, **(text | {"num_images_per_prompt": 1}))
            return known[found]

        return prompt

    def _checked_images(self, pixels: Tensor) -> tuple[Tensor, list[bool] | None]:
        if getattr(self.base, "safety_checker", None) is None:
            return pixels, None
        shown = (pixels * 0.5 + 0.5).clamp(0, 1)
        checked, found = self.base.run_safety_checker(shown, self.base._execution_device, self.base.unet.dtype)
        return torch.as_tensor(checked) * 2 - 1, found
