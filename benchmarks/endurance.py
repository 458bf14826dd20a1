"""Thousands of small jobs in a row in one process: do memory, threads or open files grow?

    python -m benchmarks.endurance [--jobs 5000 --materials 50 --size 64x64 --warm 500 --json FILE]

Starts a real server in a process of its own (`zellige serve`) and asks it one thing after the other: mostly scores of a
small PNG, and every so often a material of the smallest size and one step with its whole life: submit, status, a file,
deletion, so that the stated cache of finished jobs stays empty. Resident memory, threads and open files of the server
and all its processes are read from /proc every `--every` jobs; after the first `--warm` jobs a line is fitted to each
(Theil and Sen: the median of the slopes of all pairs, which single peaks don't move). The bars: what the slope makes
of 5,000 jobs is at most 5 % of the memory, and no thread and no file. Linux.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from benchmarks.processes import Usage, descendants, usage
from benchmarks.serve import score_request, wait_for
from benchmarks.table import Figure, add_json, finish, size

GROWTH = 0.05
"""Of the memory after warming up, over 5,000 jobs."""
PER = 5000


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What all processes take after `job` jobs."""

    job: int
    resident: int
    threads: int
    files: int


def taken(process: int, job: int) -> Sample:
    """Sum over a process and all that it started."""
    found: list[Usage] = []
    for number in descendants(process):
        try:
            found.append(usage(number))
        except OSError:  # it ended meanwhile
            continue
    return Sample(
        job=job,
        resident=sum(each.resident for each in found),
        threads=sum(each.threads for each in found),
        files=sum(each.files for each in found),
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes of all pairs (Sen, 1968).

    >>> slope([(0, 1.0), (1, 3.0), (2, 5.0), (3, 99.0), (4, 9.0)])
    2.0
    """
    found = [(b - y) / (a - x) for (x, y), (a, b) in combinations(points, 2) if a != x]
    return statistics.median(found)


def figures_of(samples: Sequence[Sample], warm: int, seconds: float) -> list[Figure]:
    """What `PER` jobs add, by the samples after `warm` jobs; and what is there at the end."""
    late = [sample for sample in samples if sample.job >= warm]
    base = late[0].resident
    grown = {
        name: PER * slope([(sample.job, getattr(sample, name)) for sample in late])
        for name in ("resident", "threads", "files")
    }
    return [
        Figure(name="jobs", value=samples[-1].job),
        Figure(name=f"memory that {PER} jobs add, over that when warm", value=grown["resident"] / base, bar=GROWTH),
        Figure(name=f"threads that {PER} jobs add", value=grown["threads"], bar=0.5),
        Figure(name=f"open files that {PER} jobs add", value=grown["files"], bar=0.5),
        Figure(name="memory when warm, MB", value=base / 1e6),
        Figure(name="memory at the end, MB", value=samples[-1].resident / 1e6),
        Figure(name="threads at the end", value=samples[-1].threads),
        Figure(name="open files at the end", value=samples[-1].files),
        Figure(name="jobs per second", value=samples[-1].job / seconds),
    ]


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(self, method: str, path: str, expected: int, body: bytes | None = None, kind: str = "") -> bytes:
        """The body of the answer; raises RuntimeError where its status is another than `expected`."""
        headers = {"Content-Type": kind} if body is not None else {}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != expected:
            told = f"{answer.status} {data[:300]!r}"
            raise RuntimeError(f"Expected {method} {path} to answer {expected}, but got {told}")
        return data


def score(client: Client, upload: bytes) -> None:
    """One small image."""
    client.ask("POST", "/v1/score", 200, upload, "multipart/form-data; boundary=x")


def material(client: Client, seed: int, pixels: tuple[int, int]) -> None:
    """One material from submission to deletion."""
    wish = {"prompt": "red brick wall", "size": f"{pixels[0]}x{pixels[1]}", "steps": 1, "seed": seed}
    job = json.loads(client.ask("POST", "/v1/jobs", 202, json.dumps(wish).encode(), "application/json"))
    place = f"/v1/jobs/{job['id']}"
    while (now := json.loads(client.ask("GET", place, 200)))["state"] in ("queued", "running"):
        time.sleep(0.05)
    if now["state"] != "done":
        raise RuntimeError(f"Expected the job to be done, but it is {now}")
    client.ask("GET", f"{place}/files/basecolor.png", 200)
    client.ask("DELETE", place, 204)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--materials", type=int, default=50, help="so many of them are materials (%(default)s)")
    parser.add_argument("--size", type=size, default=(64, 64), metavar="WxH")
    parser.add_argument("--image", type=int, default=64, metavar="PIXELS", help="of the PNG to score (%(default)s)")
    parser.add_argument("--warm", type=int, default=500, metavar="JOBS")
    parser.add_argument("--every", type=int, default=50, metavar="JOBS")
    add_json(parser)
    args = parser.parse_args()
    if not 0 < args.materials <= args.jobs or args.warm + 2 * args.every > args.jobs:
        parser.error("Expected --materials from 1 to --jobs, and --warm well below --jobs")
    upload = score_request(args.image).split(b"\r\n\r\n", 1)[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ui", "serve", "--port", str(port), "--out", folder, "--rate", "1000000", "-q"]
        server = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        try:
            wait_for(port, server)
            client, samples = Client(port), []
            began, spacing = time.perf_counter(), args.jobs // args.materials
            for job in range(1, args.jobs + 1):
                if job % spacing == 1 or spacing == 1:
                    material(client, job, args.size)
                else:
                    score(client, upload)
                if job % args.every == 0:
                    samples.append(taken(server.pid, job))
            seconds = time.perf_counter() - began
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    details = {"samples": [vars(sample) for sample in samples], "materials": args.materials, "size": list(args.size)}
    return finish("endurance", figures_of(samples, args.warm, seconds), args.json, details)


if __name__ == "__main__":
    raise SystemExit(main())
