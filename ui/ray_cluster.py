"""A Ray cluster: one of this machine for the time of a batch, or one that is there already."""

from __future__ import annotations

import importlib
import io
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from asd.errors import ZelligeError
from ui.memory import human

log = logging.getLogger(__name__)

STARTS = 3
"""Ray gives itself 30 seconds to start, which a busy machine with few cores can need more of."""
PATIENCE = 5.0
"""Seconds to wait for the port of a cluster; Ray's own wait is a minute of log lines."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A connection. `nodes` is what `ray.nodes()` says; `guarded` whether calls carry a token."""

    address: str | None
    """None for a cluster of this machine that ends with the connection."""
    nodes: tuple[Mapping[str, Any], ...]
    guarded: bool


def import_ray() -> Any:
    """The package, with `ray.data`. Raises ZelligeError where it is not installed."""
    try:
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ZelligeError('Expected the package ray, but it is not installed: pip install "zellige[ray]"') from error
    return importlib.import_module("ray")


@contextmanager
def connected(address: str | None = None, *, verbose: bool = False) -> Iterator[Cluster]:
    """Connect this process to the cluster at `address` ("host:port" or "auto"), or start one and end it with the block.

    Ray's environment variables are set in this process: a cluster that is started listens on this machine alone, wants
    a token that nobody else is told, has no dashboard and no telemetry. What Ray prints goes to the log.

    Raises ZelligeError where Ray is not installed, nobody answers, or the token is not the cluster's.
    """
    with ExitStack() as stack:
        guarded = prepare(address, os.environ, verbose=verbose)
        ray = import_ray()
        if address is not None:
            check_address(address)
        level = logging.INFO if verbose else logging.CRITICAL
        logging.getLogger("ray.data").setLevel(level)
        stack.enter_context(redirect_stdout(_Lines()))  # deaths of workers, which Ray prints as data
        options: dict[str, Any] = {"address": address, "log_to_driver": verbose, "logging_level": level}
        for left in reversed(range(STARTS if address is None else 1)):
            if address is None:
                folder = tempfile.TemporaryDirectory(prefix="zellige-ray-", ignore_cleanup_errors=True)
                options |= {"address": "local", "include_dashboard": False, "_temp_dir": stack.enter_context(folder)}
            try:
                with _handlers_kept():
                    ray.init(**options)
                break
            except Exception as error:  # Ray raises all kinds, plain Exception among them
                log.info("Ray does not start: %s", error)
                reason = _reason(error, ray.exceptions.AuthenticationError)
                place = "to start on this machine" if address is None else f"to be reached at {address}"
                if not left:
                    raise ZelligeError(f"Expected Ray {place}, but: {reason}") from error
        stack.callback(ray.shutdown)
        yield Cluster(address=address, nodes=tuple(ray.nodes()), guarded=guarded)


def prepare(address: str | None, environment: Any, *, verbose: bool = False) -> bool:
    """Set Ray's variables in `environment`, before Ray is imported; whether calls will carry a token.

    For a cluster that is started, token authentication is on, whatever the variables said; the token is the given one
    (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH), or a new one. For a cluster that is joined, it is on where there is a token
    and RAY_AUTH_MODE does not say otherwise.
    """
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    # a worker that is killed while it starts is replaced
    environment.setdefault("RAY_DATA_MAX_CONSECUTIVE_ACTOR_INIT_DEATHS", "20")
    if not verbose:
        environment.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    given = any(environment.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if address is None:
        environment["RAY_AUTH_MODE"] = "token"
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for: more than this machine
        if not given:
            environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return True
    if not environment.get("RAY_AUTH_MODE") and (given or (Path.home() / ".ray" / "auth_token").is_file()):
        environment["RAY_AUTH_MODE"] = "token"
    return environment.get("RAY_AUTH_MODE", "").lower() == "token"


def check_address(address: str) -> None:
    """Raise ZelligeError for what is neither "auto" nor the address of a port where somebody listens."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536) or "//" in address:
        raise ZelligeError(f"Expected a Ray cluster's address, such as 10.0.0.5:6379, or auto, but got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ZelligeError(f"Expected a Ray cluster at {address}, but nobody answers: {reason}") from error


def find_device(asked: str, nodes: Iterable[Mapping[str, Any]]) -> Literal["cpu", "cuda"]:
    """What workers compute on: GPUs where the cluster has any, or what is asked for ("auto", "cpu", "cuda").

    Raises ZelligeError for another device, and for "cuda" without a GPU.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise ZelligeError(f"Expected --device auto, cpu or cuda for workers of Ray, but got {asked}")
    gpus = sum(_amount(node, "GPU") for node in nodes)
    if asked == "cuda" and gpus < 1:
        raise ZelligeError("Expected --device cuda on a cluster with GPUs, but Ray knows of none")
    return "cuda" if asked != "cpu" and gpus >= 1 else "cpu"


def count_workers(nodes: Iterable[Mapping[str, Any]], device: str, cores: int, memory: int) -> int:
    """How many workers fit: each takes `cores` CPU cores, `memory` bytes and on "cuda" one GPU, all on one machine.

    Raises ZelligeError where none fits.

    >>> laptop = {"Alive": True, "Resources": {"CPU": 8.0, "memory": 5e9}}
    >>> count_workers([laptop, laptop], "cpu", 2, 10**9), count_workers([laptop], "cpu", 2, 2 * 10**9)
    (8, 2)
    """
    found = 0
    for node in nodes:
        fits = [_amount(node, "CPU") // cores, _amount(node, "memory") // memory]
        found += int(min(fits if device == "cpu" else [*fits, _amount(node, "GPU")]))
    if found == 0:
        gpu = "" if device == "cpu" else ", a GPU"
        raise ZelligeError(f"Expected a machine in the cluster with {cores} CPU core{'s' * (cores > 1)}{gpu} and "
                           f"{human(memory)} of memory for a worker, but Ray knows of none")  # fmt: skip
    return found


def _amount(node: Mapping[str, Any], resource: str) -> float:
    return float(node["Resources"].get(resource, 0)) if node["Alive"] else 0.0


def _reason(error: BaseException, refusal: type[BaseException]) -> str:
    """What to tell of an error of `ray.init`, which hides a refusal behind a failure to connect."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, refusal) or refusal.__name__ in str(cause) or "InvalidAuthToken" in str(cause):
            return "its token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token) is another or missing"
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes over SIGTERM as it starts; the end of the block gives it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(TypeError):  # a handler that is not Python's
            signal.signal(signal.SIGTERM, before)


class _Lines(io.TextIOBase):
    """Text to lines of the log."""

    def write(self, text: str, /) -> int:
        if text.strip():
            log.info("%s", text.strip())
        return len(text)
