"""The material model as `asd.train_arad` trains it: colour alone, the maps as the autoencoder infers them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asd.buckets import Family
from asd.seamless import Seamless, SeamlessAxes, parse_axes
from asd.views import View
from materials.conditioning import SCALE_RANGE, condition_vector
from materials.estimate import inferring
from materials.material import basecolor_alone
from materials.pipeline import BASE_TEXELS, DOMAIN, FACTOR, MaterialPipeline, stacked
from materials.prompt import PromptEmbedding, encode_prompts
from materials.textures import paint_texture


def load(model: str | None, dtype: torch.dtype) -> TunableMaterial:
    """The model in the package, or one of its layout in a folder or a hub id.

    Weights are kept in half precision on the disk, so bfloat16 would round them: float32 then.

    Raises:
        CheckpointError: nothing there, damaged, pickled, or of another kind.
    """
    dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    return TunableMaterial(MaterialPipeline.from_pretrained(model, device="cpu", dtype=dtype))


class TunableMaterial:
    """An `asd.tunable.Tunable`.

    Raises:
        CheckpointError: a model that makes materials alone, and paints nothing.
    """

    def __init__(self, pipeline: MaterialPipeline) -> None:
        self.pipeline = inferring(pipeline)
        self.unet: Any = pipeline.unet
        self.scheduler: Any = pipeline.scheduler
        self.family = Family("own", BASE_TEXELS, 0.8, FACTOR * pipeline.stride)
        nn.Module.to(pipeline.vae, dtype=torch.float32)

    def to(self, device: torch.device) -> None:
        for module in (self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder):
            nn.Module.to(module, device=device)

    def encode(self, images: Tensor, seamless: SeamlessAxes) -> Tensor:
        vae = self.pipeline.vae
        config = vae.config
        with torch.no_grad(), Seamless(vae, seamless):
            raw = vae.encoder(basecolor_alone(images).to(self.unet.device))
        return (raw - config["shift_factor"]) * config["scaling_factor"]

    def embed(self, caption: str) -> PromptEmbedding:
        return encode_prompts(self.pipeline.tokenizer, self.pipeline.text_encoder, [caption])

    def predict(
        self, unet: nn.Module, noisy: Tensor, timestep: Tensor, text: Sequence[Any], views: Sequence[View]
    ) -> Tensor:
        tokens, mask, pooled = stacked(text)
        wraps = [[float(wrap) for wrap in parse_axes(view.axes)] for view in views]
        told = torch.tensor([[texel_scale(view), *wrap] for view, wrap in zip(views, wraps, strict=True)])
        scale, wrap_x, wrap_y = told.to(noisy.device).unbind(1)
        condition = condition_vector(pooled.float(), scale, wrap_x, wrap_y, torch.full_like(scale, DOMAIN))
        options: dict[str, Any] = {"class_labels": condition, "encoder_attention_mask": mask, "return_dict": False}
        return unet(noisy, timestep, tokens, **options)[0].float()

    @torch.no_grad()
    def paint(self, prompt: str, size: tuple[int, int], seamless: SeamlessAxes, seed: int) -> Tensor:
        return paint_texture(self.pipeline, prompt, size=size, seamless=seamless, seed=seed)


def texel_scale(view: View) -> float:
    """`materials.conditioning`'s scale of a pattern that fills the image that the view is cut from."""
    scale = math.log2(min(view.resized) / BASE_TEXELS)
    return min(SCALE_RANGE[1], max(SCALE_RANGE[0], scale))
