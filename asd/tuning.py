"""Training a LoRA on latents of many sizes, with accelerate; it goes on where it was stopped."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from .canvas_file import replacing
from .errors import OutputError, ZelligeError
from .latent_set import Batches, Kind, LatentSet, Sample
from .lora import add_lora, check_rank, save_lora
from .noising import Noising
from .seamless import Seamless, parse_axes
from .tunable import Tunable
from .tuning_state import load_state, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator

Precision = Literal["no", "fp16", "bf16"]
STATE, LOSSES = "state.safetensors", "losses.jsonl"
LEVELS = tuple(k / 10 for k in range(1, 10))
"""Noise levels that a validation loss is the mean of."""
CLIP = 1.0
"""Largest norm of a gradient."""
REMEMBERED = 1024
"""Captions whose embeddings are kept."""


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """What decides a training run besides its model and its latents; `steps` alone may be raised later.

    Attributes:
        rank, alpha, convolutions: of `asd.lora.add_lora`.
        rate: AdamW's learning rate, reached after `warmup` steps and kept.
        steps: optimiser steps in all.
        batch: views of one kind in a batch, on each process; `accumulate` batches make a step.
        seed: of everything drawn.
        drop: share of captions replaced by none, for classifier-free guidance.
        precision: of the computation; the adapter itself is trained in float32.
        checkpointing: compute activations again in the backward pass, for less memory.
        save_every: steps between saved states.

    Raises:
        ZelligeError: a value out of range.
    """

    rank: int = 16
    alpha: float | None = None
    convolutions: bool = False
    rate: float = 1e-4
    warmup: int = 20
    steps: int = 1000
    batch: int = 4
    accumulate: int = 1
    seed: int = 0
    drop: float = 0.1
    precision: Precision = "no"
    checkpointing: bool = False
    save_every: int = 100

    def __post_init__(self) -> None:
        check_rank(self.rank, self.alpha)
        for name, low in (("warmup", 0), ("steps", 1), ("batch", 1), ("accumulate", 1), ("save_every", 1)):
            if getattr(self, name) < low:
                raise ZelligeError(f"Expected {name} of at least {low}, but got {getattr(self, name)}.")
        if not (math.isfinite(self.rate) and 0 < self.rate <= 1):
            raise ZelligeError(f"Expected a rate above 0, up to 1, but got {self.rate:g}.")
        if not 0 <= self.drop <= 1:
            raise ZelligeError(f"Expected drop from 0 to 1, but got {self.drop:g}.")
        if self.precision not in get_args(Precision):
            raise ZelligeError(f"Expected precision out of {', '.join(get_args(Precision))}, but got {self.precision}.")

    def told(self) -> dict[str, Any]:
        """What the result depends on, as JSON values."""
        free = ("steps", "save_every", "checkpointing")
        return {name: value for name, value in vars(self).items() if name not in free}


class Tuning:
    """One training run in a folder.

    Every number of a step is drawn from the seed and the step's own number, so that a run that was stopped, at any
    moment, goes on with the losses that it would have had.

    Args:
        model: what to train; its U-Net gets the adapter.
        latents: what to train on.
        options: how.
        out: an existing folder for the state, the losses of all steps as JSON lines, and the adapter.
        job: what decides the run, as text; a state of another job is an error.
        accelerator: of `accelerate`, with the options' precision and accumulation.
    """

    def __init__(
        self,
        model: Tunable,
        latents: LatentSet,
        options: TuningOptions,
        out: Path,
        job: str,
        accelerator: Accelerator,
    ) -> None:
        self.model = model
        self.latents = latents
        self.options = options
        self.out = out
        self.job = job
        self.accelerator = accelerator
        self.noising = Noising(model.scheduler)
        self.parameters = add_lora(
            model.unet, options.rank, options.alpha, convolutions=options.convolutions, seed=options.seed
        )
        if options.checkpointing:
            model.unet.enable_gradient_checkpointing()
            model.unet.train()
        optimiser = torch.optim.AdamW(self.parameters.values(), lr=options.rate, weight_decay=1e-2)
        self.unet, self.optimiser = accelerator.prepare(model.unet, optimiser)
        self.embed = lru_cache(REMEMBERED)(model.embed)
        counts = {kind: len(samples) for kind, (samples, _) in latents.groups.items()}
        self.batches = Batches(counts, options.batch * accelerator.num_processes, options.seed)
        self.step = load_state(out / STATE, job, self.parameters, self.optimiser.optimizer, accelerator.scaler)

    def run(self, told: Callable[[int, float], None] | None = None) -> None:
        """Train up to the options' steps; `told` is called with the step and its loss.

        Raises:
            OutputError: the folder cannot be written; ZelligeError where the loss is no number any more.
        """
        main = self.accelerator.is_main_process
        if main:
            self._trim_losses()
        while self.step < self.options.steps:
            began = time.monotonic()
            loss, kind = self._train_step()
            if not math.isfinite(loss):
                raise ZelligeError(f"Expected a finite loss, but step {self.step + 1} has {loss}; lower --rate helps.")
            self.step += 1
            if main:
                seconds = round(time.monotonic() - began, 4)
                self.log({"step": self.step, "loss": loss, "size": str(kind), "seconds": seconds})
                if told is not None:
                    told(self.step, loss)
                if self.step % self.options.save_every == 0 or self.step == self.options.steps:
                    self.save()
            self.accelerator.wait_for_everyone()

    def save(self) -> Path:
        """Write the state and the adapter; returns the adapter's file."""
        save_state(
            self.out / STATE, self.job, self.step, self.parameters, self.optimiser.optimizer, self.accelerator.scaler
        )
        kind = type(self.model.unet).__name__
        return save_lora(self.model.unet, self.out, {"trained_by": "zellige", "steps": str(self.step), "network": kind})

    def log(self, row: dict[str, Any]) -> None:
        """Append a line to the losses."""
        path = self.out / LOSSES
        try:
            with path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OutputError(f"Expected to write {path}, but the system refused: {error.strerror}.") from error

    @torch.no_grad()
    def validate(self, latents: LatentSet) -> dict[str, float]:
        """Mean loss by kind, and of all views ("all"), over `LEVELS`, with the same noise each time."""
        losses: dict[str, list[float]] = {}
        for kind in latents.kinds:
            samples, stored = latents.groups[kind]
            for place, sample in enumerate(samples):
                clean = stored[place].float().expand(len(LEVELS), -1, -1, -1)
                noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(place))
                many = len(LEVELS)
                loss = self._loss([sample] * many, clean, noise, torch.tensor(LEVELS), [sample.caption] * many, kind)
                losses.setdefault(str(kind), []).append(float(loss))
        means = {name: sum(values) / len(values) for name, values in losses.items()}
        every = [value for values in losses.values() for value in values]
        return {"all": sum(every) / len(every), **means}

    def _train_step(self) -> tuple[float, Kind]:
        options, losses = self.options, []
        rate = options.rate * min(1.0, (self.step + 1) / (options.warmup + 1))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for part in range(options.accumulate):
            number = self.step * options.accumulate + part
            kind, places = self.batches[number]
            rank = self.accelerator.process_index
            places = places[rank * options.batch : (rank + 1) * options.batch]
            with self.accelerator.accumulate(self.unet):
                loss = self._drawn_loss(kind, places, number)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(list(self.parameters.values()), CLIP)
                self.optimiser.step()
                self.optimiser.zero_grad()
            gathered: Any = self.accelerator.gather(loss.detach()[None])
            losses.append(float(gathered.mean()))
        return sum(losses) / len(losses), kind  # pyright: ignore[reportPossiblyUnboundVariable] - accumulate is at least 1

    def _drawn_loss(self, kind: Kind, places: list[int], number: int) -> Tensor:
        """Loss of a batch, whose every draw depends on the seed, its number and the process alone."""
        drawn = random.Random(f"{self.options.seed} {number} {self.accelerator.process_index}")
        generator = torch.Generator().manual_seed(drawn.getrandbits(63))
        samples, stored = self.latents.groups[kind]
        chosen = [samples[place] for place in places]
        clean = torch.stack([_rolled(stored[place].float(), kind, generator) for place in places])
        level = self.noising.draw(len(places), generator)
        noise = torch.randn(clean.shape, generator=generator)
        dropped = torch.rand(len(places), generator=generator) < self.options.drop
        captions = ["" if drop else sample.caption for drop, sample in zip(dropped.tolist(), chosen, strict=True)]
        return self._loss(chosen, clean, noise, level, captions, kind)

    def _loss(
        self, samples: list[Sample], clean: Tensor, noise: Tensor, level: Tensor, captions: list[str], kind: Kind
    ) -> Tensor:
        device = self.accelerator.device
        noised = self.noising.apply(clean.to(device), noise.to(device), level)
        text = [self.embed(caption) for caption in captions]
        with Seamless(self.model.unet, kind.axes):
            made = self.model.predict(
                self.unet, noised.sample, noised.timestep, text, [sample.view for sample in samples]
            )
        return (made.float() - noised.target).square().mean()

    def _trim_losses(self) -> None:
        """Drop the lines of steps after the saved one: they will be made again."""
        path = self.out / LOSSES
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut short
                if json.loads(line)["step"] <= self.step:
                    kept.append(line)
        with replacing(path) as beside:
            beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _rolled(latent: Tensor, kind: Kind, generator: torch.Generator) -> Tensor:
    """A latent (C, h, w) rolled by a random number of cells on the axes that wrap: another view of the same torus."""
    wrap_x, wrap_y = parse_axes(kind.axes)
    shift = [
        int(torch.randint(side, (1,), generator=generator)) if wraps else 0
        for side, wraps in zip(latent.shape[-2:], (wrap_y, wrap_x), strict=True)
    ]
    return latent.roll(shift, (-2, -1))
