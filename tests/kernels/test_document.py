"""The examples of docs/attention.md, run as they stand."""

from __future__ import annotations

import doctest
from pathlib import Path

from textile_metric.torchvision_guard import guard_torchvision

DOCUMENT = Path(__file__).parents[2] / "docs" / "attention.md"


def test_examples_run() -> None:
    guard_torchvision()
    failed, tried = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert tried > 15 and failed == 0


def test_every_path_is_described() -> None:
    from kernels.paths import paths

    text = DOCUMENT.read_text(encoding="utf-8")
    assert all(f"| `{path.name}` |" in text for path in paths())
