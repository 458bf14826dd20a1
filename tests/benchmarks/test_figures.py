"""The maths of the other benchmarks, without a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks import colours, equivariance, generator, pairs, sizes


def test_rolled_difference_tells_a_torus_from_a_border() -> None:
    weight = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    z = torch.randn(1, 1, 8, 12, generator=torch.Generator().manual_seed(1))
    double = torch.nn.Upsample(scale_factor=2)

    def circular(x: torch.Tensor) -> torch.Tensor:
        return double(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight))

    for cells in equivariance.shifts("xy", 4, (8, 12)):
        assert equivariance.rolled_difference(circular, z, cells, 2) < 1e-6
        assert equivariance.rolled_difference(lambda x: double(F.conv2d(x, weight, padding=1)), z, cells, 2) > 0.1


def test_shifts_lie_on_the_axes_asked_for() -> None:
    assert equivariance.shifts("x", 4, (16, 24)) == [(0, 4), (0, 20)]
    assert equivariance.shifts("y", 4, (16, 24)) == [(4, 0), (12, 0)]
    assert equivariance.shifts("xy", 4, (16, 24)) == [(4, 4), (12, 20)]


def test_twenty_sizes() -> None:
    assert len(set(sizes.SIZES)) == 20
    assert {(333, 517), (1, 64), (64, 1), (7, 7), (2048, 300)} <= set(sizes.SIZES)


def test_seam_bar_comes_from_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text('{"seam_real_p95": 1.3}')
    assert sizes.seam_bar(report) == 1.3
    assert sizes.seam_bar(None) == sizes.SEAM_REAL_P95
    report.write_text("{}")
    with pytest.raises(ValueError, match="seam_real_p95"):
        sizes.seam_bar(report)


def test_shares() -> None:
    assert sizes.share([1.0, 1.2, 1.3, 0.0], 1.2) == 0.75
    ramp = torch.arange(6.0).square().expand(1, 5, 6)  # steps 1, 3, 5, 7, 9 along x; 0 along y
    assert sizes.interior_share(ramp, 1.0) == pytest.approx((3 + 4) / 9)
    assert sizes.interior_share(torch.zeros(1, 1, 1), 1.0) == 0


def test_nearest_rows_by_cosine() -> None:
    real = np.array([[1.0, 0.0], [0.0, 5.0]], dtype=np.float32)
    index, similarity = generator.nearest_rows(np.array([[0.1, 1.0], [3.0, 0.0]], dtype=np.float32), real)
    assert index.tolist() == [1, 0]
    assert similarity.tolist() == pytest.approx([1 / np.sqrt(1.01), 1.0])


def test_bars_of_the_report() -> None:
    report = {"images": 159.0, "kid": 310.0, "class_top1": 0.5, "spread": 1.0, "seam_p50": 1.1, "seam_p95": 9.0}
    report |= {"nearest_p50": 0.955, "nearest_real_p50": 0.951, "nearest_p95": 0.999, "nearest_real_p95": 0.993}
    passed = {f.name: f.passed for f in generator.figures_of(report)}
    assert passed == {
        "images": None, "kid": False, "class_top1": True, "spread": True, "seam_p50": True, "seam_p95": None,
        "nearest_p50": True, "nearest_real_p50": None, "nearest_p95": False, "nearest_real_p95": None,
    }  # fmt: skip


def test_generate_makes_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert generator.generate([{"id": "a", "prompt": "brick"}], tmp_path, "no/such/model", {}) == 0


def test_colour_words_and_their_references() -> None:
    known = colours.references()
    assert colours.colour_word("dark grey brick wall", list(known)) == "dark grey"
    with pytest.raises(ValueError, match="colour word"):
        colours.colour_word("weathered sand, infrared", list(known))
    for word in ("red", "green", "blue", "yellow", "white", "black", "grey", "brown"):
        assert all(colours.is_nearer(known[word], known[word], other) for k, other in known.items() if k != word)
    assert colours.in_order(known["red"] - 5, known["blue"] - 5, known["red"], known["blue"])
    assert not colours.in_order(known["blue"], known["red"], known["red"], known["blue"])


def test_colour_figures(tmp_path: Path) -> None:
    from PIL import Image

    for prompt, rgb in (("red brick", (150, 40, 30)), ("blue brick", (150, 60, 50))):
        Image.new("RGB", (8, 8), rgb).save(tmp_path / f"{colours.file_id(prompt, 0)}.png")
    pairs = [{"prompt_a": "red brick", "prompt_b": "blue brick", "kind": "colour"}]
    figures, rows = colours.colour_figures(pairs, argparse.Namespace(out=tmp_path, seeds=1))
    values = {f.name.strip(): f.value for f in figures}
    assert values["images nearer to their own colour"] == 0.5
    assert [r["right"] for r in rows] == [True, False]


def test_words_of_pairs_and_their_classes() -> None:
    classes = ["concrete/plaster", "floor/wall (other)", "gravel/pebbles", "paving/cobble", "roof", "tile", "brick"]
    assert pairs.own_words(("weathered roof shingles", "weathered gravel")) == ("roof shingles", "gravel")
    names = ("roof shingles", "gravel", "brick wall", "ceramic tiles", "cobblestone paving")
    found = [pairs.class_of(name, classes[::-1]) for name in names]
    assert found == ["roof", "gravel/pebbles", "brick", "tile", "paving/cobble"]
    with pytest.raises(ValueError, match="a class named in 'velvet'"):
        pairs.class_of("velvet", classes)


def test_choices_are_counted_by_image_and_by_pair() -> None:
    def row(kind: str, prompt: str, against: str, right: bool) -> dict[str, Any]:
        return {"kind": kind, "prompt": prompt, "against": against, "seed": 0, "right": right}

    rows = [row("colour", "red", "blue", True), row("colour", "blue", "red", True)]
    rows += [row("material", "sand", "snow", False), row("material", "snow", "sand", True)]
    found = {f.name: f.value for f in pairs.figures_of(rows)}
    assert found == {
        "pairs": 2, "choices": 4, "right choices": 0.75, "  colour": 1, "  material": 0.5, "pairs with both right": 0.5,
    }  # fmt: skip
    assert [f.passed for f in pairs.figures_of(rows) if f.bar] == [False]


def test_a_colour_is_chosen_by_the_mean_of_the_picture(tmp_path: Path) -> None:
    pair = {"prompt_a": "red brick wall", "prompt_b": "blue brick wall", "kind": "colour"}
    for prompt, pixel in (("red brick wall", (160, 40, 30)), ("blue brick wall", (150, 50, 40))):
        Image.new("RGB", (8, 8), pixel).save(tmp_path / f"{colours.file_id(prompt, 0)}.png")
    rows = pairs.colour_choices([pair], argparse.Namespace(out=tmp_path, seeds=1))
    assert [r["right"] for r in rows] == [True, False]
