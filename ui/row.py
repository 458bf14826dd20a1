"""One row of a batch becomes a result folder that is whole or absent; every engine makes its rows here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asd.errors import OutputError, ZelligeError
from materials.atomic import refused, staged
from ui.enlarging import in_one_step
from ui.jobs import Pipeline, Progress, run_job
from ui.manifest import Row
from ui.results import Record, hash_files, is_whole, read_row, sync_folder, write_row

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A row with where its result goes and what decides it."""

    row: Row
    folder: Path
    parts: Mapping[str, Any]
    fingerprint: str
    source: str | None
    """What to load: a folder, or None for the shipped model."""


def whole_record(task: Task) -> Record | None:
    """The record of a result that is there by now, from another process; None if there is none."""
    found = read_row(task.folder)
    if found is None or found[0].fingerprint != task.fingerprint or not is_whole(task.folder, found[0]):
        return None
    return found[0]


def make_row(
    task: Task,
    pipeline: Callable[[], Pipeline],
    *,
    retries: int = 0,
    attempt: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Record, bool]:
    """Make one row, and try again where that fails.

    Args:
        task: the row.
        pipeline: called for the loaded model of the row, unless the row is there already or needs none
            (`ui.enlarging.in_one_step`); what it raises is raised.
        retries: how often a row that fails is tried again.
        attempt: the number of the first try, from 1; more where earlier ones ended with their process.
        progress: called after every denoising step.

    Returns:
        The record, "done" or "failed", and whether it was made here: False where another process has made it.
    """
    started, last = time.perf_counter(), attempt + retries
    while (found := whole_record(task)) is None:
        loaded = None if in_one_step(task.row.request) else pipeline()
        try:
            return _attempt(task, loaded, attempt, progress), True
        except _MadeMeanwhile:
            continue
        except Exception as error:  # whatever it is, the other rows go on
            told = str(error) if isinstance(error, ZelligeError) else f"{type(error).__name__}: {error}"
            log.info("line %d, %s, attempt %d: %s", task.row.line, task.row.id, attempt, told, exc_info=True)
        if attempt >= last and whole_record(task) is None:
            return failed(task, told, attempt=attempt, seconds=time.perf_counter() - started), True
        attempt += 1
    return found, False


def failed(task: Task, told: str, *, attempt: int, seconds: float = 0.0) -> Record:
    """The record of a row that could not be made in `attempt` tries, for the reason that `told` says."""
    return Record(
        id=task.row.id,
        status="failed",
        fingerprint=task.fingerprint,
        seconds=round(seconds, 3),
        attempt=attempt,
        error=" ".join(told.split())[:1000].rstrip("."),
    )


class _MadeMeanwhile(Exception):  # noqa: N818 - no error
    """Another process was faster with the same row."""


def _attempt(
    task: Task, pipeline: Pipeline | None, attempt: int, progress: Callable[[Progress], None] | None
) -> Record:
    started = time.perf_counter()
    with staged(task.folder) as stage:
        try:
            run_job(task.row.request, stage, pipeline, progress)
        except OutputError as error:
            raise OutputError(str(error).replace(str(stage), str(task.folder))) from error
        with refused(task.folder):
            files = hash_files(stage)
        seconds = round(time.perf_counter() - started, 3)
        record = Record(
            id=task.row.id, status="done", fingerprint=task.fingerprint, files=files, seconds=seconds, attempt=attempt
        )
        write_row(stage, record, task.parts)
        if whole_record(task) is not None:
            raise _MadeMeanwhile  # which leaves that one where it is
    sync_folder(task.folder.parent)
    return record
