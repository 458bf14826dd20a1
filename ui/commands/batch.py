"""`zellige batch`: a manifest to a folder of results."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asd.errors import ZelligeError
from ui.commands.bar import Bar
from ui.commands.common import (
    EXIT_BAD_INPUT,
    EXIT_CHECK_FAILED,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    add_loudness,
    number,
    set_loudness,
    whole,
    write_line,
)

if TYPE_CHECKING:
    from ui.batch import BatchProgress, Engine, Plan, Summary
    from ui.manifest import ManifestError

HELP = "make every row of a manifest"
DESCRIPTION = (
    "Make every row of a manifest (.jsonl, .csv or .yaml; an id and the options of the other commands per row) as a "
    "folder DIR/ID that is whole or absent. The same command goes on where it was stopped. Prints a line per result."
)
EPILOG = "Exit codes: 0 done, 1 rows failed, are missing or differ, 2 bad input, 130 interrupted."
MAX_LISTED = 1000
"""Faults shown; a picture that is named .jsonl has more of them than anybody reads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", nargs="?", help="rows to make")
    add = parser.add_argument
    add("--out", metavar="DIR", help="folder of the results (out)")
    add("--shard", metavar="I/N", help="make part I of N, or auto: from SLURM, torchrun, accelerate (all rows)")
    add("--dry-run", action="store_true", help="check everything and say how much time and disk it takes")
    add("--rate", metavar="R", type=number, help="megapixels per second for --dry-run, as a run prints it")
    add("--retries", metavar="N", type=whole, default=1, help="how often a row that fails is tried again (%(default)s)")
    add("--overwrite", action="store_true", help="make rows anew that have changed; other files are never touched")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    add("--engine", choices=("local", "ray"), default="local", help="this process, or workers of Ray (%(default)s)")
    add("--address", metavar="A", help="with ray: join the cluster at HOST:PORT, or auto (RAY_ADDRESS, or a new one)")
    add("--workers", metavar="N", type=whole, help="with ray: how many (one per GPU, else as many as fit)")
    add("--cores", metavar="N", type=whole, help="with ray: CPU cores and threads of a worker (1)")
    add("--merge", metavar="DIR", help="write DIR/results.jsonl: what became of each row, in the manifest's order")
    add("--verify", metavar="DIR", nargs="?", const="", help="hash the results in DIR again (that of --merge)")
    add("--json", action="store_true", help="print one JSON object in place of lines")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    set_loudness(options.verbose)
    if options.merge is not None or options.verify is not None:
        return _look(options)
    if options.manifest is None:
        raise ZelligeError("Expected MANIFEST, --merge DIR or --verify DIR, but got nothing; --help shows how")
    if options.rate is not None and not (math.isfinite(options.rate) and options.rate > 0):
        raise ZelligeError(f"Expected --rate to be a number above 0, but got {options.rate:g}")
    if not 0 <= options.retries <= 1000:
        raise ZelligeError(f"Expected --retries to be a whole number from 0 to 1000, but got {options.retries}")
    _check_engine(options)
    from ui.manifest import ManifestError
    from ui.shards import Shard, parse_shard

    shard = Shard() if options.shard is None else parse_shard(options.shard, os.environ)
    try:
        plan = _plan(options, shard)
    except ManifestError as error:
        return _list_problems(error, options.verbose)
    if options.dry_run:
        return _print_estimate(plan, options)
    return _run(plan, options)


def _plan(options: argparse.Namespace, shard: Any) -> Plan:
    from ui.manifest import read_manifest

    rows = read_manifest(options.manifest)
    from ui.batch import plan_batch

    return plan_batch(
        options.manifest,
        rows,
        "out" if options.out is None else options.out,
        shard=shard,
        overwrite=options.overwrite,
        fetch=not options.dry_run,
    )


def _run(plan: Plan, options: argparse.Namespace) -> int:
    from ui.batch import BatchInterrupted, run_batch

    form = "{desc}{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    try:
        with _terminable(), Bar(options, "px", form) as bar, _engine(plan, options) as engine:
            summary = run_batch(
                plan,
                device=_device(options, os.environ),
                retries=options.retries,
                progress=lambda progress: _show(bar, progress),
                engine=engine,
            )
    except BatchInterrupted as error:
        _print_summary(error.summary, options)
        done, count = len(error.summary.made) + len(error.summary.kept), len(plan.todo) + len(plan.kept)
        _say(f"stopped: {done} of {count} rows are whole; the same command goes on from there")
        return EXIT_INTERRUPTED
    _print_summary(summary, options)
    return EXIT_CHECK_FAILED if summary.failed else EXIT_DONE


def _check_engine(options: argparse.Namespace) -> None:
    for name in ("workers", "cores"):
        given = getattr(options, name)
        if given is not None and not 1 <= given <= 1_000_000:
            raise ZelligeError(f"Expected --{name} to be a whole number above 0, but got {given}")
    given = [name for name in ("address", "workers", "cores") if getattr(options, name) is not None]
    if given and options.engine != "ray":
        raise ZelligeError(f"Expected --engine ray with --{given[0]}, but got --engine {options.engine}")


@contextmanager
def _engine(plan: Plan, options: argparse.Namespace) -> Iterator[Engine | None]:
    """What makes the rows; None for this process. A cluster is only looked for if there is something to make."""
    if options.engine != "ray" or not plan.todo:
        yield None
        return
    from ui.ray_rows import ray_engine

    address = options.address or os.environ.get("RAY_ADDRESS") or None
    with ray_engine(
        address,
        device=options.device,
        workers=options.workers,
        cores=options.cores or 1,
        verbose=options.verbose,
    ) as (engine, cluster):
        if not cluster.guarded:
            _say(f"the cluster at {address} is used without a token: whoever reaches it can run anything there; "
                 "docs/cluster.md says how to close it")  # fmt: skip
        yield engine


def _show(bar: Bar, progress: BatchProgress) -> None:
    bar.update(progress.done, progress.total, f"row {progress.number}/{progress.rows} {progress.id}")


def _device(options: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """Processes that a launcher starts side by side on one host take a GPU each."""
    from ui.shards import local_rank

    rank = local_rank(environment) if options.shard == "auto" and options.device in ("auto", "cuda") else None
    if rank is None:
        return options.device
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{rank % gpus}" if gpus else options.device


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, which schedulers send before they kill, is handled as Ctrl-C is."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _look(options: argparse.Namespace) -> int:
    """--merge and --verify."""
    if options.manifest is not None or options.out is not None:
        raise ZelligeError("Expected a batch's folder after --merge or --verify, but got a manifest or --out beside it")
    folder = options.merge if options.merge is not None else options.verify
    if options.verify not in (None, "", folder):
        raise ZelligeError(f"Expected one folder to merge and verify, but got {folder} and {options.verify}")
    if not folder:
        raise ZelligeError("Expected the folder of a batch after --verify, but got none")
    from ui.results import MERGED_FILE, merge, verify

    told: dict[str, Any] = {"out": folder}
    unfit: dict[str, str] = {}
    if options.merge is not None:
        records = merge(folder)
        unfit = {each.id: each.error or "is missing" for each in records if each.status != "done"}
        counts = {status: sum(each.status == status for each in records) for status in ("done", "failed", "missing")}
        told |= {"results": str(Path(folder) / MERGED_FILE), **counts}
    if options.verify is not None:
        wrong = verify(folder)
        told["differing"] = wrong
        unfit |= {name: fault for name, fault in wrong.items() if name not in unfit}
    if options.json:
        write_line(json.dumps(told, ensure_ascii=False))
    elif "results" in told:
        write_line(told["results"])
    sys.stdout.flush()
    for name, fault in unfit.items():
        _say(f"{name}: {fault}")
    return EXIT_CHECK_FAILED if unfit else EXIT_DONE


def _print_estimate(plan: Plan, options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ui.estimate import estimate
    from ui.memory import human

    found = estimate(plan, options.rate)
    if options.json:
        write_line(json.dumps({"out": str(plan.out), "shard": str(plan.shard), **asdict(found)}, ensure_ascii=False))
    else:
        write_line(f"rows    {found.rows} to make, {found.kept} whole already (shard {plan.shard})")
        write_line(f"pixels  {found.pixels / 1e6:.1f} million")
        rate_is = found.rate_is + ("; --rate takes a better one" if found.rate_is == "a guess" else "")
        write_line(f"time    {_clock(found.seconds)} at {found.rate:.3g} megapixels per second ({rate_is})")
        free = "" if found.free_bytes is None else f", {human(found.free_bytes)} free"
        write_line(f"disk    at most {human(found.disk_bytes)}{free}")
    sys.stdout.flush()
    return EXIT_DONE


def _print_summary(summary: Summary, options: argparse.Namespace) -> None:
    plan = summary.plan
    whole_ids = {record.id for record in [*summary.made, *summary.kept]}
    lines = {row.id: row.line for row in plan.rows}
    failed = [
        {"id": record.id, "line": lines[record.id], "attempts": record.attempt, "error": record.error}
        for record in summary.failed
    ]
    if options.json:
        told = {
            "out": str(plan.out),
            "shard": str(plan.shard),
            "made": [record.id for record in summary.made],
            "kept": [record.id for record in summary.kept],
            "failed": failed,
            "seconds": round(summary.seconds, 3),
            "rate": round(summary.rate, 6),
        }
        write_line(json.dumps(told, ensure_ascii=False))
    else:
        for row in plan.rows:
            if row.id in whole_ids:
                write_line(str(plan.out / row.id))
    sys.stdout.flush()
    for each in failed:
        times = "once" if each["attempts"] == 1 else f"{each['attempts']} times"
        _say(f"line {each['line']}, {each['id']}: failed {times}: {each['error']}")
    if not options.quiet:
        shard = f"shard {plan.shard}: " if plan.shard.count > 1 else ""
        counts = f"{len(summary.made)} made, {len(summary.kept)} whole already, {len(summary.failed)} failed"
        rate = f", {summary.rate:.3g} megapixels per second" if summary.made else ""
        _say(f"{shard}{counts} in {_clock(summary.seconds)}{rate}")


def _list_problems(error: ManifestError, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exception(error)
    for problem in error.problems[:MAX_LISTED]:
        _say(f"{error.path}, line {problem.line}: {problem.message[:1].lower()}{problem.message[1:]}")
    if (more := len(error.problems) - MAX_LISTED) > 0:
        _say(f"{error.path}: and {more} more")
    return EXIT_BAD_INPUT


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _say(message: str) -> None:
    sys.stderr.write(f"zellige: {' '.join(message.split())}\n".encode("utf-8", "backslashreplace").decode())
