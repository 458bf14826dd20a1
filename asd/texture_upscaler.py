"""The shipped upscaler's network: four times larger in one step, the same for a tile as for the whole picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import ConfigMixin, ModelMixin  # noqa: E402 - the guard must come first
from diffusers.configuration_utils import register_to_config  # noqa: E402 - as above

from .errors import CheckpointError, ZelligeError  # noqa: E402 - as above
from .seamless import SeamlessAxes, parse_axes  # noqa: E402 - as above

SCALE = 4
NOISE = 1
"""Channels of noise beside red, green and blue, for the detail that the small picture doesn't decide."""


def extended(x: Tensor, margin: int, *, wrap_x: bool, wrap_y: bool) -> Tensor:
    """(N, C, H, W) with `margin` more cells on every side: those of the other side, or the border cell again."""
    for axis, wrap in ((-2, wrap_y), (-1, wrap_x)):
        x = x.index_select(axis, indices(-margin, x.shape[axis] + margin, x.shape[axis], wrap).to(x.device))
    return x


def indices(start: int, stop: int, side: int, wrap: bool) -> Tensor:
    """Which of `side` cells are meant by `start` to `stop`, of which some may lie beyond the border.

    >>> indices(-2, 3, 8, True).tolist(), indices(-2, 3, 8, False).tolist()
    ([6, 7, 0, 1, 2], [0, 0, 0, 1, 2])
    """
    index = torch.arange(start, stop)
    return index % side if wrap else index.clamp(0, side - 1)


def inside(x: Tensor, margin: int) -> Tensor:
    """Without `margin` cells on every side."""
    return x[..., margin:-margin, margin:-margin] if margin else x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, without a norm (Lim et al. 2017, EDSR)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3)
        self.second = nn.Conv2d(channels, channels, 3)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor, padding: int) -> Tensor:
        """`padding` 0 takes two cells off every side; 1 keeps the size and puts zeros around."""
        y = F.silu(F.conv2d(x, self.first.weight, self.first.bias, padding=padding))
        y = F.conv2d(y, self.second.weight, self.second.bias, padding=padding)
        return y + inside(x, 2 - 2 * padding)


class GlobalAttention(nn.Module):
    """Every cell reads from the whole picture through linear attention (Katharopoulos et al. 2020), elu + 1 features.

    What a picture has to tell is one sum over its cells, so that tiles give theirs and then share the total. Nothing is
    pooled and there are no positions: rolling the cells changes no sum.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(channels, channels, 1)
        self.told = nn.Conv2d(channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.heads, -1)).flatten(3)

    def sums(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, heads, d + 1, d), d = C / heads: sums over the cells of key times (value, 1), float32."""
        keys, values = (self._split(part) for part in self.told(x).chunk(2, 1))
        with torch.autocast(x.device.type, enabled=False):
            keys, values = F.elu(keys.float()) + 1, values.float()
            values = torch.cat([values, values.new_ones(1, 1, 1, 1).expand(*values.shape[:2], 1, values.shape[3])], 2)
            return values @ keys.transpose(2, 3)

    def forward(self, x: Tensor, sums: Tensor) -> Tensor:
        queries = self._split(self.query(x))
        with torch.autocast(x.device.type, enabled=False):
            made = (sums / sums[:, :, -1:].sum(3, keepdim=True)).float() @ (F.elu(queries.float()) + 1)
            read = made[:, :, :-1] / made[:, :, -1:]
        return x + self.out(read.flatten(1, 2).unflatten(2, x.shape[2:]).to(x.dtype))


class TextureUpscaler(ModelMixin, ConfigMixin):
    """(N, 3, H, W) in [0, 1] and noise to (N, 3, 4 H, 4 W): a bicubic and what residual blocks add to it.

    Convolutions pad nothing: a tile is given with `reach` cells around it, and is then what the whole picture is there.
    The border of a picture is the only place where something is made up (`extended`).

    Args:
        channels: of the blocks.
        blocks: how many.
        attend_after: blocks before the global attention, which a first pass over all tiles has to run.
        heads: of that attention.
        detail: channels at the full size.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, channels: int = 96, blocks: int = 16, attend_after: int = 3, heads: int = 4, detail: int = 16
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(3 + NOISE, channels, 3)
        self.body = nn.ModuleList(ResidualBlock(channels) for _ in range(blocks))
        self.attention = GlobalAttention(channels, heads)
        self.spread = nn.Conv2d(channels, detail * SCALE**2, 3)
        self.refine = nn.Conv2d(detail, detail, 3)
        self.last = nn.Conv2d(detail, 3, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # pyright: ignore[reportArgumentType] - it has a bias
        self.attend_after = attend_after

    @property
    def reach(self) -> int:
        """Cells around a tile that its result depends on."""
        return 2 * len(self.body) + 3

    @property
    def early_reach(self) -> int:
        """Cells around a tile that its part of the attention's sums depends on."""
        return 2 * self.attend_after + 1

    def _early(self, cells: Tensor, padding: int) -> Tensor:
        scaled = torch.cat([cells[:, :3] * 2 - 1, cells[:, 3:]], 1)
        x = F.conv2d(scaled, self.head.weight, self.head.bias, padding=padding)
        for block in self.body[: self.attend_after]:
            x = block(x, padding)
        return x

    def sums(self, cells: Tensor) -> Tensor:
        """What a tile tells the others: (N, 4, h + 2 m, w + 2 m) pixels and noise, m = `early_reach`; see there."""
        return self.attention.sums(self._early(cells, 0))

    def paint(self, cells: Tensor, sums: Tensor) -> Tensor:
        """A tile (N, 4, h + 2 m, w + 2 m), m = `reach`, and the sums of all tiles to (N, 3, 4 h, 4 w), not clipped."""
        return self._late(self._early(cells, 0), sums, cells, 0, self.reach)

    def _late(self, x: Tensor, sums: Tensor, cells: Tensor, padding: int, margin: int) -> Tensor:
        x = self.attention(x, sums)
        for block in self.body[self.attend_after :]:
            x = block(x, padding)
        if padding:
            # one cell around what is wanted, for the convolutions at the full size
            x = inside(x, margin - 2)
        x = F.conv2d(x, self.spread.weight, self.spread.bias)
        x = F.silu(F.pixel_shuffle(x, SCALE))
        x = F.silu(F.conv2d(x, self.refine.weight, self.refine.bias))
        x = inside(F.conv2d(x, self.last.weight, self.last.bias), 2)
        return inside(enlarged(inside(cells[:, :3], margin - 3)), 3 * SCALE) + x

    def train_forward(self, cells: Tensor, margin: int) -> Tensor:
        """As `forward` of cells with `margin` >= 3 more around them, at one size: convolutions put zeros around.

        Where `margin` is less than `reach` that differs a little near the border, which trains as well and takes less
        than half the time.
        """
        x = self._early(cells, 1)
        return self._late(x, self.attention.sums(inside(x, margin)), cells, 1, margin)

    def forward(self, pixels: Tensor, noise: Tensor, seamless: SeamlessAxes = "none") -> Tensor:
        """The whole picture at once.

        Args:
            pixels: (N, 3, H, W) in [0, 1], sRGB.
            noise: (N, 1, H, W), standard normal.
            seamless: axes on which the picture tiles; rolling it there rolls the result, to the last digits.

        Returns:
            (N, 3, 4 H, 4 W), about [0, 1], not clipped.

        Raises:
            ZelligeError: other shapes, or axes that there are not.
        """
        wrap_x, wrap_y = parse_axes(seamless)
        wanted = (pixels.shape[0], NOISE, *pixels.shape[2:])
        if pixels.ndim != 4 or pixels.shape[1] != 3 or tuple(noise.shape) != wanted:
            raise ZelligeError(
                f"Expected pixels (N, 3, H, W) and noise (N, {NOISE}, H, W), "
                f"but got {tuple(pixels.shape)} and {tuple(noise.shape)}."
            )
        cells = torch.cat([pixels, noise], 1)
        early = extended(cells, self.early_reach, wrap_x=wrap_x, wrap_y=wrap_y)
        return self.paint(extended(cells, self.reach, wrap_x=wrap_x, wrap_y=wrap_y), self.sums(early))


def enlarged(x: Tensor) -> Tensor:
    """Four times larger by the cubic of `asd.resample` (Keys 1981, a = -1/2); the border is repeated."""
    return F.interpolate(x.float(), scale_factor=SCALE, mode="bicubic", antialias=True)


def load_file(path: str | Path) -> TextureUpscaler:
    """The network of one safetensors file of `training.upscaler`, float32 on the CPU.

    Raises:
        CheckpointError: the file is not one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            config: dict[str, Any] = json.loads((file.metadata() or {})["config"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
        made = TextureUpscaler(**config)
        made.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"Expected an upscaler in {path}, but it does not load: {reason}.") from error
    return made.eval()
