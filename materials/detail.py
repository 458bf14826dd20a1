"""The fine detail that decoding fades, drawn again by a small network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd.seamless import Seamless, SeamlessAxes
from materials.grain import STRENGTH, grain_of
from materials.grain import add_detail as add_statistical
from materials.sharpen import sharpen
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import ConfigMixin, ModelMixin  # noqa: E402 - the guard must come first
from diffusers.configuration_utils import register_to_config  # noqa: E402 - as above

SALT = 0x2545F4914F6CDD1D
MULTIPLE = 4
"""Texels by which a roll commutes with the network: what it divides the size by."""
MARGIN = 64
"""Texels put around a picture whose wrapping side is no multiple of that: more than the network sees."""


SHARES = (0.7, 0.9)
"""Of the network's detail and of the statistical one: the first alone leaves scratches on plain surfaces, the second
alone frays edges. Chosen by the kid of every second of the report's prompts out of five pairs, and by eye."""


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(x)))


class Detailer(ModelMixin, ConfigMixin):
    """What to add to a decoded basecolor (N, 3, H, W) in [-1, 1], given noise (N, 1, H, W); H and W multiples of 4.

    Convolutions alone, at half and at a quarter of the size, without statistics over space: inside `asd.Seamless` a
    roll of both inputs by multiples of 4 texels is a roll of the result. A decoder trained on mean errors answers with
    the mean of what a latent may stand for; this one draws one of the things it may stand for, by the noise. It is
    trained against critics (`training.detail`; Goodfellow et al. 2014), and lower frequencies are kept.
    """

    @register_to_config
    def __init__(self, fine: int = 32, coarse: int = 96, blocks: int = 4) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4 * 4, fine, 3, padding=1)
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.noise = nn.Conv2d(16, coarse, 3, padding=1)
        self.middle = nn.Sequential(*(_Block(coarse) for _ in range(blocks)))
        self.up = nn.Conv2d(coarse, fine, 3, padding=1)
        self.late = _Block(fine)
        self.leave = nn.Conv2d(fine, 12, 3, padding=1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        near = self.enter(F.pixel_unshuffle(torch.cat([x, noise], 1), 2))
        far = self.down(F.silu(near)) + self.noise(F.pixel_unshuffle(noise, 4))
        far = self.up(self.middle(far))
        y = self.late(near + F.interpolate(far, scale_factor=2, mode="nearest"))
        return F.pixel_shuffle(self.leave(F.silu(y)), 2)


@torch.no_grad()
def add_detail(
    basecolor: Tensor,
    seed: int,
    network: Detailer | None,
    *,
    wrap_x: bool,
    wrap_y: bool,
    strength: float = STRENGTH,
) -> Tensor:
    """`basecolor` (3, H, W) in [0, 1] as decoded, with `strength` times the detail that decoding fades; 0: as it is.

    The network's and that of `materials.grain` (statistics for what is lost, a filter for what fades), in SHARES; where
    a checkpoint has no network, the latter alone. The noise depends on the seed and the size alone.
    """
    if strength == 0:
        return basecolor
    if network is None:
        return add_statistical(basecolor, seed, wrap_x=wrap_x, wrap_y=wrap_y, strength=strength)
    height, width = basecolor.shape[-2:]
    generator = torch.Generator().manual_seed((seed ^ SALT) % 2**63)
    noise = torch.randn((1, 1, height, width), generator=generator)
    rows, columns = _places(height, wrap_y), _places(width, wrap_x)

    def framed(x: Tensor) -> Tensor:
        x = x if rows is None else x.index_select(-2, rows[0])
        x = x if columns is None else x.index_select(-1, columns[0])
        return x.to(network.device, network.dtype)

    # where the frame holds what lies beyond the border, the network need not wrap
    circular_x, circular_y = wrap_x and columns is None, wrap_y and rows is None
    axes: SeamlessAxes = ("xy" if circular_y else "x") if circular_x else ("y" if circular_y else "none")
    with Seamless([network], axes):
        added = network(framed(basecolor[None] * 2 - 1), framed(noise))[0].float().cpu()
    top, left = (0 if places is None else places[1] for places in (rows, columns))
    added = added[:, top : top + height, left : left + width]
    drawn, fitted = SHARES
    fitted *= strength
    sharp = sharpen(basecolor, wrap_x=wrap_x, wrap_y=wrap_y, strength=fitted)
    grain = grain_of(basecolor, seed, wrap_x=wrap_x, wrap_y=wrap_y)
    return (sharp + fitted * grain + strength * drawn / 2 * added).clamp(0, 1)


def _places(size: int, wrap: bool) -> tuple[Tensor, int] | None:
    """What lies at each place of a framed side, and where the picture begins; None where no frame is needed."""
    if size % MULTIPLE == 0:
        return None
    before = MARGIN if wrap else 0
    at = torch.arange(-before, size + before + -(size + 2 * before) % MULTIPLE)
    return (at % size if wrap else at.clamp(0, size - 1)), before
