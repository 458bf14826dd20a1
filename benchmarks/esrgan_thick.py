"""ESRGAN-thick of UpscalerJS, read from its npm package (`npm pack @upscalerjs/esrgan-thick`) and run by torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class LayersModel:
    """A TensorFlow.js layers model of the few kinds of layers that ESRGAN has; pictures (N, 3, H, W) in [0, 1].

    Args:
        folder: of model.json and its weights, such as `package/models/x4`.

    Raises:
        ValueError: a layer of another kind.
        OSError: the files cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.layers: list[dict[str, Any]] = told["modelTopology"]["model_config"]["config"]["layers"]
        self.weights = _weights(folder, told["weightsManifest"])

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        made: dict[str, Tensor] = {}
        left = {name: 0 for layer in self.layers for name in _inputs(layer)}
        for layer in self.layers:
            for name in _inputs(layer):
                left[name] += 1
        y = x
        for layer in self.layers:
            given = [made[name] for name in _inputs(layer)]
            y = made[layer["name"]] = self._run(layer, given) if given else x
            for name in _inputs(layer):
                left[name] -= 1
                if not left[name]:
                    del made[name]
        return y

    def _run(self, layer: dict[str, Any], given: list[Tensor]) -> Tensor:
        name, config = layer["name"], layer["config"]

        def convolved() -> Tensor:
            return F.conv2d(given[0], self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"], padding=1)

        kinds: dict[str, Callable[[], Tensor]] = {
            "Conv2D": convolved,
            "Activation": lambda: given[0].relu(),
            "Concatenate": lambda: torch.cat(given, 1),
            "Add": lambda: torch.stack(given).sum(0),
            "MultiplyBeta": lambda: given[0] * 0.2,
            "PixelShuffle4x": lambda: _depth_to_space(given[0], 4),
        }
        plain = config.get("padding", "same") == "same" and config.get("activation", "linear") in ("linear", "relu")
        if layer["class_name"] not in kinds or not plain or config.get("kernel_size", [3, 3]) != [3, 3]:
            raise ValueError(f"Expected a layer of ESRGAN, but got {layer['class_name']} {config}")
        return kinds[layer["class_name"]]()


def _inputs(layer: dict[str, Any]) -> list[str]:
    return [node[0] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []


def _depth_to_space(x: Tensor, scale: int) -> Tensor:
    """TensorFlow's order of channels, place before colour, where torch has colour before place."""
    return F.pixel_shuffle(x.unflatten(1, (scale**2, -1)).transpose(1, 2).flatten(1, 2), scale)


def _weights(folder: Path, manifest: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Convolutions' kernels as torch has them, (out, in, height, width), and biases."""
    made = {}
    for group in manifest:
        data = np.frombuffer(b"".join((folder / path).read_bytes() for path in group["paths"]), np.float32)
        at = 0
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            value = torch.from_numpy(data[at : at + count].reshape(entry["shape"]).copy())
            made[entry["name"]] = value.permute(3, 2, 0, 1).contiguous() if value.ndim == 4 else value
            at += count
    return made
