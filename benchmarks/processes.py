"""Processes and what they take, from /proc (Linux)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Of one process: resident bytes, threads, open files."""

    resident: int
    threads: int
    files: int


def descendants(process: int) -> list[int]:
    """A process and all that it started, directly or not, oldest first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = int(_fields(path)["PPid"])
        except (OSError, KeyError):  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [process]
    for number in found:
        found += children.get(number, [])
    return found


def resident(process: int) -> int:
    """Resident bytes of a process and all that it started."""
    total = 0
    for number in descendants(process):
        try:
            total += _kilobytes(_fields(Path(f"/proc/{number}/status")))
        except OSError:
            continue
    return total


def usage(process: int | None = None) -> Usage:
    """What a process takes, by default this one, without what it started."""
    folder = Path("/proc/self" if process is None else f"/proc/{process}")
    fields = _fields(folder / "status")
    return Usage(resident=_kilobytes(fields), threads=int(fields["Threads"]), files=len(os.listdir(folder / "fd")))


def _fields(path: Path) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)


def _kilobytes(fields: dict[str, str]) -> int:
    return int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
