"""Guidance on real components of a few kilobytes: terms fall, on the guided axis alone, within the trust region."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asd.errors import ZelligeError
from asd.seamless import SeamlessAxes
from asd.tile_guide import TileGuide, border_loss
from tests import tiny
from textile_metric import TileabilityLoss, seam_ratio

Decode = Callable[[Tensor], Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(z: Tensor) -> Tensor:
    """A decoder without weights: the first three channels, enlarged."""
    return F.interpolate(z[:, :3] * 0.4, scale_factor=8, mode="bicubic").clamp(-1, 1)


def border(maps: Tensor) -> float:
    return float(border_loss(maps, torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def decode() -> Decode:
    torch.manual_seed(3)
    vae = tiny.autoencoder().eval().requires_grad_(False)
    return lambda z: vae.decoder(z)


def test_a_torus_has_no_border() -> None:
    t = torch.arange(64) * (2 * torch.pi / 64)
    # cut where it is flat: the term compares with the median step, and the steepest line of a wave is above that
    wave = (t.cos()[None, :] + (3 * t).cos()[:, None])[None, None] * 0.3
    for maps in (wave, wave.transpose(2, 3)):
        assert border(maps) < 0.2
        assert border(maps[..., :41]) > 0.8
    assert border(torch.zeros(1, 3, 16, 16)) == 0
    assert border(torch.rand(1, 3, 2, 2)) == 0  # too small to have an inside


def test_the_loss_falls() -> None:
    z = F.avg_pool2d(noise(1, 3, 16, 16), 5, 1) * 4
    loss = TileabilityLoss("xy", "sum")

    def value(latents: Tensor) -> float:
        return float(loss((smooth(latents) * 0.5 + 0.5).clamp(0, 1)))

    for weight in (0.0, 1.0):
        guide = TileGuide(decode=smooth, axes="xy", seeds=[0], last_moves=10, reach=1.0, border_weight=weight)
        assert value(guide(z, 0.3, 0.0)) < value(z)


@pytest.mark.parametrize("axes", ["x", "y"])
def test_only_the_guided_axis_is_mended(axes: SeamlessAxes) -> None:
    z = F.avg_pool2d(noise(1, 3, 20, 20), 5, 1) * 4
    guide = TileGuide(decode=smooth, axes=axes, seeds=[0], last_moves=10, loss_weight=0.0, reach=1.0)
    before, after = (smooth(latents) for latents in (z, guide(z, 0.2, 0.0)))
    ratios = [seam_ratio((maps * 0.5 + 0.5).clamp(0, 1))[0] for maps in (before, after)]
    guided, other = ("xy".index(axes), 1 - "xy".index(axes))
    assert ratios[1][guided] < 0.5 * ratios[0][guided]
    assert ratios[1][other] > 0.7 * ratios[0][other]


def test_no_cell_leaves_the_trust_region(decode: Decode) -> None:
    z = noise(2, 4, 8, 10)
    made = TileGuide(decode=decode, axes="xy", seeds=[0, 1], rate=5.0, reach=0.2)(z, 0.5, 0.1)
    change = (made - z).square().mean(1).sqrt()
    assert 0.15 < float(change.max()) <= 0.2 + 1e-5
    assert not made.requires_grad


def test_a_sample_is_the_same_alone_and_in_company(decode: Decode) -> None:
    z = noise(2, 4, 8, 8)
    both = TileGuide(decode=decode, axes="y", seeds=[4, 5])(z, 0.5, 0.2)
    alone = [TileGuide(decode=decode, axes="y", seeds=[seed])(z[i : i + 1], 0.5, 0.2) for i, seed in enumerate((4, 5))]
    assert torch.equal(both, torch.cat(alone))
    assert torch.equal(TileGuide(decode=decode, axes="y", seeds=[4, 5])(z, 0.5, 0.2), both)


def test_it_starts_when_there_is_something_to_see(decode: Decode) -> None:
    z, guide = noise(1, 4, 8, 8), TileGuide(decode=decode, axes="x", seeds=[0], start=0.6)
    assert guide(z, 0.7, 0.5) is z
    assert not torch.equal(guide(z, 0.6, 0.5), z)
    assert not torch.equal(guide(z, 0.7, 0.0), z)  # the only step there is
    off = TileGuide(decode=decode, axes="x", seeds=[0], loss_weight=0.0, border_weight=0.0)
    assert torch.equal(off(z, 0.5, 0.0), z)


def test_wrong_use_is_told(decode: Decode) -> None:
    with pytest.raises(ZelligeError, match="x, y or xy, but got none"):
        TileGuide(decode=decode, axes="none", seeds=[0])
    with pytest.raises(ZelligeError, match="reach of at least 0, but got -1"):
        TileGuide(decode=decode, axes="x", seeds=[0], reach=-1)
    with pytest.raises(ZelligeError, match="Expected 1 samples, one for each seed, but got 2"):
        TileGuide(decode=decode, axes="x", seeds=[0])(noise(2, 4, 8, 8), 0.5, 0.0)
