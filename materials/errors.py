"""The errors of `asd.errors`, under the name this package's users look for."""

from __future__ import annotations

from asd.errors import CheckpointError, OutputError, SizeError, ZelligeError

__all__ = ["CheckpointError", "OutputError", "SizeError", "ZelligeError"]
