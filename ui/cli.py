"""The command `zellige`: arguments to a `Request`, a `Result` to lines. Heavy imports wait until there is work."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from asd.errors import ZelligeError
from ui.commands import NAMES
from ui.commands.common import EXIT_BAD_INPUT, EXIT_DONE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from ui.jobs import JobInterrupted

VERSION = "0.1.0"


class _Parser(argparse.ArgumentParser):
    """argparse with this program's one-sentence errors."""

    def error(self, message: str) -> NoReturn:
        raise ZelligeError(_sentence(message))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input, 130 interrupted. `--help` raises SystemExit(0)."""
    given = sys.argv[1:] if argv is None else list(argv)
    verbose = "-v" in given or "--verbose" in given
    try:
        options = _parser().parse_args(given)
        verbose = options.verbose
        return options.run(options)
    except ZelligeError as error:
        return _fail(error, str(error), verbose)
    except KeyboardInterrupt as error:
        _say(_missing(error))
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # the reader of stdout went away, as `| head` does; without this the exit would flush into the closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        return _fail(error, f"Expected the system to carry this out, but it refused: {error}", verbose)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        return _fail(error, f"an error inside the program ({reason}); -v shows where", verbose)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="zellige", description="Tileable PBR materials of any size from text.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"zellige {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=_Parser)
    for name in NAMES:
        module = import_module(f"ui.commands.{name}")
        command = commands.add_parser(
            name, help=module.HELP, description=module.DESCRIPTION, epilog=module.EPILOG, allow_abbrev=False
        )
        command.set_defaults(run=module.run)
        module.add_arguments(command)
    return parser


def _sentence(message: str) -> str:
    """argparse's complaint in this program's form."""
    if match := re.fullmatch(r"argument ([^ ]+): (a (?:whole )?number, but got .*)", message, re.S):
        return f"Expected {match[1]} to be {match[2]}"
    if match := re.fullmatch(r"argument (.+): expected one argument", message):
        return f"Expected a value after {match[1]}, but got none; write {match[1]}=VALUE for one that starts with '-'"
    if match := re.fullmatch(r"unrecognized arguments: (.*)", message, re.S):
        return f"Expected options that --help lists and one prompt in quotes, but got {match[1][:200]}"
    if match := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"Expected {match[1]}, but got nothing; --help shows how"
    if match := re.fullmatch(r"argument COMMAND: invalid choice: (.*) \(choose from (.*)\)", message, re.S):
        return f"Expected a command ({match[2]}), but got {match[1][:80]}"
    if match := re.fullmatch(r"argument (.+): not allowed with argument (.+)", message):
        return f"Expected either {match[1]} or {match[2]}, but got both"
    return f"Expected arguments as --help shows, but got: {message}"


def _missing(error: KeyboardInterrupt) -> str:
    job: JobInterrupted | None = error if hasattr(error, "missing") else None  # pyright: ignore[reportAssignmentType]
    if job is None:
        return "stopped before anything was written"
    done, count = len(job.result.samples), job.result.request.count
    first, last = str(job.missing[0]), job.missing[-1].name
    span = first if len(job.missing) == 1 else f"{first} to {last}"
    return f"stopped: {done} of {count} results are whole, missing: {span}"


def _fail(error: Exception, message: str, verbose: bool) -> int:
    if verbose:
        traceback.print_exception(error)
    _say(message[:1].lower() + message[1:].rstrip("."))
    return EXIT_BAD_INPUT


def _say(message: str) -> None:
    line = " ".join(message.split())  # one line, whatever a file name or a library's message holds
    sys.stderr.write(f"zellige: {line}\n".encode("utf-8", "backslashreplace").decode())
