"""The errors a user can cause: every front end turns them into one sentence and exit code 2."""

from __future__ import annotations


class ZelligeError(ValueError):
    """Base of every error that the request, the machine's state or a file explains. The message is one sentence."""


class SizeError(ZelligeError):
    """A size that is malformed, out of range, or needs more memory than there is."""


class CheckpointError(ZelligeError):
    """A model folder or hub id that is missing, damaged or of another kind."""


class OutputError(ZelligeError):
    """An output folder or file that cannot be written: no permission, no space, not a folder."""


class SeamlessError(ZelligeError):
    """A model that can't be made seamless the way that was asked."""
