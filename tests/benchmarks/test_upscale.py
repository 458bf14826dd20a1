"""The reader of the rival's weights against the definitions of its layers, and the cost of a size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asd.texture_upscaler import TextureUpscaler
from benchmarks.esrgan_thick import LayersModel
from benchmarks.upscale import work


def package(folder: Path, shuffle: str = "PixelShuffle4x") -> dict[str, np.ndarray]:
    """A model of the rival's kinds of layers, its weights in two files; returns them."""
    rng = np.random.default_rng(0)
    shapes = {"a/kernel": (3, 3, 3, 4), "a/bias": (4,), "b/kernel": (3, 3, 8, 48), "b/bias": (48,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    layers = [
        ("InputLayer", "x", []), ("Conv2D", "a", ["x"]), ("Activation", "r", ["a"]), ("MultiplyBeta", "m", ["r"]),
        ("Add", "s", ["a", "m"]), ("Concatenate", "c", ["s", "r"]), ("Conv2D", "b", ["c"]), (shuffle, "p", ["b"]),
    ]  # fmt: skip
    told = [
        {"class_name": kind, "name": name, "config": {}, "inbound_nodes": [[[i, 0, 0, {}] for i in ins]][: len(ins)]}
        for kind, name, ins in layers
    ]
    data = b"".join(value.tobytes() for value in weights.values())
    (folder / "one.bin").write_bytes(data[:100])
    (folder / "two.bin").write_bytes(data[100:])
    entries = [{"name": name, "shape": list(value.shape), "dtype": "float32"} for name, value in weights.items()]
    model = {
        "modelTopology": {"model_config": {"config": {"layers": told}}},
        "weightsManifest": [{"paths": ["one.bin", "two.bin"], "weights": entries}],
    }
    (folder / "model.json").write_text(json.dumps(model))
    return weights


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """TensorFlow's: (H, W, C) with zeros around, a kernel (3, 3, in, out)."""
    height, width = x.shape[:2]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    taps = [padded[i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)]
    return np.sum(taps, 0) + bias


def test_layers_do_what_tensorflow_says(tmp_path: Path) -> None:
    weights = package(tmp_path)
    x = np.random.default_rng(1).random((5, 6, 3), np.float32)
    a = convolved(x, weights["a/kernel"], weights["a/bias"])
    relu = np.maximum(a, 0)
    b = convolved(np.concatenate([a + 0.2 * relu, relu], -1), weights["b/kernel"], weights["b/bias"])
    # depth_to_space: channels are (row, column, colour)
    wanted = b.reshape(5, 6, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(20, 24, 3)
    made = LayersModel(tmp_path)(torch.from_numpy(x).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(made - wanted).max() < 1e-4


def test_other_layers_are_refused(tmp_path: Path) -> None:
    package(tmp_path, "LSTM")
    with pytest.raises(ValueError, match="LSTM"):
        LayersModel(tmp_path)(torch.zeros(1, 3, 4, 4))


def test_cost(tmp_path: Path) -> None:
    TextureUpscaler(channels=8, blocks=2, attend_after=1, heads=2, detail=4).half().save_pretrained(tmp_path)
    threads = torch.get_num_threads()
    told = work(512, threads, tmp_path)
    assert told["seconds"] > 0 and 0.05 < told["peak_gb"] < 30
