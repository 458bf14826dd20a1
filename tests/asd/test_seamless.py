"""Seamless against an independent reference: the plain network on the 3x3 tiled input, cropped to the middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asd.seamless import Seamless, SeamlessAxes, SeamlessError, _mended, wrap_pad
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel  # noqa: E402 - the guard must come first

AXES: tuple[SeamlessAxes, ...] = ("x", "y", "xy")
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "3x3 stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "5x5": {"kernel_size": 5, "padding": 2},
    "5x3": {"kernel_size": (5, 3), "padding": (2, 1)},
    "dilated": {"kernel_size": 3, "padding": 3, "dilation": 3},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "same": {"kernel_size": 3, "padding": "same", "dilation": 2},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
}
Function = Callable[[Tensor], Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolution(kind: str) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, **CONVOLUTIONS[kind]).double().requires_grad_(False)


def tiny_unet() -> tuple[nn.Module, Function]:
    torch.manual_seed(1)
    net = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=4,
    )
    net = net.double().eval().requires_grad_(False)
    words = noise(1, 3, 12, seed=5)
    return net, lambda x: net(x, 500, words.expand(len(x), -1, -1), return_dict=False)[0]


def tiny_autoencoder() -> tuple[nn.Module, Function]:
    torch.manual_seed(2)
    net = AutoencoderTiny(
        in_channels=4,
        out_channels=4,
        latent_channels=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    net = net.double().eval().requires_grad_(False)
    return net, lambda x: net.decoder(net.encoder(x))


def tiny_kl() -> tuple[nn.Module, Function]:
    torch.manual_seed(3)
    build: Any = AutoencoderKL  # Any: diffusers types its tuples as of one element
    net = build(
        in_channels=4,
        out_channels=4,
        latent_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
    )
    net = net.double().eval().requires_grad_(False)
    assert any(type(m).__name__ == "Downsample2D" and getattr(m, "padding", 1) == 0 for m in net.modules())
    return net, lambda x: net.decode(net.encode(x, return_dict=False)[0].mode(), return_dict=False)[0]


NETWORKS = {"unet": tiny_unet, "autoencoder tiny": tiny_autoencoder, "autoencoder kl": tiny_kl}


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("kind", [k for k in CONVOLUTIONS if k not in ("reflect", "replicate")])
def test_convolution_equals_the_middle_of_a_tiled_input(kind: str, axes: SeamlessAxes) -> None:
    conv, x = convolution(kind), noise(2, 4, 20, 24)
    tiled = x.repeat(1, 1, 3 if "y" in axes else 1, 3 if "x" in axes else 1)
    big = conv(tiled)
    with Seamless(conv, axes):
        made = conv(x)
    height, width = made.shape[-2:]
    top, left = height * ("y" in axes), width * ("x" in axes)
    torch.testing.assert_close(made, big[..., top : top + height, left : left + width], rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("kind", list(CONVOLUTIONS))
def test_convolution_commutes_with_a_roll(kind: str, axes: SeamlessAxes) -> None:
    conv, x = convolution(kind), noise(1, 4, 20, 24)
    stride = conv.stride[0]
    step = (3 * ("y" in axes), 5 * ("x" in axes))
    with Seamless(conv, axes):
        rolled = conv(x.roll((step[0] * stride, step[1] * stride), (-2, -1)))
        torch.testing.assert_close(rolled, conv(x).roll(step, (-2, -1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", list(NETWORKS))
def test_network_commutes_with_a_roll(name: str, axes: SeamlessAxes) -> None:
    net, f = NETWORKS[name]()
    x = noise(2, 4, 16, 24)
    step = (6 * ("y" in axes), 10 * ("x" in axes))
    with torch.no_grad():
        plain = f(x)
        assert (f(x.roll(step, (-2, -1))) - plain.roll(step, (-2, -1))).abs().max() > 1e-3
        with Seamless(net, axes):
            made = f(x)
            torch.testing.assert_close(f(x.roll(step, (-2, -1))), made.roll(step, (-2, -1)), rtol=0, atol=1e-9)
        assert torch.equal(f(x), plain)


@pytest.mark.parametrize("axes", AXES)
def test_local_network_equals_the_middle_of_a_tiled_input(axes: SeamlessAxes) -> None:
    # without norms over space and attention, one tile on each side holds all that an output depends on
    net, f = tiny_autoencoder()
    x = noise(1, 4, 64, 48)
    with torch.no_grad():
        big = f(x.repeat(1, 1, 3 if "y" in axes else 1, 3 if "x" in axes else 1))
        with Seamless(net, axes):
            made = f(x)
    top, left = 64 * ("y" in axes), 48 * ("x" in axes)
    torch.testing.assert_close(made, big[..., top : top + 64, left : left + 48], rtol=0, atol=1e-9)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("groups", [1, 4])
def test_mended_equals_padded(groups: int, axes: SeamlessAxes) -> None:
    x, weight, bias = noise(2, 4, 16, 19), noise(8, 4 // groups, 3, 3, seed=1), noise(8, seed=2)
    padded = wrap_pad(x, 1, 1, -1) if "x" in axes else nn.functional.pad(x, (1, 1, 0, 0))
    padded = wrap_pad(padded, 1, 1, -2) if "y" in axes else nn.functional.pad(padded, (0, 0, 1, 1))
    reference = nn.functional.conv2d(padded, weight, bias, groups=groups)
    made = _mended(x, weight, bias, groups, wrap_x="x" in axes, wrap_y="y" in axes)
    torch.testing.assert_close(made, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", AXES)
def test_result_with_gradients_equals_the_one_without(axes: SeamlessAxes) -> None:
    conv, x = convolution("3x3"), noise(1, 4, 20, 24)
    with Seamless(conv, axes):
        with torch.no_grad():
            mended = conv(x)
        with torch.enable_grad():
            padded = conv(x.clone().requires_grad_())
    torch.testing.assert_close(padded.detach(), mended, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 40)])
def test_tiny_inputs_wrap_as_often_as_needed(size: tuple[int, int]) -> None:
    conv, x = convolution("dilated"), noise(1, 4, *size)
    with Seamless(conv, "xy"):
        made = conv(x)
    big = conv(x.repeat(1, 1, 9, 9))
    height, width = size
    torch.testing.assert_close(made, big[..., 4 * height : 5 * height, 4 * width : 5 * width], rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", ["x", "y"])
def test_axis_not_asked_for_keeps_its_border(axes: SeamlessAxes) -> None:
    net, f = tiny_autoencoder()
    x = noise(1, 4, 160, 160)
    with torch.no_grad():
        plain = f(x)
        with Seamless(net, axes):
            made = f(x)
    # far from the wrapped border, the border of the other axis included, nothing changes
    middle = (slice(None), slice(70, 90)) if axes == "x" else (slice(70, 90), slice(None))
    torch.testing.assert_close(made[..., *middle], plain[..., *middle], rtol=0, atol=1e-12)
    assert (made - plain).abs().amax() > 1e-3


@pytest.mark.parametrize("name", list(NETWORKS))
def test_leaving_restores_every_module(name: str) -> None:
    net, f = NETWORKS[name]()
    x = noise(1, 4, 16, 16)
    before = [dict(m.__dict__) for m in net.modules()]
    with torch.no_grad():
        plain = f(x)
        with pytest.raises(RuntimeError, match="inside"), Seamless([net], "xy"):
            assert not torch.equal(f(x), plain)
            raise RuntimeError("inside")
        assert torch.equal(f(x), plain)
    assert [m.__dict__.keys() for m in net.modules()] == [b.keys() for b in before]


def test_none_changes_nothing() -> None:
    net, f = tiny_unet()
    x = noise(1, 4, 16, 16)
    with torch.no_grad():
        plain = f(x)
        with Seamless(net, "none"):
            assert torch.equal(f(x), plain)


def test_nested_contexts_unwind() -> None:
    conv, x = convolution("3x3"), noise(1, 4, 20, 24)
    plain = conv(x)
    with Seamless(conv, "x"):
        outer = conv(x)
        with Seamless(conv, "xy"):
            inner = conv(x)
        assert torch.equal(conv(x), outer)
    assert torch.equal(conv(x), plain)
    with Seamless(conv, "xy"):
        assert torch.equal(conv(x), inner)
    context = Seamless(conv, "y")
    for _ in range(2):
        with context:
            assert not torch.equal(conv(x), plain)
        assert torch.equal(conv(x), plain)


def test_models_that_cannot_be_seamless_are_errors() -> None:
    conv = convolution("3x3")
    with pytest.raises(SeamlessError, match="ConvTranspose2d at '1'"):
        Seamless(nn.Sequential(conv, nn.ConvTranspose2d(4, 4, 2)), "x").__enter__()
    assert "_conv_forward" not in conv.__dict__
    placed = nn.Sequential(convolution("3x3"), nn.Identity())
    placed[1].pos_embed = nn.Parameter(torch.zeros(1))
    with pytest.raises(SeamlessError, match="without positions"):
        Seamless(placed, "xy").__enter__()
    with Seamless(placed, "none"):
        pass
    with pytest.raises(SeamlessError, match="symmetric padding"):
        Seamless(nn.Conv2d(1, 1, 2, padding="same"), "x").__enter__()


@pytest.mark.parametrize("axes", ["", "yx", "both", "X"])
def test_unknown_axes_are_errors(axes: Any) -> None:
    with pytest.raises(SeamlessError, match="one of none, x, y, xy"):
        Seamless(convolution("1x1"), axes)
