"""Noise for training, and what a network is to predict of it, as its checkpoint's scheduler says."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clean import FLOW, KINDS
from .errors import CheckpointError


class Noised(NamedTuple):
    """sample and target (N, C, h, w); timestep (N,) as the network takes it."""

    sample: Tensor
    target: Tensor
    timestep: Tensor


class Noising:
    """Noise levels and targets of a diffusers scheduler's training.

    By its config's `prediction_type`: "epsilon" (Ho et al. 2020), "v_prediction" (Salimans & Ho 2022) or "sample" on
    its schedule of betas, or flow matching (Lipman et al. 2023), also of flow-matching schedulers without that key.

    Args:
        scheduler: any of diffusers' that has betas, or a flow-matching one.

    Raises:
        CheckpointError: another scheduler.
    """

    def __init__(self, scheduler: Any) -> None:
        config = scheduler.config
        name = type(scheduler).__name__
        self.kind: str = config.get("prediction_type", FLOW if "FlowMatch" in name else "none")
        self.steps = int(config.get("num_train_timesteps", 1000))
        if self.kind not in KINDS or (self.kind != FLOW and "beta_schedule" not in config):
            raise CheckpointError(
                f"Expected a scheduler with betas or of flow matching that predicts {', '.join(KINDS)}, "
                f"but got {name} and {self.kind}."
            )
        self._kept: Tensor | None = None
        if self.kind != FLOW:
            from diffusers import DDPMScheduler

            names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
            known = {key: config[key] for key in (*names, "rescale_betas_zero_snr") if key in config}
            self._kept = DDPMScheduler(**known).alphas_cumprod

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) levels in [0, 1): uniform, or for flow matching logit-normal (Esser et al. 2024)."""
        if self.kind == FLOW:
            return torch.sigmoid(torch.randn(count, generator=generator))
        return torch.rand(count, generator=generator)

    def apply(self, clean: Tensor, noise: Tensor, level: Tensor) -> Noised:
        """Mix latents (N, C, h, w) with noise at `level` (N,): from 0, clean, to 1, the schedule's last."""
        if self._kept is None:
            share = level.to(clean).view(-1, 1, 1, 1)
            return Noised((1 - share) * clean + share * noise, noise - clean, level.to(clean.device) * self.steps)
        timestep = (level * self.steps).long().clamp(0, self.steps - 1)
        kept = self._kept[timestep].to(clean).view(-1, 1, 1, 1)
        signal, share = kept.sqrt(), (1 - kept).sqrt()
        target = noise if self.kind == "epsilon" else clean
        if self.kind == "v_prediction":
            target = signal * noise - share * clean
        return Noised(signal * clean + share * noise, target, timestep.to(clean.device))
