"""How many images a server scores per second with one client and with many, how long they wait, and its memory.

    python -m benchmarks.serve [--connections 64 --seconds 60 --size 256 --json FILE]

Starts `zellige serve` in a process of its own, scores images to warm it up, then measures one connection that asks
again and again for `--serial` seconds, and then `--connections` of them for `--seconds`. A client that is answered 429
waits as long as Retry-After says, at most `--patience` seconds. Memory is that of the server and its processes.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import resident
from benchmarks.table import Figure, add_json, finish

BARS = {"throughput": 0.8, "errors": 0.0, "wait": 20.0, "memory": 1.05}


@dataclass(kw_only=True)
class Load:
    """What clients saw: seconds of every accepted request, counts of every status (0: no answer), seconds in all."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Accepted requests per second."""
        return len(self.waits) / self.seconds if self.seconds else 0.0


async def client(port: int, request: bytes, until: float, load: Load, patience: float) -> None:
    """Ask on one connection until the time is over; connect again where the server closed it."""
    reader = writer = None
    while time.perf_counter() < until:
        began = time.perf_counter()
        try:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.I)
            await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, asyncio.IncompleteReadError):
            load.statuses[0] += 1
            writer = None
            continue
        status = int(head.split(b" ", 2)[1])
        load.statuses[status] += 1
        if status == 200:
            load.waits.append(time.perf_counter() - began)
        elif status == 429 and (again := re.search(rb"retry-after: (\d+)", head, re.I)):
            await asyncio.sleep(min(patience, float(again[1])))
        if b"connection: close" in head.lower():
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


async def put_load(port: int, request: bytes, connections: int, seconds: float, patience: float) -> Load:
    """Ask on so many connections at a time."""
    load, began = Load(), time.perf_counter()
    await asyncio.gather(
        *(client(port, request, began + seconds, load, patience) for _ in range(connections))
    )  # fmt: skip
    load.seconds = time.perf_counter() - began
    return load


def score_request(size: int) -> bytes:
    """An upload of one PNG of noise, as bytes on the wire."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + buffer.getvalue()
    body += b"\r\n--x--\r\n"
    head = "POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def figures_of(serial: Load, many: Load, rss: list[int], connections: int) -> list[Figure]:
    """The figures with their bars; `rss` is the memory at several times, the first when all was warm."""
    single = statistics.median(serial.waits)
    late = statistics.quantiles(many.waits, n=100)[98] if len(many.waits) > 1 else float("inf")
    bad = sum(count for status, count in (serial.statuses + many.statuses).items() if status not in (200, 429))
    return [
        Figure(name="one connection: images per second", value=serial.rate),
        Figure(name="one connection: seconds (median)", value=single),
        Figure(name=f"{connections} connections: images per second", value=many.rate),
        Figure(
            name="throughput over that of one", value=many.rate / serial.rate, bar=BARS["throughput"], relation=">="
        ),
        Figure(name="answers 429", value=many.statuses[429]),
        Figure(name="errors but 429", value=bad, bar=BARS["errors"]),
        Figure(name="p99 of accepted over the single one", value=late / single, bar=BARS["wait"]),
        Figure(name="memory at the end over that when warm", value=max(rss) / rss[0], bar=BARS["memory"]),
        Figure(name="memory at the end in MB", value=rss[-1] / 1e6),
    ]


async def measure(port: int, process: int, args: argparse.Namespace) -> tuple[Load, Load, list[int]]:
    request = score_request(args.size)
    await put_load(port, request, 8, args.warm, 0.1)
    serial = await put_load(port, request, 1, args.serial, 0.1)
    await put_load(port, request, args.connections, args.warm, args.patience)
    rss, many = [resident(process)], Load()
    for _ in range(4):
        part = await put_load(port, request, args.connections, args.seconds / 4, args.patience)
        many = Load(seconds=many.seconds + part.seconds, waits=many.waits + part.waits,
                    statuses=many.statuses + part.statuses)  # fmt: skip
        rss.append(resident(process))
    return serial, many, rss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--serial", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument("--warm", type=float, default=8.0, metavar="SECONDS")
    parser.add_argument("--patience", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS")
    add_json(parser)
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ui", "serve", "--port", str(port), "--out", folder, "-q"]
        server = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        try:
            wait_for(port, server)
            serial, many, rss = asyncio.run(measure(port, server.pid, args))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    details = {"size": args.size, "statuses": {str(k): v for k, v in many.statuses.items()}, "cores": os.cpu_count()}
    return finish("serve", figures_of(serial, many, rss, args.connections), args.json, details)


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return when the server listens. Raises RuntimeError if it ends before, or takes a minute."""
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"Expected a server that starts, but it ended with {server.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("Expected a server that listens within a minute, but it does not")


if __name__ == "__main__":
    raise SystemExit(main())
