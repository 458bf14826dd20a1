from __future__ import annotations

import random

import pytest
import torch

from materials.material import MISSING
from tests import tiny
from training.views import Mixture, RealTextures, View, collate, procedural_views

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealTextures:
    return RealTextures(tiny.pack(tmp_path_factory.mktemp("pack") / "files"), "train", CPU)


class Fixed(random.Random):
    """Crops, shifts and choices at their lowest; flips as told; everything else as `whole` tiles."""

    def __init__(self, flip: bool) -> None:
        super().__init__(0)
        self.draws = iter([0.0, 0.0 if flip else 0.9])

    def random(self) -> float:
        return next(self.draws, 0.5)

    def randrange(self, *args: int, **kwargs: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 0

    def randint(self, a: int, b: int) -> int:
        return a


def test_split_and_maps(real: RealTextures) -> None:
    assert len(real) == 3
    with_maps = [item.normal is not None and item.height is not None for item in real.items]
    assert with_maps == [True, True, False]
    # two textures of one cluster weigh as much together as the root of two alone
    assert real.weights == pytest.approx([1.0, 1 + 2**-0.5, 1 + 2**0.5])


@pytest.mark.parametrize("size", [(256, 256), (128, 96)])
def test_views_have_the_size_and_know_what_is_true(real: RealTextures, size: tuple[int, int]) -> None:
    rng = random.Random(0)
    for item in real.items:
        view = real.view(item, rng, *size, whole=0.5)
        assert view.maps.shape == (8, *size) and view.known.shape == (8,)
        known = torch.tensor([1.0] * 6 + [0.0] * 2 if item.normal is not None else [1.0] * 3 + [0.0] * 5)
        assert torch.equal(view.known, known)
        assert (view.maps[known == 0] == MISSING).all()
        assert view.maps[known == 1].abs().max() <= 1
        assert 0 <= view.scale <= 1 and view.caption


def test_flips_mirror_and_negate_normal_x(real: RealTextures) -> None:
    plain = real.view(real.items[0], Fixed(False), 256, 256, whole=1.0).maps
    flipped = real.view(real.items[0], Fixed(True), 256, 256, whole=1.0).maps
    expected = plain.flip(-1)
    expected[3] = -expected[3]
    assert torch.equal(flipped, expected)
    assert plain[3].abs().max() > 0.1


def test_wrap_flags_are_the_tile_s_and_only_for_whole_tiles(real: RealTextures) -> None:
    flags = []
    for item in real.items:
        view = real.view(item, Fixed(False), 256, 256, whole=1.0)
        flags.append((view.wrap_x, view.wrap_y))
    assert flags == [(1, 1), (1, 0), (1, 1)]
    crop = real.view(real.items[0], random.Random(1), 64, 48, whole=0.0)
    assert (crop.wrap_x, crop.wrap_y) == (0, 0)


def test_procedural_views_wrap_when_whole() -> None:
    for crop, wraps, size in ((0.0, 1.0, 64), (1.0, 0.0, 64)):
        views = procedural_views(random.Random(2), 2, size, size, CPU, crop=crop)
        assert [(v.wrap_x, v.wrap_y) for v in views] == [(wraps, wraps)] * 2
        assert all(v.maps.shape == (8, size, size) and v.known.all() for v in views)
        assert all((v.scale > 0) == (crop > 0) for v in views)


def test_collate_hides_maps_but_never_the_colour() -> None:
    maps = torch.rand(8, 4, 4)
    known = torch.tensor([1.0] * 6 + [0.0] * 2)
    batch = collate([View(maps, known, 1.0, 0.0, 0.5, "a")] * 64, random.Random(0))
    assert torch.equal(batch.maps, maps.expand(64, -1, -1, -1))
    assert (batch.given[:, 6:] == MISSING).all() and torch.equal(batch.given[:, :3], batch.maps[:, :3])
    hidden = (batch.given[:, 3:6] == MISSING).float().mean((0, 2, 3))
    assert ((hidden > 0.2) & (hidden < 0.7)).all()
    # normal X and Y come and go together
    assert torch.equal(batch.given[:, 3] == MISSING, batch.given[:, 4] == MISSING)
    assert batch.wrap_x.tolist() == [1.0] * 64 and batch.wrap_y.tolist() == [0.0] * 64


def test_mixture_is_half_real(real: RealTextures) -> None:
    mixture = Mixture(real, CPU, batch=8, size=64, seed=0, pool=8)
    mixture.fill()
    batch = mixture.draw()
    assert batch.maps.shape == batch.given.shape == (8, 8, 64, 64)
    assert (batch.known[:4, 6:] == 0).all() and (batch.known[4:] == 1).all()
