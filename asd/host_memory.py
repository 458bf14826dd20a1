"""Memory that the host has left."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> int | None:
    """Bytes that a new process can fill without swapping, within its control group; None where nothing tells."""
    found = [_meminfo_available(), _cgroup_available()]
    known = [value for value in found if value is not None]
    if known:
        return min(known)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # macOS: all there is
    except (AttributeError, OSError, ValueError):
        return None


def _meminfo_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _cgroup_available() -> int | None:
    """Control groups v2: containers see the host's memory in /proc/meminfo but are killed at their own limit."""
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        # not memory.current, which counts the page cache that the kernel gives back when asked
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith("anon "):
                return limit - int(line.split()[1])
    except (OSError, ValueError):  # not Linux, version 1, or "max"
        pass
    return None
