"""The network that draws fine detail: exact on a torus at any size, and nothing where nothing is asked for."""

from __future__ import annotations

import pytest
import torch

from asd.seamless import Seamless
from materials.detail import Detailer, add_detail
from materials.grain import add_detail as add_statistical
from materials.pipeline import MaterialPipeline


@pytest.fixture
def network() -> Detailer:
    return Detailer(fine=8, coarse=12, blocks=2).requires_grad_(False).eval()


@pytest.mark.parametrize("shift", [(4, 0), (-12, 20)])
def test_a_roll_of_picture_and_noise_is_a_roll_of_the_detail(network: Detailer, shift: tuple[int, int]) -> None:
    x, noise = torch.rand(1, 3, 32, 48), torch.randn(1, 1, 32, 48)
    with Seamless([network], "xy"):
        made = network(x, noise).roll(shift, (-2, -1))
        rolled = network(x.roll(shift, (-2, -1)), noise.roll(shift, (-2, -1)))
    assert float((made - rolled).abs().max()) < 1e-5


@pytest.mark.parametrize("axes", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("size", [(32, 48), (37, 50), (1, 64), (3, 5)])
def test_any_size_stays_and_differs_by_seed(network: Detailer, size: tuple[int, int], axes: tuple[bool, bool]) -> None:
    x = torch.rand(3, *size)
    wraps = {"wrap_x": axes[0], "wrap_y": axes[1]}
    made = add_detail(x, 3, network, **wraps)
    assert made.shape == x.shape
    assert float(made.min()) >= 0 and float(made.max()) <= 1
    assert torch.equal(made, add_detail(x, 3, network, **wraps))
    assert not torch.equal(made, add_detail(x, 4, network, **wraps))


def test_a_frame_shows_what_wrapping_shows(network: Detailer) -> None:
    """An odd width is framed with its own other end: a column far from the ends is as without any frame."""
    x = torch.rand(3, 32, 258)
    inside = slice(100, 160)
    framed = add_detail(x, 0, network, wrap_x=True, wrap_y=True)[..., inside]
    open_ended = add_detail(x, 0, network, wrap_x=False, wrap_y=True)[..., inside]
    assert torch.allclose(framed, open_ended, atol=1e-5)


def test_no_strength_and_no_network(network: Detailer) -> None:
    x = torch.rand(3, 32, 32)
    assert add_detail(x, 0, network, wrap_x=True, wrap_y=True, strength=0.0) is x
    made = add_detail(x, 5, None, wrap_x=True, wrap_y=False)
    assert torch.equal(made, add_statistical(x, 5, wrap_x=True, wrap_y=False))


def test_the_shipped_one_adds_contrast_where_decoding_fades_it_and_keeps_colours() -> None:
    network = MaterialPipeline.from_pretrained(device="cpu").detailer
    assert network is not None
    coarse = torch.rand(1, 3, 16, 16) * 0.6 + 0.2
    soft = torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic").clamp(0, 1)[0]
    made = add_detail(soft, 1, network, wrap_x=True, wrap_y=True)
    assert float(made.diff(dim=-1).abs().mean()) > 1.1 * float(soft.diff(dim=-1).abs().mean())
    assert float((made.mean((1, 2)) - soft.mean((1, 2))).abs().max()) < 0.03
