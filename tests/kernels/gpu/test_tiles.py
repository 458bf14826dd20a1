"""The picker's analytic half: what it offers fits the chip, and what it picks is known to compile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels.gpu import tiles
from kernels.gpu.config import HEAD_SIZES, SHARED_LIMIT, Config, head_parts
from kernels.gpu.tiles import Shape


@pytest.mark.parametrize("arch", tiles.CHIPS)
@pytest.mark.parametrize("d", HEAD_SIZES)
def test_candidates_fit(arch: str, d: int) -> None:
    offered = tiles.candidates(arch, 132, Shape(16, 4096, 4096, d))
    assert tiles.defaults(arch, d) in offered
    assert len(offered) == len(set(offered)) > 1
    main, tail = head_parts(d)
    for config in offered[1:]:
        assert tiles.shared_bytes(arch, d, config) <= SHARED_LIMIT[arch]
        assert config.chunk <= main and config.slice <= main and (not tail or config.slice == main)


def test_one_head_with_few_queries_is_split_and_a_full_gpu_is_not() -> None:
    assert tiles.pick("sm_90", 132, Shape(1, 512, 16384, 512)).splits > 1
    assert tiles.pick("sm_90", 132, Shape(1, 65536, 65536, 512)).splits == 1
    assert tiles.pick("sm_86", 28, Shape(16, 16384, 16384, 40)).splits == 1


@pytest.mark.parametrize("arch", [*tiles.CHIPS, "sm_87", "sm_100", "gfx90a"])
def test_without_measurements_only_gated_configs_are_picked(arch: str) -> None:
    for d in HEAD_SIZES:
        if (arch, d) in tiles.corrections():
            continue  # measured: more than the fixed config may be picked
        picked = tiles.pick(arch, 80, Shape(8, 1000, 77, d))
        assert replace(picked, splits=1) == tiles.defaults(arch, d)


@pytest.mark.parametrize("d", HEAD_SIZES)
def test_what_was_measured_is_picked_where_it_was(d: int) -> None:
    known = tiles.corrections()["sm_90", d].constants
    picked = {tiles.pick("sm_90", 132, Shape(bh, n, n, d)) for bh in (1, 7, 40) for n in (77, 1000, 9000)}
    assert len(picked) > 1  # shapes that differ so much want different tiles
    assert {replace(config, splits=1) for config in picked} <= set(known)


def test_more_work_costs_more() -> None:
    config = tiles.defaults("sm_80", 64)
    costs = [tiles.cycles("sm_80", 108, Shape(16, n, n, 64), config) for n in (1024, 2048, 4096, 8192)]
    assert costs == sorted(costs) and costs[3] > 10 * costs[0]
    assert tiles.cycles("sm_80", 108, Shape(16, 4096, 4096, 64, True), config) < costs[2]


def test_features_have_one_length() -> None:
    lengths = {
        len(tiles.features(132, Shape(1, 4096, 4096, d), c))
        for d in HEAD_SIZES
        for c in tiles.candidates("sm_90", 132, Shape(1, 4096, 4096, d))
    }
    assert len(lengths) == 1


def test_bad_values() -> None:
    with pytest.raises(ValueError, match="Expected a head size of 40, 64, 80, 128, 160, 512, but got 72"):
        tiles.candidates("sm_90", 132, Shape(1, 64, 64, 72))
    with pytest.raises(ValueError, match="Expected block_m to be a power of two, but got 48"):
        Config(48, 32, 64, 64, 4, 1)
    with pytest.raises(ValueError, match="Expected stages and splits to be at least 1, but got 0 and 1"):
        Config(64, 32, 64, 64, 4, 0)
