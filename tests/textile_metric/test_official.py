"""Against the authors' own network, from their wheel, under the same random weights."""

from __future__ import annotations

import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from textile_metric import load_official
from textile_metric.official import LAMBDA, TENSORS, OfficialTexTile
from textile_metric.torchvision_guard import guard_torchvision


@pytest.fixture(scope="module")
def upstream() -> nn.Module:
    """The wheel's network without the wheel's `__init__`, which wants CUDA, OpenCV and kornia."""
    guard_torchvision()
    package = types.ModuleType("textile")
    package.__path__ = [str(metadata.distribution("textile-metric").locate_file("textile"))]
    sys.modules["textile"] = package
    try:
        from textile.utils.create_model import CreateModel  # pyright: ignore[reportMissingImports]  # the stand-in above

        return CreateModel().eval()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "textile"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def weights(upstream: nn.Module) -> dict[str, torch.Tensor]:
    """Random ones of a size that leaves every block its part in the result."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in upstream.state_dict().items():
        random = torch.randn(value.shape, generator=generator)
        fan = value[0].numel() if value.dim() > 1 else 1
        state[name] = random / fan**0.5 if value.dim() > 1 else 0.3 * random + (1.0 if name.endswith("weight") else 0.0)
        if name.endswith(("layer_scale", "gamma", ".g")):
            state[name] = 0.3 + 0.1 * random
    return state


@pytest.fixture(scope="module")
def file(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "model.safetensors"
    save_file(weights, path)
    return path


def test_forward_equals_the_authors_network(
    upstream: nn.Module, weights: dict[str, torch.Tensor], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.load_state_dict(weights)
    ours = load_official(file)
    image = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tiled = nn.functional.interpolate(image.repeat(1, 1, 2, 2), (512, 512), mode="bilinear", antialias=True)
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
        expected = upstream((tiled - mean) / std)[:, 0]
        found = ours.logits(image)
    # the score is of these logits: at 512x512 the network is not run a third time
    monkeypatch.setattr(ours, "logits", lambda given: found if given is image else pytest.fail("another image"))
    assert float(expected.abs()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(image), torch.sigmoid(LAMBDA * expected), rtol=0, atol=1e-5)


def test_features_tell_images_apart_as_the_authors_do(
    upstream: nn.Module, weights: dict[str, torch.Tensor], file: Path
) -> None:
    upstream.load_state_dict(weights)
    ours = load_official(file)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = upstream.features(images), ours.features(images)  # pyright: ignore[reportCallIssue]
    assert float((expected[0] - expected[1]).abs().mean()) > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_names_and_size_are_the_published_ones(weights: dict[str, torch.Tensor]) -> None:
    with torch.device("meta"):
        model = OfficialTexTile()
    assert set(model.state_dict()) == set(weights) and len(weights) == TENSORS
    assert sum(p.numel() for p in model.parameters()) == 108_541_571


def test_it_stays_in_eval_mode(file: Path) -> None:
    model = load_official(file)
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_other_files_are_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no weights")
    for path in (tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(ValueError, match="Expected TexTile's weights as safetensors, but got"):
            load_official(path)
    small = {name: value for name, value in weights.items() if not name.startswith("features.6")}
    save_file(small, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"354 tensors, but .* has 111; 243 differ, such as features\.6\.0"):
        load_official(tmp_path / "small.safetensors")
