"""Batches: the rows of a manifest become result folders that are whole or absent, in any number of goes and shards."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from asd.errors import CheckpointError, OutputError, SizeError, ZelligeError
from materials.atomic import refused
from ui import jobs, memory
from ui.estimate import work
from ui.fingerprint import Weights, find_weights, fingerprint, made_of
from ui.jobs import Progress
from ui.locks import load_locks
from ui.manifest import ManifestError, Problem, Row
from ui.models import Models
from ui.presence import present
from ui.request import Request
from ui.results import (
    ROW_FILE,
    Record,
    append,
    is_whole,
    read_records,
    read_row,
    results_file,
    write_manifest,
)
from ui.row import Task, make_row
from ui.shards import WHOLE, Shard
from ui.sources import load_variation


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run of one shard will do: make `todo`, rows of one model together, and leave `kept` as it is."""

    out: Path
    rows: tuple[Row, ...]
    """All rows of the manifest, of other shards too."""
    shard: Shard
    todo: tuple[Task, ...]
    kept: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """Row `number`, from 1, of `rows` that are to be made; `done` of `total` pixels, rows with more steps weighted."""

    id: str
    number: int
    rows: int
    done: float
    total: float


@dataclass(kw_only=True)
class Summary:
    """What a run did so far."""

    plan: Plan
    made: list[Record] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Megapixels per second over the rows that were made, as `estimate` takes it; 0 without any."""
        made = {record.id for record in self.made}
        done = sum(work(task.row.request) for task in self.plan.todo if task.row.id in made)
        seconds = sum(record.seconds for record in self.made)
        return done / 1e6 / seconds if seconds > 0 else 0.0


Engine = Callable[[Plan, int, "Reporter"], Generator[tuple[Task, Record, bool]]]
"""Makes `todo` of a plan with so many retries: each task, in any order, with what `make_row` returned for it."""


class BatchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a batch: the rows of `summary` are whole, the rest is absent, and the same call goes on."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(f"{len(summary.made)} of {len(summary.plan.todo)} rows were made")
        self.summary = summary


def plan_batch(
    path: str | Path,
    rows: Iterable[Row],
    out: str | Path,
    *,
    shard: Shard = WHOLE,
    overwrite: bool = False,
    fetch: bool = True,
) -> Plan:
    """Find out what a run of `shard` has to do, and everything that would keep it from doing it. Nothing is written.

    A row is kept if its folder holds every file of a result with the same fingerprint. What another process of the
    batch makes meanwhile is noticed when its turn comes.

    Args:
        path: the manifest's name, for errors.
        rows: all rows of the manifest.
        out: the folder of the batch; each row gets a folder in it that is named like its id.
        shard: the part to make.
        overwrite: make rows anew that have changed since; without it they are faults.
        fetch: download models that are hub ids; without it rows of a model that is not there count as to do.

    Raises:
        ManifestError: with the faults of all rows of the shard: changed rows, folders in the way, locked images or
            models that cannot be read, sizes beyond the memory.
        OutputError: where `out` cannot be the folder of a batch.
    """
    out, rows = Path(out), tuple(rows)
    _check_folder(out)
    tasks: list[Task] = []
    kept: list[Task] = []
    problems: list[Problem] = []
    finder = _Finder(fetch)
    for place, row in enumerate(rows):
        if not shard.takes(place):
            continue
        try:
            weights = finder.weights(row.request.model)
            finder.check(row.request)
            parts = made_of(row.request, weights)
            told = fingerprint(parts)
            task = Task(row=row, folder=out / row.id, parts=parts, fingerprint=told, source=weights.source)
            (kept if _is_kept(task, overwrite) else tasks).append(task)
        except ZelligeError as error:
            problems.append(Problem(line=row.line, message=str(error).rstrip(".")))
    if problems:
        raise ManifestError(path, problems)
    first = {task.source: place for place, task in reversed(list(enumerate(tasks)))}
    todo = sorted(tasks, key=lambda task: first[task.source])
    return Plan(out=out, rows=rows, shard=shard, todo=tuple(todo), kept=tuple(kept))


def run_batch(
    plan: Plan,
    *,
    device: str = "auto",
    retries: int = 1,
    progress: Callable[[BatchProgress], None] | None = None,
    models: Models | None = None,
    engine: Engine | None = None,
) -> Summary:
    """Make the rows of the plan, one at a time; a row that fails is tried again, then listed, and the next one follows.

    Each result folder appears whole, with its record in `row.json`, and then a line in the results file of the shard.
    Neither order nor shard nor interruption changes a pixel: a row's seeds are its own, and rows are made one by one.

    Args:
        plan: of `plan_batch`.
        device: "auto" or a torch device; one pipeline per model is loaded on it, when its first row comes.
        retries: how often a row is tried again.
        progress: called after every denoising step and every row.
        models: those to use in place of loading them on `device`.
        engine: who makes the rows, in place of this process; then `device` and `models` are of no effect.

    Raises:
        ZelligeError: CheckpointError for a model that does not load, OutputError where `plan.out` cannot be written.
        BatchInterrupted: on Ctrl-C.
    """
    summary, started = Summary(plan=plan), time.perf_counter()
    lines = results_file(plan.out, plan.shard)
    with refused(plan.out):
        plan.out.mkdir(parents=True, exist_ok=True)
    try:
        with present(plan.out, {row.id for row in plan.rows}):
            write_manifest(plan.out, plan.rows)
            listed = {(record.id, record.fingerprint) for record in read_records(lines) if record.status == "done"}
            for task in plan.kept:
                _keep(_kept_record(task), summary, lines, listed)
            report = Reporter(plan, progress)
            make = engine or _one_by_one(Models(lambda name: jobs._load(name, device)) if models is None else models)
            with closing(make(plan, retries, report)) as results:
                for task, record, made_here in results:
                    if made_here:
                        append(lines, record)
                        (summary.made if record.status == "done" else summary.failed).append(record)
                    else:
                        _keep(record, summary, lines, listed)
                    report.finish(task)
    except KeyboardInterrupt as error:
        summary.seconds = time.perf_counter() - started
        raise BatchInterrupted(summary) from error
    summary.seconds = time.perf_counter() - started
    return summary


class _Finder:
    """What rows share, looked up once: models and locked images."""

    def __init__(self, fetch: bool) -> None:
        self.fetch = fetch
        self.models: dict[str | None, Weights | CheckpointError] = {}
        self.locks: dict[tuple[str, str, tuple[int, int]], ZelligeError | None] = {}
        self.images: dict[tuple[str, str | None], ZelligeError | None] = {}
        self.memory = memory.available_memory()

    def check_variation(self, request: Request) -> None:
        """Read the image and the mask of a variation, each pair once."""
        if request.kind == "material" and request.image is not None:
            key = (request.image, request.mask)
            if key not in self.images:
                try:
                    load_variation(request)
                    self.images[key] = None
                except ZelligeError as error:
                    self.images[key] = error
            if (found := self.images[key]) is not None:
                raise found

    def weights(self, model: str | None) -> Weights:
        if model not in self.models:
            try:
                self.models[model] = find_weights(model, fetch=self.fetch)
            except CheckpointError as error:
                self.models[model] = error
        found = self.models[model]
        if isinstance(found, CheckpointError):
            raise found
        return found

    def check(self, request: Request) -> None:
        needed, request = jobs.memory_needed(request), jobs.sized(request)
        if self.memory is not None and needed > self.memory:
            there, pixels = memory.human(self.memory), f"{request.size[0]}x{request.size[1]} pixels"
            raise SizeError(f"Expected a size that fits the {there} of free memory, "
                            f"but {pixels} takes about {memory.human(needed)}")  # fmt: skip
        self.check_variation(request)
        for name, value in request.lock:
            if isinstance(value, str) and not value.startswith("#"):
                key = (name, value, request.size)
                if key not in self.locks:
                    self.locks[key] = _lock_error(dataclasses.replace(request, lock=((name, value),)))
                if (error := self.locks[key]) is not None:
                    raise error


def _lock_error(request: Request) -> ZelligeError | None:
    try:
        load_locks(request)
    except ZelligeError as error:
        return error
    except ValueError:  # a character that no file name can have
        name, path = request.lock[0]
        return ZelligeError(f"Expected the locked {name} to be the path of an image, but got {path!r}")
    return None


def _check_folder(out: Path) -> None:
    with refused(out):
        nearest = next(folder for folder in [out, *out.resolve().parents] if folder.exists())
        if not nearest.is_dir():
            raise OutputError(f"Expected an output folder, but got the file {nearest}")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(f"Expected a folder that can be written, but got {nearest}")


def _is_kept(task: Task, overwrite: bool) -> bool:
    """Whether the row is there already; raises OutputError where what is there must not be replaced."""
    folder = task.folder
    with refused(folder):
        if folder.is_symlink() or os.path.ismount(folder) or (folder.exists() and not folder.is_dir()):
            raise OutputError(f"Expected {folder} to be absent or a row's folder, but it is a file, a link or a disk")
        found_files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(folder).as_posix() for path in found_files}
    if not names:
        return False
    found = read_row(folder)
    if found is None:
        raise OutputError(f"Expected {folder} to be absent or a row's result, but it holds {min(names)!r} "
                          f"and no readable {ROW_FILE}")  # fmt: skip
    record, parts = found
    # a part that is not known yet, the weights of a model before its download, differs from nothing
    changed = [key for key, value in task.parts.items() if value is not None or key != "weights"]
    changed = [key for key in changed if parts.get(key) != task.parts[key]]
    if not changed and is_whole(folder, record):
        return True
    if changed and not overwrite:
        raise OutputError(f"Expected the row to be as it was when {folder} was made, but it has another "
                          f"{' and '.join(changed)} (--overwrite makes it anew)")  # fmt: skip
    if foreign := sorted(names - {ROW_FILE, *record.files}):
        raise OutputError(f"Expected {folder} to hold a row's result and nothing else, but it holds {foreign[0]!r}")
    return False


def _kept_record(task: Task) -> Record:
    found = read_row(task.folder)
    if found is None:
        raise OutputError(f"Expected the result in {task.folder} to stay while the batch runs, but it is gone")
    return found[0]


def _keep(record: Record, summary: Summary, lines: Path, listed: set[tuple[str, str]]) -> None:
    """Count a row as kept; its line may be missing, if the run that made it was killed or was of another shard."""
    summary.kept.append(record)
    if (record.id, record.fingerprint) not in listed:
        append(lines, record)


def _one_by_one(load: Models) -> Engine:
    """The engine of this process."""

    def make(plan: Plan, retries: int, report: Reporter) -> Generator[tuple[Task, Record, bool]]:
        for task in plan.todo:
            report.start(task)
            yield task, *make_row(task, lambda source=task.source: load(source), retries=retries, progress=report)

    return make


class Reporter:
    """Turns rows, and the steps of the one that is being made, into the progress of a batch."""

    def __init__(self, plan: Plan, progress: Callable[[BatchProgress], None] | None) -> None:
        self.progress = progress
        self.rows = len(plan.todo)
        self.total = sum(work(task.row.request) for task in plan.todo)
        self.number, self.done, self.work, self.id = 0, 0.0, 0.0, ""

    def start(self, task: Task) -> None:
        """The next steps are those of this task."""
        self.number, self.work, self.id = self.number + 1, work(task.row.request), task.row.id

    def __call__(self, step: Progress) -> None:
        self._tell(self.done + self.work * (step.sample + step.step / step.steps) / step.count)

    def finish(self, task: Task) -> None:
        """The task is done."""
        self.done += work(task.row.request)
        self._tell(self.done)

    def _tell(self, done: float) -> None:
        if self.progress is not None:
            self.progress(BatchProgress(id=self.id, number=self.number, rows=self.rows, done=done, total=self.total))
