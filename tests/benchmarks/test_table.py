"""Figures, bars, tables, and the JSON beside them."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from benchmarks.table import Figure, finish, number, size, table


def test_a_figure_meets_its_bar_in_the_right_direction() -> None:
    assert Figure(name="a", value=1.0).passed is None
    assert Figure(name="a", value=1.0, bar=1.0).passed is True
    assert Figure(name="a", value=1.1, bar=1.0).passed is False
    assert Figure(name="a", value=1.1, bar=1.0, relation=">=").passed is True
    assert Figure(name="a", value=0.9, bar=1.0, relation=">=").passed is False


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_never_passes(value: float) -> None:
    assert Figure(name="a", value=value, bar=0.0).passed is False
    assert Figure(name="a", value=value, bar=0.0, relation=">=").passed is False
    assert json.loads(json.dumps(Figure(name="a", value=value, bar=0.0).to_dict(), allow_nan=False))["value"] is None
    assert number(value)


def test_table_names_failures() -> None:
    text = table([Figure(name="slow", value=12.0, bar=10.0), Figure(name="fine", value=0.5, bar=0.4, relation=">=")])
    assert text.splitlines()[1:] == ["slow    12     <= 10   FAIL", "fine    0.5    >= 0.4  pass"]


def test_finish_writes_json_and_says_whether_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Figure(name="good", value=1.0, bar=2.0), Figure(name="bad", value=3.0, bar=2.0)
    assert finish("name", [good]) == 0
    assert finish("name", [good, bad], tmp_path / "out.json", {"rows": [1]}) == 1
    assert "FAIL" in capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["figures"][1] == {"figure": "bad", "value": 3.0, "bar": "<= 2", "passed": False}
    assert report["benchmark"] == "name" and report["details"] == {"rows": [1]}


@pytest.mark.parametrize("text", ["", "512", "0x5", "5x0", "-1x5", "5x5x5", "axb"])
def test_size_refuses_what_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="Expected a size"):
        size(text)
