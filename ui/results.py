"""What became of each row: a line per row in one file per shard, a record inside each result, merging, verifying."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from asd.errors import OutputError, ZelligeError
from materials.atomic import refused
from ui.fingerprint import digest
from ui.manifest import Row, manifest_line, read_manifest
from ui.shards import Shard

log = logging.getLogger(__name__)

ROW_FILE = "row.json"
"""In each result folder: its record and what it was made of."""
MANIFEST_FILE = "manifest.jsonl"
"""In the batch's folder: all rows, in order."""
MERGED_FILE = "results.jsonl"

Status = Literal["done", "failed", "missing"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one row. `files` maps names inside the row's folder to SHA-256; `attempt` counts from 1."""

    id: str
    status: Status
    fingerprint: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    attempt: int = 0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `error` only where there is one."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["files"] = dict(self.files)
        return values if self.error is not None else {key: value for key, value in values.items() if key != "error"}

    @classmethod
    def from_dict(cls, values: Any) -> Record:
        """Read what `to_dict` writes, with other keys beside; raises ValueError for anything else."""
        try:
            made = cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})
            good = (
                isinstance(made.id, str) and made.status in get_args(Status) and isinstance(made.fingerprint, str)
                and all(_is_inside(name) and isinstance(value, str) for name, value in made.files.items())
                and isinstance(made.seconds, int | float) and isinstance(made.attempt, int)
                and isinstance(made.error, str | None)
            )  # fmt: skip
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no record: {error}") from error
        if not good:
            raise ValueError("no record: a value of another type")
        return made


def results_file(out: Path, shard: Shard) -> Path:
    """Where the lines of a shard go."""
    return out / f"results-{shard.index:04d}-of-{shard.count:04d}.jsonl"


def append(path: Path, record: Record) -> None:
    """Add a line to a results file, whole and on the disk; raises OutputError where the system refuses."""
    line = _line(record)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with refused(path):
        handle = os.open(path, flags, 0o666)
        try:
            end = os.lseek(handle, 0, os.SEEK_END)
            if end:
                os.lseek(handle, end - 1, os.SEEK_SET)
                if os.read(handle, 1) != b"\n":  # the machine went down in the middle of a line
                    line = b"\n" + line
            if os.write(handle, line) != len(line):
                raise OSError("no space for a line")
            os.fsync(handle)
        finally:
            os.close(handle)


def read_records(path: Path) -> list[Record]:
    """The records of a results file in order; a torn line is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"Expected to read {path}, but the system refused: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records.append(Record.from_dict(json.loads(line)))
            except (ValueError, RecursionError):
                log.warning("%s, line %d is no result and is left out", path, number)
    return records


def read_row(folder: Path) -> tuple[Record, dict[str, Any]] | None:
    """The record of a result folder and what it was made of; None where there is no readable one."""
    try:
        values = json.loads((folder / ROW_FILE).read_bytes())
        record = Record.from_dict(values)
        parts = values["made_of"]
    except (OSError, ValueError, KeyError, RecursionError):
        return None
    return (record, parts) if isinstance(parts, dict) and record.id.lower() == folder.name.lower() else None


def is_whole(folder: Path, record: Record) -> bool:
    """Whether every file of the record is there; `verify` also reads them."""
    return record.status == "done" and all((folder / name).is_file() for name in record.files)


def write_row(folder: Path, record: Record, parts: Mapping[str, Any]) -> None:
    """Put the record into a result folder."""
    text = json.dumps(record.to_dict() | {"made_of": dict(parts)}, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / ROW_FILE, text.encode())


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` by its name there, sorted; each is on the disk when this returns."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb+") as handle:  # Windows syncs only what may be written
                os.fsync(handle.fileno())
            found[path.relative_to(folder).as_posix()] = digest(path)
    return found


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk, on systems that know how."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_manifest(out: Path, rows: Iterable[Row]) -> None:
    """Keep the rows in `out`, for `merge` and `verify`."""
    data = "".join(manifest_line(row) + "\n" for row in rows).encode()
    path = out / MANIFEST_FILE
    with suppress(OSError):
        if path.read_bytes() == data:
            return
    write_whole(path, data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole. Its temporary name is random: processes on several hosts can share a number."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with refused(path):
        try:
            with open(beside, "xb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def merge(out: str | Path) -> tuple[Record, ...]:
    """Write `out`/results.jsonl: one line per row, in the order of the manifest, from whatever shards have run.

    A row whose result is whole is "done"; else its last failure counts; else it is "missing". Raises ZelligeError for a
    folder without a batch.
    """
    out = Path(out)
    rows = _rows(out)
    lines = _lines(out)
    records = []
    for row in rows:
        found = read_row(out / row.id)
        if found is not None and is_whole(out / row.id, found[0]):
            records.append(found[0])
        else:
            failures = [record for record in lines.get(row.id, []) if record.status == "failed"]
            records.append(failures[-1] if failures else Record(id=row.id, status="missing"))
    write_whole(out / MERGED_FILE, b"".join(map(_line, records)))
    return tuple(records)


def verify(out: str | Path) -> dict[str, str]:
    """Hash every file of every row again: the ids of rows that are not as they were made, and what is wrong.

    What a shard's results file says counts, and only without a line there what the result folder says of itself.
    """
    out = Path(out)
    lines = _lines(out)
    wrong = {}
    for row in _rows(out):
        fault = _fault(out / row.id, lines.get(row.id, []))
        if fault is not None:
            wrong[row.id] = fault
    return wrong


def _fault(folder: Path, lines: list[Record]) -> str | None:
    found = read_row(folder)
    if found is None:
        return f"{folder} has no result" if not folder.exists() else f"{folder} has no readable {ROW_FILE}"
    record = found[0]
    told = [line for line in lines if line.status == "done" and line.fingerprint == record.fingerprint]
    if told and not any(line.files == record.files for line in told):
        return f"{folder / ROW_FILE} differs from the line in the results file"
    for name, expected in record.files.items():
        try:
            if digest(folder / name) != expected:
                return f"{folder / name} is not the file that was written"
        except OSError as error:
            return f"{folder / name} cannot be read: {error.strerror}"
    return None


def _line(record: Record) -> bytes:
    # an error may quote a file name that is no UTF-8
    return json.dumps(record.to_dict(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _rows(out: Path) -> tuple[Row, ...]:
    if not (out / MANIFEST_FILE).is_file():
        raise ZelligeError(f"Expected the folder of a batch, but {out} has no {MANIFEST_FILE}")
    return read_manifest(out / MANIFEST_FILE)


def _lines(out: Path) -> dict[str, list[Record]]:
    lines: dict[str, list[Record]] = {}
    for path in sorted(out.glob("results-[0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9].jsonl")):
        for record in read_records(path):
            lines.setdefault(record.id, []).append(record)
    return lines


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or name.startswith("/") or {"\\", "\0"} & {*name}:
        return False
    return ".." not in PurePosixPath(name).parts
