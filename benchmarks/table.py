"""What every benchmark prints and writes: figures with their bars. Standard library only."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number; `passed` compares it with `bar` if it has one. A value that is not finite never passes."""

    name: str
    value: float
    bar: float | None = None
    relation: Literal["<=", ">="] = "<="

    @property
    def passed(self) -> bool | None:
        """None without a bar."""
        if self.bar is None:
            return None
        good = self.value <= self.bar if self.relation == "<=" else self.value >= self.bar
        return math.isfinite(self.value) and good

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a value that is not finite becomes null."""
        value = self.value if math.isfinite(self.value) else None
        out: dict[str, Any] = {"figure": self.name, "value": value}
        return out if self.bar is None else out | {"bar": f"{self.relation} {self.bar:g}", "passed": self.passed}


def number(value: float) -> str:
    """Four significant digits, whole numbers as such.

    >>> number(0.00012345), number(28.123456), number(159.0)
    ('0.0001234', '28.12', '159')
    """
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def table(figures: Sequence[Figure]) -> str:
    """Aligned lines: figure, value, bar, pass or FAIL.

    >>> print(table([Figure(name="seam", value=1.1, bar=1.15), Figure(name="images", value=3)]))
    figure  value  bar      result
    seam    1.1    <= 1.15  pass
    images  3
    """
    verdict = {True: "pass", False: "FAIL", None: ""}
    rows = [("figure", "value", "bar", "result")]
    for figure in figures:
        bar = "" if figure.bar is None else f"{figure.relation} {number(figure.bar)}"
        rows.append((figure.name, number(figure.value), bar, verdict[figure.passed]))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that all benchmarks share."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")


def finish(
    benchmark: str, figures: Sequence[Figure], path: Path | None = None, details: Mapping[str, Any] | None = None
) -> int:
    """Print the table, write JSON (benchmark, machine, figures, details) if `path`, and return the exit code.

    0 where every bar is met, else 1.
    """
    print(table(figures), flush=True)
    if path is not None:
        machine = {"processor": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
        values = [figure.to_dict() for figure in figures]
        report = {"benchmark": benchmark, "machine": machine, "figures": values, "details": dict(details or {})}
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if any(figure.passed is False for figure in figures) else 0


def size(text: str) -> tuple[int, int]:
    """(width, height) of "WxH", for argparse.

    >>> size("333x517")
    (333, 517)
    """
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) > 0 and int(height) > 0):
        raise argparse.ArgumentTypeError(f"Expected a size such as 512x512, but got {text!r}")
    return int(width), int(height)
