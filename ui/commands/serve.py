"""`zellige serve`: the HTTP API, and the web page where it is installed."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

from asd.errors import ZelligeError
from ui.address import check_port, listen, url
from ui.commands.common import EXIT_BAD_INPUT, EXIT_DONE, add_loudness, number, set_loudness, whole

HELP = "serve the HTTP API"
DESCRIPTION = (
    "Serve the HTTP API: scores, jobs, OpenAI's images, /healthz, /metrics and /openapi.json. Other machines are only "
    "served with a token. Sends nothing to anybody."
)
EPILOG = "Exit codes: 0 stopped, 2 bad input or a port in use."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", metavar="PORT", type=whole, default=8000, help="port to listen on (%(default)s)")
    add("--out", metavar="DIR", default="jobs", help="folder of the jobs (%(default)s)")
    add("--token", metavar="TOKEN", help="what clients have to send; better in ZELLIGE_TOKEN, where ps doesn't show it")
    add(
        "--model", metavar="NAME=PATH_OR_ID", action="append", default=[],
        help="a further model that requests may name; repeatable",
    )  # fmt: skip
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    add("--max-queue", metavar="N", type=whole, default=32, help="jobs that may wait (%(default)s)")
    add("--max-pixels", metavar="N", type=whole, default=2048**2, help="pixels of an image (%(default)s)")
    add("--max-count", metavar="N", type=whole, default=16, help="samples of a job (%(default)s)")
    add("--max-mb", metavar="N", type=number, default=32, help="megabytes of an upload (%(default)s)")
    add("--rate", metavar="R", type=number, default=100, help="requests per second and client (%(default)s)")
    add("--keep", metavar="N", type=whole, default=200, help="finished jobs to keep (%(default)s)")
    add("--keep-gb", metavar="N", type=number, default=10, help="gigabytes of results to keep (%(default)s)")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    from ui.api.settings import Settings

    check_port(options.port)
    settings = Settings(
        host=options.host,
        out=Path(options.out),
        token=options.token or os.environ.get("ZELLIGE_TOKEN") or None,
        models=_models(options.model),
        device=options.device,
        max_queue=options.max_queue,
        max_pixels=options.max_pixels,
        max_count=options.max_count,
        max_body=_bytes("--max-mb", options.max_mb, 10**6),
        rate=options.rate,
        keep=options.keep,
        keep_bytes=_bytes("--keep-gb", options.keep_gb, 10**9),
    )
    set_loudness(options.verbose)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # jobs and scores share the cores: a thread that waits by spinning keeps the others from what it waits for
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ui.api.app import build
    from ui.api.server import server
    from ui.job_store import JobStore

    JobStore(settings.out).close()  # says in one sentence why the folder won't do
    with listen(options.host, options.port) as listener:
        made = server(build(settings), options.host, options.port)
        if not options.quiet:
            sys.stderr.write(f"zellige: {url(options.host, listener)} (Ctrl-C stops)\n")
        with suppress(KeyboardInterrupt):  # which uvicorn raises again after it has stopped
            made.run(sockets=[listener])
    return EXIT_DONE if made.started else EXIT_BAD_INPUT


def _models(items: list[str]) -> dict[str, str]:
    models: dict[str, str] = {}
    for item in items:
        name, _, source = item.partition("=")
        if name in models:
            raise ZelligeError(f"Expected --model to give each name once, but got {name} twice")
        models[name] = source
    return models


def _bytes(option: str, value: float, unit: int) -> int:
    if not 0 < value < 10**9:
        raise ZelligeError(f"Expected {option} to be a number above 0, but got {value:g}")
    return max(1, round(value * unit))
