from __future__ import annotations

import torch

from textile_metric import seam_ratio
from training.breaks import KINDS, draw


def waves(count: int, side: int = 64) -> torch.Tensor:
    """(count, 3, side, side) sums of periodic waves: smooth tiles, in which every break is a large step."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(side) / side * 2 * torch.pi
    out = torch.full((count, 3, side, side), 0.5)
    for _ in range(4):
        fx, fy = (torch.randint(1, 4, (count, 1, 1, 1), generator=generator) for _ in range(2))
        phase = torch.rand(count, 3, 1, 1, generator=generator) * 2 * torch.pi
        out = out + 0.1 * torch.sin(fx * t[None, None, None, :] + fy * t[None, None, :, None] + phase)
    return out


def test_labels_agree_with_the_seam_where_it_is_plain() -> None:
    views = draw(waves(200), (64, 64), torch.Generator().manual_seed(1))
    assert views.images.shape == (200, 3, 64, 64) and set(views.tiles.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert float(views.images.min()) >= 0 and float(views.images.max()) <= 1
    assert set(views.kinds.tolist()) == set(range(len(KINDS)))
    # every view is rolled: the largest ratio over all rolls finds the seam wherever it is
    worst = torch.stack(
        [
            torch.from_numpy(seam_ratio(views.images.roll((-r, -r), (2, 3))))
            for r in range(0, 64)
        ]
    ).amax(0)  # fmt: skip
    column, row = views.seams[views.kinds == KINDS.index("crop")][0].tolist()
    ratios = torch.from_numpy(seam_ratio(views.images.roll((-row, -column), (2, 3))))
    crops = (views.kinds == KINDS.index("crop"))[:, None] & (views.tiles == 0)
    tiles = (views.kinds == KINDS.index("tile"))[:, None].expand(-1, 2)
    assert int(crops.sum()) > 10
    assert float(worst[crops].median()) > 2 * float(worst[tiles].median())
    # and it is where the view says: rolled back, the border has it
    assert float((ratios[crops] / worst[crops]).median()) > 0.99


def test_kinds_break_the_axes_they_should() -> None:
    views = draw(waves(600), (48, 64), torch.Generator().manual_seed(2))

    def of(name: str) -> torch.Tensor:
        return views.tiles[views.kinds == KINDS.index(name)]

    for name in ("tile", "mirrored"):
        assert bool((of(name) == 1).all())
    assert bool((of("vignette") == 0).all())
    for name in ("one_axis", "feathered", "scale", "line"):
        assert bool((of(name) != 0).any(1).all()) and bool((of(name) == 0).any())
    assert bool((of("shear")[:, 0] == 1).all())
    for name in ("hue", "lighting"):
        assert bool((of(name) == 0).any(1).all())


def test_the_same_generator_draws_the_same_views() -> None:
    first, second = (draw(waves(20), (32, 32), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.images, second.images) and torch.equal(first.tiles, second.tiles)
