from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.processes import resident
from benchmarks.serve import Load, figures_of, put_load, score_request
from tests.ui.api.conftest import serving


def test_figures_compare_many_with_one() -> None:
    serial = Load(seconds=10, waits=[0.1] * 100, statuses=Counter({200: 100}))
    many = Load(seconds=10, waits=[0.5] * 90, statuses=Counter({200: 90, 429: 30, 500: 1, 0: 2}))
    found = {figure.name: figure for figure in figures_of(serial, many, [100, 103], 64)}
    assert (
        found["throughput over that of one"].value == pytest.approx(0.9) and found["throughput over that of one"].passed
    )
    assert found["errors but 429"].value == 3 and not found["errors but 429"].passed
    assert found["p99 of accepted over the single one"].value == pytest.approx(5)
    assert found["memory at the end over that when warm"].passed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_load_on_a_real_server(tmp_path: Path) -> None:
    with serving(tmp_path, max_scores=2) as live:
        load = asyncio.run(put_load(live.port, score_request(32), 6, 4.0, 0.05))
    assert load.statuses[200] == len(load.waits) > 0
    assert set(load.statuses) <= {200, 429}
    assert resident(os.getpid()) > 10**7
