"""The state of a run after a step, in one file that is there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .canvas_file import replacing
from .errors import CheckpointError

_PLAIN = (bool, int, float, str, type(None))


class StepCheckpoint:
    """Saves a canvas, what the scheduler remembers and the state of a generator; gives them back.

    Args:
        path: the file; its folder is there.
        job: what decides the result, as text; a file of another job is an error.
    """

    def __init__(self, path: Path, job: str) -> None:
        self.path = path
        self.job = job

    def save(self, step: int, latents: Tensor, scheduler: Any, generator: torch.Generator | None) -> None:
        """After `step`, counted from 0. Raises OutputError where the disk refuses."""
        tensors: dict[str, Tensor] = {"latents": latents}
        state = {name: _flat(name, value, tensors) for name, value in vars(scheduler).items() if _savable(value)}
        if generator is not None:
            tensors["generator"] = generator.get_state()
        told = json.dumps({"job": self.job, "step": step, "scheduler": state})
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with replacing(self.path) as beside:
            save_file(whole, beside, {"state": told})

    def load(self, scheduler: Any, generator: torch.Generator | None) -> tuple[int, Tensor] | None:
        """The step that was done last and the canvas after it, or None where nothing was saved.

        The scheduler, its time steps set as before, and the generator are brought to where they were.

        Raises:
            CheckpointError: the file is damaged, or of another job.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                told = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if told["job"] != self.job:
                raise CheckpointError(f"Expected a checkpoint of this job in {self.path}, but it is of another.")
            for name, value in told["scheduler"].items():
                setattr(scheduler, name, _deep(value, tensors))
            if generator is not None:
                generator.set_state(tensors["generator"])
            return int(told["step"]), tensors["latents"]
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"Expected a checkpoint in {self.path}, but it is damaged ({error}); delete it to start again."
            ) from error


def _savable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_savable, value))
    return isinstance(value, (*_PLAIN, Tensor, np.ndarray, np.generic))


def _flat(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a value; tensors and arrays go into `tensors`."""
    if isinstance(value, list | tuple):
        return {"list": [_flat(f"{name}.{i}", each, tensors) for i, each in enumerate(value)]}
    if isinstance(value, np.generic):
        return {"plain": value.item()}
    if isinstance(value, Tensor | np.ndarray):
        tensors[f"scheduler.{name}"] = value if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        device = str(value.device) if isinstance(value, Tensor) else None
        return {"tensor": f"scheduler.{name}", "device": device}
    return {"plain": value}


def _deep(value: Any, tensors: dict[str, Tensor]) -> Any:
    if "list" in value:
        return [_deep(each, tensors) for each in value["list"]]
    if "tensor" in value:
        tensor = tensors[value["tensor"]]
        return tensor.numpy() if value["device"] is None else tensor.to(value["device"])
    return value["plain"]
