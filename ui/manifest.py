"""Manifests: one `Request` per row, from JSON lines, CSV or YAML, with every fault found before anything runs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asd.errors import ZelligeError
from ui.request import Request

MAX_BYTES = 2**28
"""Of a manifest: about a million rows."""
MAX_DIGITS = 40
"""Of a number. Far more than any field takes; reading a number takes time in the square of its digits."""
MAX_ID = 100
"""Characters of an id, so that the hidden folder made on the way to a result has a name that file systems take."""

_ID = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_ID - 1}}}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = {"null": None, "true": True, "false": False}
_LOCK = "lock."
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a manifest: `id` is also the name of its result folder, `line` where it starts, from 1."""

    id: str
    request: Request
    line: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One fault: its line, from 1, and a sentence."""

    line: int
    message: str


class ManifestError(ZelligeError):
    """A manifest with faults: `problems` has all of them, in order of their lines."""

    def __init__(self, path: str | Path, problems: list[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        first, others = self.problems[0], len(problems) - 1
        more = f" (and {others} more)" if others else ""
        super().__init__(f"{path}, line {first.line}: {first.message}{more}")


class _RowError(Exception):
    """A fault of one row."""


class _FileError(Exception):
    """A fault after which the rest cannot be read."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_manifest(path: str | Path) -> tuple[Row, ...]:
    """Read the rows of a manifest in order; the end of its name says which kind it is.

    `.jsonl` or `.ndjson`: a JSON object per line. `.csv`: a header with the names of the fields, an empty cell for a
    default, and columns such as `lock.roughness`. `.yaml` or `.yml`: a list of mappings; a scalar without quotes is
    what it would be in JSON, else text. Every row has an `id` and the fields of `Request`.

    Raises:
        ManifestError: for rows with faults, all of them at once: no JSON, unknown or repeated keys, values out of
            range, ids that are no safe names of folders on every system or not unique, upper and lower case alike.
        ZelligeError: for a file that cannot be read or is not of one of these kinds.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ZelligeError(f"Expected a manifest that ends in {', '.join(_READERS)}, but got {path}")
    data = _bytes(path)
    problems: list[Problem] = []
    rows: list[Row] = []
    seen: dict[str, int] = {}
    try:
        for line, found in reader(data):
            faults = [str(found)] if isinstance(found, _RowError) else _read_row(line, found, seen, rows)
            problems += [Problem(line=line, message=fault) for fault in faults]
    except _FileError as fault:
        problems.append(Problem(line=fault.line, message=str(fault)))
    if not rows and not problems:
        problems.append(Problem(line=1, message="Expected at least one row, but got none"))
    if problems:
        raise ManifestError(path, problems)
    return tuple(rows)


def manifest_line(row: Row) -> str:
    """The row as a line of JSON with every field; `read_manifest` gives an equal one back."""
    return json.dumps({"id": row.id, **row.request.to_dict()}, ensure_ascii=False)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise ZelligeError(f"Expected a manifest, but {path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise ZelligeError(f"Expected a manifest of at most {MAX_BYTES} bytes, but {path} has more")
    return data.removeprefix(b"\xef\xbb\xbf")  # what Windows editors put first


def _read_row(line: int, found: Mapping[str, Any], seen: dict[str, int], rows: list[Row]) -> list[str]:
    """Add a row to `rows`, or return its faults."""
    values = dict(found)
    faults, name = [], values.pop("id", None)
    try:
        _check_id(name)
        _check_unique(name, line, seen)
    except _RowError as fault:
        faults.append(str(fault))
    try:
        request = Request.from_dict(values)
    except ZelligeError as error:
        return [*faults, str(error)]
    if not faults:
        rows.append(Row(id=name, request=request, line=line))
    return faults


def _check_id(name: object) -> None:
    if name is None:
        raise _RowError("Expected the key 'id', but got none")
    shown = _short(name)
    if not isinstance(name, str):
        raise _RowError(f"Expected id to be text, but got {shown}")
    if not _ID.fullmatch(name) or name.endswith("."):
        raise _RowError(f"Expected id to be 1 to {MAX_ID} letters a-z, digits, dots, dashes and underscores, "
                     f"no dot at either end and no dash first, but got {shown}")  # fmt: skip
    lower = name.lower()
    if _DEVICES.fullmatch(lower):
        raise _RowError(f"Expected id to name a folder on every system, but {shown} is a device on Windows")
    if lower.endswith(".jsonl"):
        raise _RowError(f"Expected id to name a folder, but {shown} ends in .jsonl as the batch's own files do")


def _check_unique(name: str, line: int, seen: dict[str, int]) -> None:
    first = seen.setdefault(name.lower(), line)
    if first != line:
        raise _RowError(f"Expected ids to differ in more than upper and lower case, "
                     f"but {name!r} is there since line {first}")  # fmt: skip


_Found = Iterator[tuple[int, Mapping[str, Any] | _RowError]]


def _json_rows(data: bytes) -> _Found:
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, _json_row(line)
        except _RowError as fault:
            yield number, fault


def _json_row(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(
            line.decode(), object_pairs_hook=_object, parse_constant=_constant, parse_int=_int, parse_float=_float
        )
    except UnicodeDecodeError as error:
        raise _RowError(f"Expected UTF-8, but got the byte {line[error.start]:#04x}") from error
    except json.JSONDecodeError as error:
        raise _RowError(f"Expected a JSON object, but column {error.colno} is wrong: {error.msg}") from error
    except RecursionError as error:
        raise _RowError("Expected plain values, but got lists hundreds of levels deep") from error
    if not isinstance(value, dict):
        raise _RowError(f"Expected a JSON object, but got {_short(value)}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _RowError(f"Expected each key once, but got {_short(key)} twice")
        made[key] = value
    return made


def _constant(text: str) -> float:
    raise _RowError(f"Expected numbers that JSON has, but got {text}")


def _int(text: str) -> int:
    return int(_checked(text))


def _float(text: str) -> float:
    return float(_checked(text))


def _checked(text: str) -> str:
    if len(text) > MAX_DIGITS:
        raise _RowError(f"Expected numbers of at most {MAX_DIGITS} digits, but got one of {len(text)}")
    return text


def _csv_rows(data: bytes) -> _Found:
    lines = csv.reader(io.StringIO(_text(data), newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in lines:
            line, start = start, lines.line_num + 1
            if not any(cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if twice := sorted({name for name in header if header.count(name) > 1}):
                    raise _FileError(line, f"Expected each column once, but got {_short(twice[0])} twice")
                continue
            try:
                yield line, _csv_row(header, cells)
            except _RowError as fault:
                yield line, fault
    except csv.Error as error:
        # what follows a broken quote cannot be told apart
        raise _FileError(start, f"Expected CSV, but from here on it is not: {error}") from error


def _csv_row(header: list[str], cells: list[str]) -> Mapping[str, Any]:
    if len(cells) != len(header):
        raise _RowError(f"Expected {len(header)} cells as in the header, but got {len(cells)}")
    values: dict[str, Any] = {}
    locks: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=True):
        if cell == "":
            continue
        if name.startswith(_LOCK):
            locks[name.removeprefix(_LOCK)] = _number(cell)
        elif name == "strip_metadata":  # spreadsheets write TRUE
            values[name] = {"true": True, "false": False}.get(cell.lower(), cell)
        else:
            values[name] = cell if name in ("id", "prompt", "image", "mask", "model", "lora") else _number(cell)
    if "lock" in values:
        raise _RowError("Expected columns such as lock.roughness, but got a column lock")
    return values | {"lock": locks} if locks else values


def _number(text: str) -> Any:
    """The number that `text` is in JSON, or `text`."""
    if not (match := _NUMBER.fullmatch(text)):
        return text
    return _float(text) if match[2] or match[3] else _int(text)


def _yaml_rows(data: bytes) -> _Found:
    import yaml

    text = _text(data)
    try:
        documents = [node for node in yaml.compose_all(text, yaml.BaseLoader) if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise _FileError(
            mark.line + 1 if mark else 1, f"Expected YAML, but from here on it is not: {reason}"
        ) from error
    except yaml.YAMLError as error:
        raise _FileError(1, f"Expected YAML, but got none: {' '.join(str(error).split())[:200]}") from error
    except RecursionError as error:
        raise _FileError(1, "Expected plain values, but got lists hundreds of levels deep") from error
    if len(documents) > 1:
        raise _FileError(documents[1].start_mark.line + 1, "Expected one YAML list of rows, but got a second document")
    if documents and not isinstance(documents[0], yaml.SequenceNode):
        raise _FileError(documents[0].start_mark.line + 1, "Expected a YAML list of rows (- id: r1), but got none")
    seen: set[int] = set()
    for node in documents[0].value if documents else ():
        try:
            value = _yaml_value(node, seen)
            if not isinstance(value, dict):
                raise _RowError(f"Expected a mapping such as {{id: r1, prompt: oak}}, but got {_short(value)}")
            yield node.start_mark.line + 1, value
        except _RowError as fault:
            yield node.start_mark.line + 1, fault


def _yaml_value(node: Any, seen: set[int]) -> Any:
    if id(node) in seen:
        raise _RowError("Expected every value in full, but got an alias (*), a page of which can stand for gigabytes")
    seen.add(id(node))
    if node.tag != {"scalar": _TAG + "str", "sequence": _TAG + "seq", "mapping": _TAG + "map"}[node.id]:
        raise _RowError(f"Expected plain values, but got the tag {_short(node.tag)}")
    if node.id == "sequence":
        return [_yaml_value(item, seen) for item in node.value]
    if node.id == "mapping":
        pairs = [(_yaml_value(key, seen), _yaml_value(value, seen)) for key, value in node.value]
        for key, _ in pairs:
            if not isinstance(key, str):
                raise _RowError(f"Expected keys to be text, but got {_short(key)}")
        return _object(pairs)
    if node.style is not None:  # quoted
        return node.value
    return _WORDS[node.value] if node.value in _WORDS else _number(node.value)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _FileError(line, f"Expected UTF-8, but got the byte {data[error.start]:#04x}") from error


def _short(value: object) -> str:
    """`repr`, cut where a pasted file would fill the screen."""
    try:
        text = repr(value)
    except RecursionError:
        text = "lists hundreds of levels deep"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


_READERS: dict[str, Callable[[bytes], _Found]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".yaml": _yaml_rows,
    ".yml": _yaml_rows,
}
