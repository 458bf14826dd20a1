"""The command `zellige`: arguments to a `Request`, a `Result` to lines. Heavy imports wait until there is work."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from asd.errors import ZelligeError
from ui.request import HeightFormat, LockedMap, Request, Seamless

if TYPE_CHECKING:
    from ui.jobs import JobInterrupted, Progress, Result

VERSION = "0.1.0"
EXIT_DONE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 2, 130


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
    material = commands.add_parser(
        "material",
        help="make a tileable PBR material from a prompt",
        description="Make a tileable PBR material: basecolor, normal, height, roughness, metallic and ao maps, "
        "previews and material.json. Prints one line per file.",
        epilog="Exit codes: 0 done, 2 bad input, 130 interrupted.",
        allow_abbrev=False,
    )
    material.set_defaults(run=_material)
    material.add_argument("prompt", metavar="PROMPT", help='what to make, such as "mossy cobblestone wall"')
    add = material.add_argument
    add("--out", metavar="DIR", default="out", help="folder of the result; --count adds 0000, 0001, … (%(default)s)")
    add("--overwrite", action="store_true", help="replace an earlier result in DIR; other files are never touched")
    add("--size", metavar="WxH", default="512x512", help="width and height in pixels (%(default)s)")
    add("--seamless", metavar="|".join(get_args(Seamless)), default="xy", help="axes that tile (%(default)s)")
    add("--seed", metavar="N", type=_whole, default=0, help="seed of the first sample; each next adds 1 (%(default)s)")
    add("--count", metavar="N", type=_whole, default=1, help="number of samples (%(default)s)")
    add("--steps", metavar="N", type=_whole, help="denoising steps (the model's default)")
    add("--guidance", metavar="G", type=_number, help="how strictly to follow the prompt (the model's default)")
    add("--scale", metavar="S", type=_number, help="pattern size: 0 is 256 texels, 1 is 512 (default: by --size)")
    add(
        "--lock", metavar="MAP=VALUE", action="append", default=[],
        help=f"keep a map ({', '.join(get_args(LockedMap))}): a number 0..1, #rrggbb or an image file; repeatable",
    )  # fmt: skip
    add("--model", metavar="PATH_OR_ID", help="a diffusers folder or a hub id (the model in the package)")
    formats = "|".join(get_args(HeightFormat))
    add("--height-format", metavar=formats, default="png16", help="file of the height map (%(default)s)")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    add("--json", action="store_true", help="print one JSON object in place of lines")
    loudness = material.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    loudness.add_argument("-v", "--verbose", action="store_true", help="logs, warnings, tracebacks, bar on any output")
    return parser


def _material(options: argparse.Namespace) -> int:
    request = Request.from_dict(
        {
            "prompt": options.prompt,
            "size": options.size,
            "seamless": options.seamless,
            "seed": options.seed,
            "count": options.count,
            "steps": options.steps,
            "guidance": options.guidance,
            "scale": options.scale,
            "lock": _locks(options.lock),
            "model": options.model,
            "height_format": options.height_format,
        }
    )
    _set_loudness(options.verbose)
    from ui.jobs import run_job

    started = time.perf_counter()
    with _Bar(options) as bar:
        result = run_job(
            request, options.out, progress=bar.update, device=options.device, overwrite=options.overwrite
        )  # fmt: skip
    _print_result(result, options.json, time.perf_counter() - started)
    return EXIT_DONE


def _set_loudness(verbose: bool) -> None:
    """Logs and warnings only when asked for; the libraries read theirs from the environment as they are imported."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="zellige: %(message)s")
    if verbose:
        return
    warnings.simplefilter("ignore")
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the one bar is ours


class _Bar:
    """The progress of a job on stderr, with the time left; nothing where nobody looks."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.shown = not options.quiet and (options.verbose or sys.stderr.isatty())
        self.bar: Any = None

    def __enter__(self) -> _Bar:
        if self.shown:
            from tqdm import tqdm

            self.bar = tqdm(total=0, unit="step", desc="loading", file=sys.stderr)
        return self

    def update(self, progress: Progress) -> None:
        if self.bar is None:
            return
        if not self.bar.total:
            # the clock starts here, so that the time left does not count the loading as steps
            self.bar.reset(total=progress.count * progress.steps)
            self.bar.set_description("zellige")
        self.bar.update(progress.sample * progress.steps + progress.step - self.bar.n)

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _print_result(result: Result, as_json: bool, seconds: float) -> None:
    if as_json:
        lines = [json.dumps(result.to_dict() | {"seconds": round(seconds, 3)}, ensure_ascii=False)]
    else:
        lines = [str(file) for file in result.files]
    for line in lines:
        # a file name that is no UTF-8 must not lose the rest of the list
        sys.stdout.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
    sys.stdout.flush()


def _locks(items: list[str]) -> dict[str, float | str]:
    locks: dict[str, float | str] = {}
    for item in items:
        name, found, text = item.partition("=")
        if not found:
            raise ZelligeError(f"Expected --lock MAP=VALUE, such as roughness=0.8, but got {item!r}")
        if name in locks:
            raise ZelligeError(f"Expected --lock to name each map once, but got {name} twice")
        try:
            locks[name] = float(text)
        except ValueError:
            locks[name] = text
    return locks


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,30}", text):
        raise argparse.ArgumentTypeError(f"a whole number, but got {text[:80]!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number, but got {text[:80]!r}") from None


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
