"""`Settings`: what a server may do and how much of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from asd.errors import ZelligeError
from ui.address import is_loopback

SHIPPED = "zellige"
"""The name by which requests ask for the model inside the package."""
MIN_TOKEN = 16
"""Characters. Shorter ones can be guessed at the rate of the limiter."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and places of a server. Raises ZelligeError for values out of range.

    Without a `token` everybody who reaches `host` may use the server, so that `host` has to be this machine then.
    """

    host: str = "127.0.0.1"
    out: Path = Path("jobs")
    """Folder of the jobs, see `ui.job_store`."""
    token: str | None = None
    """What clients send as `Authorization: Bearer TOKEN`, or as the password of a browser's log-in."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Names that requests may give besides "zellige", and the folder or hub id of each."""
    device: str = "auto"
    max_queue: int = 32
    """Jobs that may wait."""
    max_pixels: int = 2048 * 2048
    """Width times height of an image, made or scored."""
    max_count: int = 16
    """Samples of a job."""
    max_steps: int = 100
    max_body: int = 32 * 2**20
    """Bytes of an upload; other bodies may have 256 KiB."""
    max_files: int = 64
    """Images in one request for scores."""
    max_scores: int = 12
    """Requests for scores that are read or wait at a time."""
    score_workers: int = min(4, os.cpu_count() or 1)
    """Processes that decode and score."""
    rate: float = 100.0
    """Requests per second of one client; bursts may have twice as many."""
    body_seconds: float = 30.0
    """Within which a body has to arrive."""
    score_seconds: float = 60.0
    """After which the process that scores one image is ended."""
    keep: int = 200
    """Finished jobs that are kept."""
    keep_bytes: int = 10 * 10**9
    """Bytes of results that are kept."""
    max_streams: int = 200
    """Clients that may follow events at a time."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            whole, number = each.type == "int", each.type == "float"
            if (whole or number) and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
                raise ZelligeError(f"Expected {each.name} to be above 0, but got {value!r}")
            if whole and not isinstance(value, int):
                raise ZelligeError(f"Expected {each.name} to be a whole number, but got {value!r}")
        if self.token is not None:
            plain = self.token.isascii() and self.token.isprintable() and " " not in self.token
            if not plain or len(self.token) < MIN_TOKEN:
                raise ZelligeError(f"Expected a token of at least {MIN_TOKEN} ASCII characters without spaces, "
                                   f"but got {len(self.token)} characters")  # fmt: skip
        elif not is_loopback(self.host):
            raise ZelligeError(f"Expected a token to serve on {self.host[:80]}, which other machines reach, "
                               "but got none (ZELLIGE_TOKEN or --token)")  # fmt: skip
        for name, source in self.models.items():
            good = 1 <= len(name) <= 64 and name.isascii() and all(c.isalnum() or c in "-_." for c in name)
            if not good or name == SHIPPED or not source:
                raise ZelligeError("Expected models as NAME=PATH_OR_ID with letters, digits, dots and dashes in NAME, "
                                   f"but got {f'{name}={source}'[:120]!r}")  # fmt: skip
