"""What the commands share: exit codes, argument types, loudness and lines on stdout."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings

from asd.errors import ZelligeError

EXIT_DONE, EXIT_CHECK_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def add_lora(parser: argparse.ArgumentParser) -> None:
    """What every command has that generates."""
    add = parser.add_argument
    add("--lora", metavar="PATH", help="a LoRA for the model: a .safetensors file or a folder with one")
    add("--lora-scale", metavar="F", type=number, help="its strength, 0..2 (1)")


def add_loudness(parser: argparse.ArgumentParser) -> None:
    """-q and -v, of which one may be given."""
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    loudness.add_argument("-v", "--verbose", action="store_true", help="logs, warnings, tracebacks, bar on any output")


def set_loudness(verbose: bool) -> None:
    """Logs and warnings only when asked for; the libraries read theirs from the environment as they are imported."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="zellige: %(message)s")
    if verbose:
        return
    warnings.simplefilter("ignore")
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the one bar is ours


def whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,30}", text):
        raise argparse.ArgumentTypeError(f"a whole number, but got {text[:80]!r}")
    return int(text)


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number, but got {text[:80]!r}") from None


def metres(text: str | None) -> tuple[float, float] | None:
    """The width and height in metres that --size-m says, such as 1.5x1."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)x([0-9]*\.?[0-9]+)", text)
    if not match:
        raise ZelligeError(f"Expected --size-m to be WIDTHxHEIGHT in metres, such as 1.5x1, but got {text[:80]!r}")
    return float(match[1]), float(match[2])


def write_line(line: str) -> None:
    """One line of data on stdout; a file name that is no UTF-8 must not lose the rest of a list."""
    sys.stdout.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
