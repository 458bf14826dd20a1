"""Procedural materials: periodic, reproducible, in range, and captioned truthfully."""

from __future__ import annotations

import pytest
import torch

from materials.maps import height_to_range, normal_from_height
from materials.procedural import FAMILIES, Batch, fields, sample
from materials.procedural.palette import NAMED

NAMES = sorted(FAMILIES)
MAPS = ("basecolor", "normal", "height", "roughness", "metallic")
STRUCTURED = [
    "brick", "ceramic_tile", "cobblestone", "concrete_panels", "flagstone", "metal_plate", "parquet", "pavers",
    "planks", "roof_tiles", "shingles", "stone_blocks", "tech_panels", "tread_plate",
]  # fmt: skip


def _difference(a: Batch, b: Batch, roll: tuple[int, int] = (0, 0)) -> float:
    return max(
        float((torch.roll(getattr(a, m), (-roll[0], -roll[1]), (2, 3)) - getattr(b, m)).abs().max()) for m in MAPS
    )


def test_structured_families_are_registered() -> None:
    assert set(STRUCTURED) <= set(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_periodic_in_all_maps(name: str) -> None:
    """Coordinates that run past the tile by a third of it give the rolled maps."""
    plain = sample(name, [3, 11], (32, 32))
    moved = sample(name, [3, 11], (32, 32), shift=(12, 20))
    assert _difference(plain, moved, (12, 20)) <= 2e-3
    mean = (torch.roll(plain.network(), (-12, -20), (2, 3)) - moved.network()).abs().mean()
    assert mean <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_seed_decides_alone(name: str) -> None:
    """The same seed gives the same pixels, whatever else is in the batch; another seed gives others."""
    batch = sample(name, [5, 6], (32, 32))
    alone = sample(name, [6], (32, 32))
    other = Batch(**{m: getattr(batch, m)[1:] for m in (*MAPS, "depth_m", "size_m")}, captions=batch.captions[1:])
    assert _difference(alone, other) <= 1e-5
    assert alone.captions == other.captions
    assert float((batch.network()[0] - batch.network()[1]).abs().mean()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_ranges_normals_and_odd_sizes(name: str) -> None:
    batch = sample(name, [1, 4], (63, 130))
    network = batch.network()
    assert network.shape == (2, 8, 63, 130)
    assert network.dtype == torch.float32
    assert bool(torch.isfinite(network).all())
    assert float(network.abs().max()) <= 1.0 + 1e-6
    torch.testing.assert_close(batch.normal.norm(dim=1), torch.ones(2, 63, 130), atol=1e-5, rtol=0)
    expected = normal_from_height(batch.height, depth_m=batch.depth_m, size_m=batch.size_m)
    torch.testing.assert_close(batch.normal, expected, atol=1e-4, rtol=0)
    assert float(batch.normal[:, 2].mean()) > 0.6
    assert all(1 <= len(c.split()) <= 16 and c == c.strip() for c in batch.captions)
    assert sample(name, [1], (1, 7)).height.shape == (1, 1, 1, 7)


def test_colour_words_match_the_pixels() -> None:
    """Where the caption of a brick wall names a strong colour, the mean hue is nearer to it than to its opposite."""
    opposite = {"red": "teal", "green": "purple", "blue": "orange", "yellow": "navy", "orange": "blue"}
    batch = sample("brick", range(60), (32, 32))
    seen = 0
    for caption, image in zip(batch.captions, batch.basecolor, strict=True):
        words = caption.replace(",", "").split()
        named = [w for w in opposite if w in words]
        if len(named) != 1 or {"mossy", "dirty", "dark", "light"} & set(words):
            continue
        mean = image.mean(dim=(1, 2))
        mean = mean - mean.mean()
        near, far = (torch.tensor(NAMED[c]) - torch.tensor(NAMED[c]).mean() for c in (named[0], opposite[named[0]]))
        assert torch.dot(mean, near) > torch.dot(mean, far), caption
        seen += 1
    assert seen >= 5


@pytest.mark.parametrize("freq", [5, (3, 7), torch.tensor([4, 9]).reshape(2, 1, 1)])
def test_fields_wrap(freq: fields.Freq) -> None:
    u, v = fields.grid(2, (16, 32), "cpu")
    seed = torch.tensor([1, 2]).reshape(2, 1, 1)
    for field in (
        lambda x, y: fields.fbm(x, y, freq, seed),
        lambda x, y: fields.value_noise(x, y, freq, seed),
        lambda x, y: fields.worley(x, y, freq, seed)[0],
        lambda x, y: fields.worley_edges(x, y, freq, seed)[0],
    ):
        torch.testing.assert_close(field(u + 1, v + 2), field(u, v), atol=1e-4, rtol=0)


def test_hash_is_uniform_and_independent_of_dtype() -> None:
    x = torch.arange(256)
    seed = torch.tensor([7]).reshape(1, 1, 1)
    values = fields.hash01(x[None, None], x[None, :, None], seed)
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    assert abs(float(values.mean()) - 0.5) < 0.01
    assert abs(float(values.var()) - 1 / 12) < 0.002


def test_worley_edge_is_half_the_gap_of_a_square_lattice() -> None:
    """Without jitter the cells are squares: the border distance is 0.5 - max(|dx|, |dy|)."""
    u, v = fields.grid(1, (24, 24), "cpu")
    edge, _, dx, dy = fields.worley_edges(u, v, 3, torch.zeros(1, 1, 1, dtype=torch.int64), 0.0)
    torch.testing.assert_close(edge, 0.5 - torch.maximum(dx.abs(), dy.abs()), atol=1e-5, rtol=0)


def test_normal_of_a_ramp() -> None:
    """A slope of 45 degrees up to the right points to -X, one up the image (falling row) to -Y."""
    ramp = torch.linspace(0, 1, 5).expand(1, 1, 5, 5)
    to_right = normal_from_height(ramp, depth_m=0.8, size_m=(1.0, 1.0), seamless="none")
    torch.testing.assert_close(to_right[0, :, 2, 2], torch.tensor([-(0.5**0.5), 0.0, 0.5**0.5]))
    downward = normal_from_height(ramp.transpose(2, 3), depth_m=0.8, size_m=(1.0, 1.0), seamless="none")
    torch.testing.assert_close(downward[0, :, 2, 2], torch.tensor([0.0, 0.5**0.5, 0.5**0.5]))


def test_height_to_range() -> None:
    scaled = height_to_range(torch.tensor([[-3.0, 5.0]]).reshape(1, 1, 1, 2))
    assert scaled.flatten().tolist() == [0.0, 1.0]
    assert float(height_to_range(torch.ones(1, 1, 2, 2)).abs().max()) == 0.0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="Expected a family"):
        sample("no such family", [1])
    with pytest.raises(ValueError, match="Expected seeds"):
        sample("brick", [])
    with pytest.raises(ValueError, match="Expected seeds"):
        sample("brick", [1], (0, 8))
    with pytest.raises(ValueError, match="Expected height"):
        normal_from_height(torch.zeros(2, 2), depth_m=1.0, size_m=(1.0, 1.0))
    with pytest.raises(ValueError, match="Expected seamless"):
        normal_from_height(torch.zeros(1, 1, 2, 2), depth_m=1.0, size_m=(1.0, 1.0), seamless="z")
