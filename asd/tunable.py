"""What training needs of a text-to-image model, and Stable Diffusion seen so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .buckets import Family
from .errors import CheckpointError
from .loading import layout
from .pipeline import AnySizePipeline
from .seamless import Seamless, SeamlessAxes
from .stable_diffusion import LAYOUTS, latent_statistics
from .views import View

ELSEWHERE = {"MaterialPipeline": "materials.tunable_material"}
"""Modules with `load(model, dtype)` for other classes that a checkpoint may name: those of packages built on this one,
which are looked up by name so that this one doesn't import them. The first class is that of the shipped model."""
PAINT_STEPS = 25


class Tunable(Protocol):
    """A diffusion model whose U-Net is to be trained.

    Attributes:
        unet: diffusers' UNet2DConditionModel.
        scheduler: diffusers' scheduler, whose config says what the U-Net predicts.
        family: the sizes that it was trained near.
    """

    unet: Any
    scheduler: Any
    family: Family

    def to(self, device: torch.device) -> None:
        """Move all networks."""
        ...

    def encode(self, images: Tensor, seamless: SeamlessAxes) -> Tensor:
        """Latents as the U-Net takes them, of images (N, 3, H, W) in [-1, 1]."""
        ...

    def embed(self, caption: str) -> Any:
        """A caption for `predict`; the empty text is what guidance takes for none."""
        ...

    def predict(
        self, unet: nn.Module, noisy: Tensor, timestep: Tensor, text: Sequence[Any], views: Sequence[View]
    ) -> Tensor:
        """The prediction (N, C, h, w) for N embedded captions of `unet`: the model's own, or accelerate's wrapper."""
        ...

    def paint(self, prompt: str, size: tuple[int, int], seamless: SeamlessAxes, seed: int) -> Tensor:
        """A picture (3, H, W) in [0, 1] of `size` = (width, height) pixels."""
        ...


def load_tunable(model: str | None, dtype: torch.dtype = torch.float32) -> Tunable:
    """A model to train; None is the one inside the package.

    Args:
        model: a diffusers folder or a hub id: Stable Diffusion 1.5, 2.1 or XL, or a material model.
        dtype: of the networks' weights, which stay as they are.

    Raises:
        CheckpointError: nothing there, damaged, pickled, or of another class.
    """
    name = next(iter(ELSEWHERE)) if model is None else layout(model)
    if name in ELSEWHERE:
        return import_module(ELSEWHERE[name]).load(model, dtype)
    if model is None or name not in LAYOUTS:
        known = ", ".join([*LAYOUTS, *ELSEWHERE])
        raise CheckpointError(f"Expected a checkpoint of {known}, but got one of {name}.")
    pipeline = AnySizePipeline.from_pretrained(model, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return TunableStableDiffusion(pipeline)


class TunableStableDiffusion:
    """Stable Diffusion 1.5, 2.1 or XL.

    Raises:
        CheckpointError: a U-Net distilled by guidance (LCM), which has no targets to train on here.
    """

    def __init__(self, pipeline: AnySizePipeline) -> None:
        base = pipeline.base
        if base.unet.config.time_cond_proj_dim is not None:
            raise CheckpointError("Expected a checkpoint that isn't distilled by guidance, but got one that is (LCM).")
        self.pipeline = pipeline
        self.unet: Any = base.unet
        self.scheduler: Any = base.scheduler
        self.family = pipeline.family
        self.pooled = hasattr(base, "text_encoder_2")
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            module: nn.Module | None = getattr(base, name, None)
            if module is not None:
                module.requires_grad_(False).eval()
        # XL's overflows in half precision, and rounding in the others saves nothing: latents are made once
        nn.Module.to(base.vae, dtype=torch.float32)

    def to(self, device: torch.device) -> None:
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            module: nn.Module | None = getattr(self.pipeline.base, name, None)
            if module is not None:
                nn.Module.to(module, device=device)

    def encode(self, images: Tensor, seamless: SeamlessAxes) -> Tensor:
        vae = self.pipeline.base.vae
        # whole: views are no larger than what the model was trained on
        with torch.no_grad(), Seamless(vae, seamless):
            raw = vae.encode(images.to(vae.device), return_dict=False)[0].mode()
        mean, spread = latent_statistics(vae.config, raw)
        return (raw - mean) * (vae.config.scaling_factor / spread)

    @torch.no_grad()
    def embed(self, caption: str) -> tuple[Tensor, Tensor | None]:
        """Tokens (1, T, D) and, of XL, the pooled embedding (1, P)."""
        base = self.pipeline.base
        # a dropped caption is what XL's guidance takes for no prompt, which may be zeros
        made = base.encode_prompt(
            prompt=caption, device=self.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=not caption
        )
        if not self.pooled:
            return made[0 if caption else 1], None
        return (made[0], made[2]) if caption else (made[1], made[3])

    def predict(
        self, unet: nn.Module, noisy: Tensor, timestep: Tensor, text: Sequence[Any], views: Sequence[View]
    ) -> Tensor:
        options: Mapping[str, Any] = {}
        if self.pooled:
            pooled = torch.cat([each[1] for each in text])
            ids = torch.tensor([size_ids(view) for view in views], device=noisy.device, dtype=pooled.dtype)
            options = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        tokens = torch.cat([each[0] for each in text])
        return unet(noisy, timestep, encoder_hidden_states=tokens, return_dict=False, **options)[0].float()

    @torch.no_grad()
    def paint(self, prompt: str, size: tuple[int, int], seamless: SeamlessAxes, seed: int) -> Tensor:
        made = self.pipeline(
            prompt, width=size[0], height=size[1], num_inference_steps=PAINT_STEPS, seamless=seamless,
            generator=torch.Generator().manual_seed(seed), output_type="pt",
        )  # fmt: skip
        return made.images[0]


def size_ids(view: View) -> list[int]:
    """XL's micro-conditioning (Podell et al. 2023, 2.2): original size, crop's top left, target size; rows first."""
    original, size = view.original, view.size
    return [original.height, original.width, view.top, view.left, size.height, size.width]


def model_told(model: Tunable) -> dict[str, Any]:
    """What tells one model's weights from another's, as JSON values: three of every tensor's."""
    import hashlib

    seen = hashlib.sha256()
    for name, value in sorted(model.unet.state_dict().items()):
        flat = value.flatten()
        few = flat[[0, len(flat) // 2, -1]].float().tolist() if len(flat) else []
        seen.update(f"{name} {tuple(value.shape)} {few}\n".encode())
    return {"weights": seen.hexdigest()}
