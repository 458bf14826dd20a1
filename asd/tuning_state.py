"""The state of a training run after a step, in one safetensors file that is there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .canvas_file import replacing
from .errors import CheckpointError


def save_state(
    path: Path,
    job: str,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    scaler: Any = None,
) -> None:
    """Write parameters, the optimiser's moments and a loss scaler's numbers after `step` steps. Raises OutputError.

    `job` says what decides the run; the optimiser's parameters are those of `parameters`.
    """
    tensors = {f"parameter/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser/{key}/{name}"] = torch.as_tensor(value)
    numbers = {} if scaler is None else scaler.state_dict()
    whole = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as beside:
        # not save_file, whose errors of a full disk are no OSError
        beside.write_bytes(save(whole, {"state": json.dumps({"job": job, "step": step, "scaler": numbers})}))


def load_state(
    path: Path,
    job: str,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    scaler: Any = None,
) -> int:
    """Bring all of it to where `save_state` left it; the steps done, 0 where nothing was saved.

    Raises:
        CheckpointError: the file is damaged, or of another job.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})["state"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if told["job"] != job:
            raise CheckpointError(f"Expected the state of this training in {path}, but it is of another.")
        kept: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
        for name, tensor in tensors.items():
            if name.startswith("optimiser/"):
                _, key, parameter = name.split("/", 2)
                kept[parameter][key] = tensor
        for name, parameter in parameters.items():
            parameter.data.copy_(tensors[f"parameter/{name}"])
            state = {key: value if key == "step" else value.to(parameter.device) for key, value in kept[name].items()}
            optimiser.state[parameter] = state
        if scaler is not None:
            scaler.load_state_dict(told["scaler"])
        return int(told["step"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"Expected the state of a training in {path}, but it is damaged ({error}); delete it to start again."
        ) from error
