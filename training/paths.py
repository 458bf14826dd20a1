"""How a U-Net gets from noise to latents of captions: by the pipeline's solver and guidance, or in few steps."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from materials.defaults import GUIDANCE
from materials.few_steps import LEVELS
from materials.pipeline import GUIDED
from materials.variation import begin
from training.bank import Bank
from training.diffusion import Text, velocity


@torch.no_grad()
def path(
    unet: nn.Module, x: Tensor, told: Bank, empty: Text, scheduler: Any, steps: int, guidance: float = GUIDANCE
) -> list[Tensor]:
    """Where `steps` steps of the scheduler, guided where the pipeline guides, lead the noise x: steps + 1 points."""
    n, points = len(x), [x]
    everything = torch.ones(n, dtype=torch.bool, device=x.device)
    with warnings.catch_warnings():
        # diffusers' DPMSolverMultistepScheduler hands numpy 2 a tensor.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        begin(scheduler, steps, 1.0, x.device)
    for t in scheduler.timesteps:
        level = float(t) / 1000
        now = x.new_full((n,), level)
        v = velocity(unet, x, now, told, empty)
        if GUIDED[0] <= level <= GUIDED[1]:
            # two calls of one size: there is one shape to compile
            without = velocity(unet, x, now, told, empty, everything)
            v = without + guidance * (v - without)
        x = scheduler.step(v, t, x, return_dict=False)[0]
        points.append(x)
    return points


@torch.no_grad()
def few_steps(student: nn.Module, x: Tensor, told: Bank, empty: Text) -> Tensor:
    """Where a student leads the noise x: one step from each of LEVELS to the next, without guidance."""
    for now, then in pairwise(LEVELS):
        x = x + (then - now) * velocity(student, x, x.new_full((len(x),), now), told, empty)
    return x
