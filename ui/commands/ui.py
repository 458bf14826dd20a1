"""`zellige ui`: the page in the browser."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from typing import Any

from asd.errors import ZelligeError
from ui.address import LOOPBACK, check_port, is_loopback, listen, url
from ui.commands.common import EXIT_DONE, add_loudness, set_loudness, whole, write_line

HELP = "open the web page"
DESCRIPTION = (
    "Serve the web page on this machine: materials, images, enlargements and maps of photos with previews, scores, "
    "batches and what was made before. "
    "No request leaves the machine."
)
EPILOG = "Exit codes: 0 stopped, 2 bad input. Stop it with Ctrl-C."
LEAST_TOKEN = 16
VARIABLE = "ZELLIGE_TOKEN"
"""Takes the token too: other users of a machine see what is on a command line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", metavar="NAME", default="127.0.0.1", help="address to listen at (%(default)s)")
    add("--port", metavar="N", type=whole, default=7860, help="port to listen at, 0 for a free one (%(default)s)")
    add("--token", metavar="TEXT", help=f"let in only who has it; needed where others can reach the host (${VARIABLE})")
    add("--out", metavar="DIR", default="out", help="folder of the results (%(default)s)")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    add("--no-browser", action="store_true", help="open no browser")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    options.token = os.environ.get(VARIABLE) if options.token is None else options.token
    check(options)
    set_loudness(options.verbose)
    sock = listen(options.host, options.port)
    import uvicorn

    from ui.web.app import application

    hosts = (*LOOPBACK, options.host) if is_loopback(options.host) else None
    app = application(options.out, token=options.token, hosts=hosts, device=options.device)
    config = uvicorn.Config(
        app, log_level="info" if options.verbose else "error", access_log=options.verbose, server_header=False
    )
    server = uvicorn.Server(config)
    address = f"{url(options.host, sock)}/"
    threading.Thread(target=_announce, args=(server, address, options), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[sock])
    return EXIT_DONE


def check(options: argparse.Namespace) -> None:
    """Raise ZelligeError for options that would let anybody on the network use this machine, or that cannot be."""
    check_port(options.port)
    if options.token is not None:
        if len(options.token) < LEAST_TOKEN or not options.token.isascii() or not options.token.isalnum():
            raise ZelligeError(f"Expected --token to be at least {LEAST_TOKEN} letters and digits, "
                               f"but got {len(options.token)} characters")  # fmt: skip
    elif not is_loopback(options.host):
        raise ZelligeError(f"Expected --token TEXT, since others can reach {options.host[:100]}, but got none")


def _announce(server: Any, address: str, options: argparse.Namespace) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    write_line(address)
    sys.stdout.flush()
    if not options.no_browser:
        import webbrowser

        webbrowser.open(address if options.token is None else f"{address}?token={options.token}")
