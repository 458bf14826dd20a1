"""Progress and callbacks of a call, through all of its passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .sampling import StepDone
from .stable_diffusion import StableDiffusion
from .two_stage import StopRunError, steps_run

if TYPE_CHECKING:
    from .pipeline import AnySizePipeline

CALLBACK_INPUTS = ("latents", "prompt_embeds", "negative_prompt_embeds")


class Run:
    """Progress and callbacks through all passes of a call."""

    def __init__(self, pipeline: AnySizePipeline, model: StableDiffusion, callback: Any, names: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.model = model
        self.callback = callback
        self.names = names
        self.done = 0
        self.bar: Any = None

    def expect(self, strengths: list[float], steps: int) -> None:
        counts = [len(steps_run(self.model.scheduler, steps, strength)) for strength in strengths]
        self.bar = self.pipeline.base.progress_bar(total=sum(counts))

    def step_done(self, done: StepDone) -> Tensor | None:
        step, self.done = self.done, self.done + 1
        if self.bar is not None:
            self.bar.update()
        if self.callback is None:
            return None
        prompt = self.model.prompt
        values = {
            "latents": done.latents,
            "prompt_embeds": None if prompt is None else prompt.tokens,
            "negative_prompt_embeds": None if prompt is None else prompt.negative,
        }
        answer = self.callback(self.pipeline, step, done.timestep, {name: values[name] for name in self.names}) or {}
        if prompt is not None:
            self.model.prompt = prompt._replace(
                tokens=answer.get("prompt_embeds", prompt.tokens),
                negative=answer.get("negative_prompt_embeds", prompt.negative),
            )
        if self.pipeline.interrupt:
            raise StopRunError
        return answer.get("latents")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
