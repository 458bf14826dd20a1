"""The script that measures `asd` at full size on a GPU, on toys: it runs, and counts what it says it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import any_size_gpu as module
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()


def test_every_way_of_tiling_is_counted() -> None:
    found = {way: module.tiles("xy", way, True, "cpu") for way in ("fstd", "overlap50")}
    assert found["fstd"]["calls"] == 16 and found["overlap50"]["calls"] == 64
    assert all(row["seconds"] > 0 for row in found.values())


@pytest.mark.parametrize("number", range(-1, len(module.DECODERS)))
def test_every_way_of_decoding_runs(number: int) -> None:
    assert module.decoder(number, True, "cpu")["seconds"] > 0


@pytest.mark.parametrize("layout", ["sd1.5", "xl"])
def test_a_checkpoint_is_written_loaded_and_run(layout: str, tmp_path: Path) -> None:
    folder = module.checkpoint(layout, tmp_path, True, "cpu")
    assert module.capped(folder, 2048, 4, True, "cpu")["seconds"] > 0
