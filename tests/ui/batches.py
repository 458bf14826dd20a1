"""Rows, and what a test of batches asks of the folder they become."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ui.batch import Summary, plan_batch, run_batch
from ui.manifest import ManifestError, Row
from ui.presence import LOCK_FILE
from ui.request import Request
from ui.results import ROW_FILE, Record
from ui.shards import WHOLE, Shard


def rows(number: int = 4, **options: Any) -> list[Row]:
    made = []
    for index in range(number):
        request = Request(**({"prompt": f"oak {index}", "size": (8 + index, 8), "seed": index, "steps": 2} | options))
        made.append(Row(id=f"r{index}", request=request, line=index + 1))
    return made


def go(given: list[Row], out: Path, shard: Shard = WHOLE, retries: int = 0, **options: Any) -> Summary:
    return run_batch(plan_batch("m.jsonl", given, out, shard=shard, **options), retries=retries)


def problems(given: list[Row], out: Path, **options: Any) -> list[tuple[int, str]]:
    with pytest.raises(ManifestError) as caught:
        plan_batch("m.jsonl", given, out, **options)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def pixels(out: Path) -> dict[str, str]:
    """The hash of every file that a row's request decides."""
    files = [path for path in out.rglob("*") if path.is_file() and path.parent != out and path.name != ROW_FILE]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def hidden(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name != LOCK_FILE]


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records]
