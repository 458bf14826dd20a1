"""The published TexTile network (Rodriguez-Pardo et al., CVPR 2024), built here so that its checkpoint runs anywhere.

A ConvNeXt-Base (Liu et al., CVPR 2022) whose last two stages are each preceded by a residual linear-attention block
(Shen et al., 2021, "Efficient Attention"). The names of the parameters are those of the published file.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textile_metric.images import ImageLike, as_images

TENSORS = 354
RESOLUTION = 512
LAMBDA = 0.25
"""Slope of the published logistic: score = 1 / (1 + exp(-LAMBDA * logit))."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _AttentionNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * self.g + self.b


class _Attention(nn.Module):
    """x + gamma * norm(project(attend(x))): linear in the number of positions."""

    def __init__(self, channels: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.gamma = nn.Parameter(torch.tensor(0.01))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * width, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(heads * width, channels, 1), _AttentionNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        q, k, v = self.to_qkv(x).view(n, 3, self.heads, self.width, height * width).unbind(1)
        context = k.softmax(-1) @ v.transpose(-1, -2)
        out = context.transpose(-1, -2) @ (q.softmax(-2) * self.width**-0.5)
        return x + self.gamma * self.to_out(out.reshape(n, -1, height, width))


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        # the places 1 and 6 are the published permutations, which hold no parameters
        self.block = nn.ModuleDict(
            {
                "0": nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
                "2": nn.LayerNorm(channels, eps=1e-6),
                "3": nn.Linear(channels, 4 * channels),
                "5": nn.Linear(4 * channels, channels),
            }
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.block["2"](self.block["0"](x).permute(0, 2, 3, 1))
        y = self.block["5"](F.gelu(self.block["3"](y)))
        return x + self.layer_scale * y.permute(0, 3, 1, 2)


def _stage(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*[_Block(channels) for _ in range(depth)])


def _down(channels: int) -> nn.Sequential:
    return nn.Sequential(_ChannelNorm(channels, eps=1e-6), nn.Conv2d(channels, 2 * channels, 2, stride=2))


class OfficialTexTile(nn.Module):
    """Called like `tileability`: images to scores (N,) in (0, 1), higher tiles better. Always in eval mode."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 128, 4, stride=4), _ChannelNorm(128, eps=1e-6)),
            _stage(128, 3),
            _down(128),
            _stage(256, 3),
            _down(256),
            _Attention(512, 16, 128),
            _stage(512, 27),
            _down(512),
            _Attention(1024, 16, 256),
            _stage(1024, 3),
        )
        self.classifier = nn.Sequential(nn.Flatten(1), nn.Linear(1024, 1))
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> OfficialTexTile:
        """Stays in eval mode: a score must not depend on what its owner does."""
        super().train(False)
        return self

    def logits(self, img: ImageLike) -> Tensor:
        """(N,) unbounded. In this order: 2 x 2 repeats, resized to 512 x 512, normalised (ImageNet)."""
        images = as_images(img).to(self.mean)
        images = images.repeat(1, 1, 2, 2)
        images = F.interpolate(images, (RESOLUTION, RESOLUTION), mode="bilinear", antialias=True)
        features = self.features((images - self.mean) / self.std)
        return self.classifier(features.mean((2, 3)))[:, 0]

    def forward(self, img: ImageLike) -> Tensor:
        return torch.sigmoid(LAMBDA * self.logits(img))


def load_official(path: str | PathLike[str]) -> OfficialTexTile:
    """The published network with the weights of `path`, the file `model.safetensors` of its authors (434 MB).

    Raises ValueError for a file that is no safetensors or whose tensors are not the published ones.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(Path(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"Expected TexTile's weights as safetensors, but got {path} ({error}).") from error
    model = OfficialTexTile()
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != wanted:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(
            f"Expected TexTile's {TENSORS} tensors, but {path} has {len(found)}; {len(odd)} differ, such as {odd[0]}."
        )
    model.load_state_dict(state)
    return model
