"""The clean latents that a network's prediction stands for, with any diffusers scheduler, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from asd.errors import ZelligeError

FLOW = "flow_prediction"
KINDS = ("epsilon", "v_prediction", "sample", FLOW)


class CleanHook(Protocol):
    """Called at each step with the clean latents (N, C, h, w) that a model predicts; returns those to go on to.

    `level` is the share of noise in the sample, from 1 down, and `following` the next step's: 0 at the last one.
    """

    def __call__(self, clean: Tensor, level: float, following: float, /) -> Tensor: ...


@dataclass(frozen=True)
class Mix:
    """At one step the network's input is `signal` x clean latents + `noise` x noise, and it predicts `kind`."""

    signal: float
    noise: float
    kind: str

    @property
    def level(self) -> float:
        """Share of the noise, 0 to 1: flow matching's own scale, to which the others are brought."""
        return self.noise / (self.signal + self.noise)

    def clean(self, seen: Tensor, prediction: Tensor) -> Tensor:
        """What the prediction for the input `seen` says of the clean latents."""
        if self.kind == "epsilon":
            return (seen - self.noise * prediction) / self.signal
        if self.kind == "v_prediction":
            return self.signal * seen - self.noise * prediction
        return seen - self.noise * prediction if self.kind == FLOW else prediction

    def prediction(self, seen: Tensor, clean: Tensor) -> Tensor:
        """The prediction that says so: the inverse of `clean`."""
        if self.kind == "epsilon":
            return (seen - self.signal * clean) / self.noise
        if self.kind == "v_prediction":
            return (self.signal * seen - clean) / self.noise
        return (seen - clean) / self.noise if self.kind == FLOW else clean


def mix_at(scheduler: Any, timestep: Any) -> Mix:
    """The mix at a time step that `set_timesteps` has set.

    Raises ZelligeError for a scheduler that takes a step in parts, or predicts something else.
    """
    kind = scheduler.config.get("prediction_type", FLOW)
    if kind not in KINDS or getattr(scheduler, "order", 1) != 1:
        raise ZelligeError(
            f"Expected a scheduler of single steps that predict {', '.join(KINDS)} to guide, "
            f"but got {type(scheduler).__name__} and {kind}."
        )
    if hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[_index(scheduler, timestep)])
        if kind == FLOW:
            return Mix(1 - sigma, sigma, kind)
        # as networks see it, whether or not the scheduler's own sample grows with the noise
        signal = 1 / math.sqrt(1 + sigma**2)
        return Mix(signal, sigma * signal, kind)
    kept = float(scheduler.alphas_cumprod[int(timestep)])
    return Mix(math.sqrt(kept), math.sqrt(1 - kept), kind)


def steered(scheduler: Any, prediction: Tensor, seen: Tensor, timestep: Any, hook: CleanHook) -> Tensor:
    """The prediction that leads to what `hook` makes of the clean latents; `seen` is the network's input."""
    mix = mix_at(scheduler, timestep)
    if mix.noise == 0:
        return prediction
    at = _index(scheduler, timestep) + 1
    last = at >= len(scheduler.timesteps)
    following = 0.0 if last else mix_at(scheduler, scheduler.timesteps[at]).level
    clean = mix.clean(seen.float(), prediction.float())
    return mix.prediction(seen.float(), hook(clean, mix.level, following)).to(prediction.dtype)


def _index(scheduler: Any, timestep: Any) -> int:
    found = (scheduler.timesteps == timestep).nonzero()
    if len(found) == 0:
        raise ZelligeError(f"Expected one of the scheduler's time steps, but got {float(timestep):g}.")
    return int(found[0])
