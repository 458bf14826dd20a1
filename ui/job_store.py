"""The folder that a server keeps its jobs in: a record and a result per finished job, the oldest evicted."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from asd.errors import OutputError, ZelligeError
from materials.atomic import make_folder, refused
from ui.request import Request
from ui.results import _is_inside, write_whole

log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "cancelled"]
ACTIVE: tuple[State, ...] = ("queued", "running")

LOCK_FILE = ".serve.lock"
ID = re.compile(r"[0-9a-f]{32}")
_RECORD = re.compile(r"([0-9a-f]{32})\.json")
_BEGUN = re.compile(r"\.[0-9a-f]{32}(\.json)?\.[0-9]+-[0-9a-f]{8}\.(tmp|old)")
"""What `staged` and `write_whole` call what they have not finished."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One state of a job. Times are seconds since the epoch; `version` grows with every change."""

    id: str
    request: Request
    state: State = "queued"
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    sample: int = 0
    step: int = 0
    steps: int = 0
    error: str | None = None
    files: dict[str, int] = field(default_factory=dict)
    """Names inside the result folder, with `/` between, to sizes in bytes."""
    version: int = 0

    @property
    def active(self) -> bool:
        """Whether it may still change."""
        return self.state in ACTIVE

    def to_record(self) -> dict[str, Any]:
        """What `from_record` reads."""
        names = ("id", "state", "created", "started", "finished", "sample", "step", "steps", "error", "files")
        return {name: getattr(self, name) for name in names} | {"request": self.request.to_dict()}

    @classmethod
    def from_record(cls, values: Any) -> Job:
        """Read what `to_record` writes of a finished job; raises ValueError for anything else."""
        try:
            job = cls(**(values | {"request": Request.from_dict(values["request"])}))
            good = (
                bool(ID.fullmatch(job.id)) and job.state in get_args(State) and not job.active
                and isinstance(job.created, int | float) and isinstance(job.finished, int | float)
                and isinstance(job.started, int | float | None) and isinstance(job.error, str | None)
                and all(isinstance(value, int) for value in (job.sample, job.step, job.steps))
                and all(_is_inside(name) and isinstance(size, int) for name, size in job.files.items())
            )  # fmt: skip
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no record: {error}") from error
        if not good:
            raise ValueError("no record: a value of another type")
        return job


class JobStore:
    """Finished jobs in a folder: `ID.json` beside the result `ID/`. At most `keep` of them and `keep_bytes` of results.

    The newest is kept whatever its size. Only one store may have the folder at a time; what a killed one left
    half-made in it is removed, and nothing else in it is touched.

    Raises:
        OutputError: where the folder cannot be made or written, or another process has it.
        ZelligeError: for limits below 1.
    """

    def __init__(self, folder: str | Path, *, keep: int = 200, keep_bytes: int = 10 * 10**9) -> None:
        for name, value in (("keep", keep), ("keep_bytes", keep_bytes)):
            if value < 1:
                raise ZelligeError(f"Expected {name} to be at least 1, but got {value}")
        self.root = Path(folder).resolve()
        self.keep, self.keep_bytes = keep, keep_bytes
        make_folder(self.root)
        self._lock = _take(self.root / LOCK_FILE)
        self._changing = threading.RLock()
        self._bytes: dict[str, int] = {}
        """Ids of finished jobs to bytes of their results, oldest first."""

    def load(self) -> list[Job]:
        """The finished jobs of earlier runs, oldest first; clears what a killed run left."""
        found: list[Job] = []
        with refused(self.root):
            entries = sorted(os.scandir(self.root), key=lambda entry: entry.name)
        for entry in entries:
            if _BEGUN.fullmatch(entry.name):
                _remove(Path(entry.path))
            elif match := _RECORD.fullmatch(entry.name):
                job = _read(Path(entry.path)) if entry.is_file(follow_symlinks=False) else None
                if job is not None and job.id == match[1]:
                    found.append(job)
        known = {job.id for job in found}
        for entry in entries:
            if ID.fullmatch(entry.name) and entry.name not in known:
                _remove(Path(entry.path))
        found.sort(key=lambda job: (job.finished or 0.0, job.id))
        self._bytes = {job.id: sum(job.files.values()) for job in found}
        gone = set(self._evict())
        return [job for job in found if job.id not in gone]

    def folder(self, id: str) -> Path:
        """Where the result of a job goes. Raises ZelligeError for what is no id."""
        if not ID.fullmatch(id):
            raise ZelligeError(f"Expected a job's id, but got {id[:80]!r}")
        return self.root / id

    def finish(self, job: Job) -> tuple[Job, list[str]]:
        """Keep a finished job: it with the files of its result, and the ids that went for it."""
        folder = self.folder(job.id)
        with self._changing:
            if job.state == "done":
                paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
                job = replace(job, files={path.relative_to(folder).as_posix(): path.stat().st_size for path in paths})
            else:
                _remove(folder)
            text = json.dumps(job.to_record(), ensure_ascii=False).encode("utf-8", "backslashreplace")
            write_whole(self.root / f"{job.id}.json", text)
            self._bytes[job.id] = sum(job.files.values())
            return job, self._evict()

    def forget(self, id: str) -> None:
        """Delete the record and the result of a job."""
        folder = self.folder(id)
        with self._changing:
            self._bytes.pop(id, None)
            # the record first: a result without one is removed at the next start
            folder.with_suffix(".json").unlink(missing_ok=True)
            _remove(folder)

    def open(self, job: Job, name: str) -> int:
        """A descriptor of a file of the result, for reading; raises FileNotFoundError for any other name.

        Links are never followed: neither the file nor a folder on the way to it may have become one.
        """
        if name not in job.files:
            raise FileNotFoundError(name)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        path = self.folder(job.id) / name
        try:
            if path.resolve(strict=True) != path:
                raise FileNotFoundError(name)
            handle = os.open(path, flags)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise FileNotFoundError(name) from error
        if not os.path.isfile(handle):
            os.close(handle)
            raise FileNotFoundError(name)
        return handle

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _evict(self) -> list[str]:
        gone = []
        while len(self._bytes) > self.keep or (len(self._bytes) > 1 and sum(self._bytes.values()) > self.keep_bytes):
            oldest = next(iter(self._bytes))
            self.forget(oldest)
            gone.append(oldest)
        return gone


def _take(path: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # Windows: nobody can tell whether another process has the folder
        return None
    with refused(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OutputError(f"Expected a folder that no other server uses, but got {path.parent}") from error
    except OSError:  # a file system without locks
        pass
    return handle


def _read(path: Path) -> Job | None:
    try:
        return Job.from_record(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s is no record of a job and is left out: %s", path, error)
        return None


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def opened(store: JobStore, job: Job, name: str) -> Iterator[Any]:
    """`JobStore.open` as a binary file object that is closed at the end."""
    with os.fdopen(store.open(job, name), "rb") as handle:
        with suppress(OSError):
            os.set_blocking(handle.fileno(), True)
        yield handle
