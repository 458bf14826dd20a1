"""A batch that is killed (SIGKILL) again and again: every row once, the pixels of an undisturbed run, nothing partial.

    python -m benchmarks.kills [--rows 200 --kills 100 --size 64x64 --steps 1 --model FOLDER --json FILE]
    python -m benchmarks.kills --engine ray [--rows 8 --kills 4]

`zellige batch` is started and killed at random moments until so many kills are done, then once more to its end. Without
Ray each start is a fork of a process that has loaded the model once, and previews, much of the time of a tiny row, are
left out. With Ray two workers of a real start are killed one at a time, wherever they are in a row, and after half of
the kills the command itself. What can be seen in the folder is checked after each kill: rows whole, with the hashes
they are listed with, and no torn line. Rows repeat `--distinct` requests; the undisturbed run makes each once. Linux.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.table import Figure, add_json, finish, size
from ui.fingerprint import digest
from ui.manifest import Row, manifest_line
from ui.presence import LOCK_FILE
from ui.request import Request
from ui.results import MANIFEST_FILE, ROW_FILE, merge, read_records, read_row, results_file, verify
from ui.shards import WHOLE

STAGE = re.compile(r"\.(.+?)\.([0-9]+)-[0-9a-f]{8}\.tmp")
MAPS = ("basecolor", "normal", "height", "roughness", "metallic", "ao")


@dataclass(kw_only=True)
class Watch:
    """Looks at the folder of a batch from outside; `partial` lists what should never have been seen."""

    out: Path
    rows: frozenset[str]
    looks: int = 0
    partial: list[str] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Check what is visible; rows that were whole at an earlier look are not read again."""
        self.looks += 1
        allowed = {MANIFEST_FILE, results_file(self.out, WHOLE).name}
        for path in self.out.glob("*"):
            if path.name in self.rows and path.name not in self.whole and not path.name.startswith("."):
                fault = self._fault(path)
                if fault:
                    self.partial.append(fault)
                else:
                    self.whole.add(path.name)
            elif path.name not in self.rows and path.name not in allowed and not path.name.startswith("."):
                self.partial.append(f"{path.name} is in the folder")
        lines = results_file(self.out, WHOLE)
        if lines.exists():
            text = lines.read_bytes()
            if (text and not text.endswith(b"\n")) or len(read_records(lines)) != text.count(b"\n"):
                self.partial.append("a torn line")

    def _fault(self, folder: Path) -> str | None:
        found = read_row(folder)
        if found is None:
            return f"{folder.name} has no record"
        files = found[0].files
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        if there != {*files, ROW_FILE}:
            return f"{folder.name} has other files than its record says"
        wrong = [name for name, told in files.items() if digest(folder / name) != told]
        return f"{folder.name}/{wrong[0]} is not what its record says" if wrong else None


def make_rows(number: int, distinct: int, pixels: tuple[int, int], steps: int, model: str | None) -> list[Row]:
    """`number` rows, of which every `distinct`-th has the same request."""
    wish = Request(prompt="red brick wall", size=pixels, steps=steps, model=model)
    return [
        Row(id=f"r{place:04d}", request=dataclasses.replace(wish, seed=place % distinct), line=place + 1)
        for place in range(number)
    ]


def write_manifest(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(manifest_line(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pixels(file: Path) -> str:
    """SHA-256 of a picture's decoded pixels."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as image:
        found = np.asarray(image)
    return hashlib.sha256(f"{found.shape}{found.dtype}".encode() + found.tobytes()).hexdigest()


def decoded(folder: Path) -> dict[str, str]:
    """`pixels` of each map."""
    return {name: pixels(folder / f"{name}.png") for name in MAPS}


def load_once() -> None:
    """Load the model, or that of each folder, once for this process and its forks; leave previews out."""
    import torch

    import materials.files
    from ui import jobs

    torch.set_num_threads(1)  # a fork has no other threads
    loaded: dict[str | None, jobs.Pipeline] = {}
    load = jobs._load

    def kept(model: str | None, device: str) -> jobs.Pipeline:
        if model not in loaded:
            loaded[model] = load(model, device)
        return loaded[model]

    jobs._load = kept
    materials.files.save_material = partial(materials.files.save_material, previews=False)


def run_here(*arguments: str) -> int:
    """`zellige batch` in this process, without its output."""
    from ui import cli

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return cli.main(["batch", *arguments, "-q"])


def kill_forks(start: Callable[[], int], kills: int, moments: Callable[[], float], watch: Watch) -> int:
    """Fork, run `start` there and kill it at a random moment, `kills` times; then let it end. How often it was."""
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = start()
            finally:
                os._exit(code)
        if killed < kills:
            time.sleep(moments())
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        watch.look()
        if os.WIFSIGNALED(status):
            killed += 1
        elif status:
            raise RuntimeError(f"Expected the batch to go on, but it ended with {os.waitstatus_to_exitcode(status)}")
        else:
            return killed


def kill_workers(command: list[str], kills: int, moments: Callable[[], float], watch: Watch) -> tuple[int, int]:
    """Kill workers of Ray while they make a row, and the command after half of the kills; how often either was."""
    workers = commands = 0
    while True:
        with open(os.devnull, "w") as nowhere, subprocess.Popen(command, stdout=nowhere) as run:
            while run.poll() is None:
                names = os.listdir(watch.out) if watch.out.is_dir() else []
                at_work = sorted({int(match[2]) for match in map(STAGE.fullmatch, names) if match})
                alive = [number for number in at_work if Path(f"/proc/{number}").exists()]
                if alive and workers < kills:
                    time.sleep(moments())
                    try:
                        os.kill(alive[workers % len(alive)], signal.SIGKILL)
                    except ProcessLookupError:  # of an earlier cluster, gone meanwhile
                        continue
                    workers += 1
                    watch.look()
                    if workers >= kills // 2 and not commands:
                        commands += 1
                        run.kill()
                    time.sleep(0.2)
                time.sleep(0.01)
        watch.look()
        if run.returncode == 0:
            return workers, commands
        if run.returncode != -signal.SIGKILL:
            raise RuntimeError(f"Expected the batch to go on, but it ended with {run.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--rows", type=int, help="200; 8 with Ray")
    parser.add_argument("--kills", type=int, help="100; 4 with Ray")
    parser.add_argument("--distinct", type=int, default=20, metavar="N")
    parser.add_argument("--size", type=size, default=(64, 64), metavar="WxH")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--model", metavar="FOLDER", help="a material checkpoint (the shipped one)")
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)
    args = parser.parse_args()
    ray = args.engine == "ray"
    number, kills = args.rows or (8 if ray else 200), args.kills or (4 if ray else 100)
    os.environ["OMP_NUM_THREADS"] = "1"
    chance = random.Random(args.seed)
    model = None if args.model is None else str(Path(args.model).absolute())
    rows = make_rows(number, args.distinct, args.size, args.steps, model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, out = write_manifest(folder / "m.jsonl", rows), folder / "out"
        few = write_manifest(folder / "few.jsonl", rows[: args.distinct])
        load_once()
        run_here(str(write_manifest(folder / "warm.jsonl", rows[:1])), "--out", str(folder / "warm"))
        began = time.perf_counter()
        if run_here(str(few), "--out", str(folder / "whole")):
            raise RuntimeError("Expected the undisturbed run to make every row, but some failed")
        row_seconds = (time.perf_counter() - began) / len(rows[: args.distinct])
        watch = Watch(out=out, rows=frozenset(row.id for row in rows))
        began, commands = time.perf_counter(), 0
        if ray:
            command = [sys.executable, "-m", "ui", "batch", str(manifest), "--out", str(out), "--engine", "ray",
                       "--workers", "2", "--retries", "1000", "-q"]  # fmt: skip
            killed, commands = kill_workers(command, kills, lambda: chance.uniform(0, row_seconds), watch)
        else:
            start = partial(run_here, str(manifest), "--out", str(out))
            longest = 2 * number * row_seconds / kills
            killed = kill_forks(start, kills, lambda: chance.uniform(0, longest), watch)
        seconds = time.perf_counter() - began
        figures = judge(rows, out, folder / "whole", args.distinct, watch)
    figures = [
        Figure(name="kills" + " of workers" * ray, value=killed, bar=kills, relation=">="),
        *([Figure(name="kills of the command", value=commands, bar=1, relation=">=")] if ray else []),
        *figures,
        Figure(name="seconds of a row, undisturbed", value=row_seconds),
        Figure(name="seconds in all", value=seconds),
    ]
    details = {"looks": watch.looks, "partial": watch.partial[:20], "seed": args.seed, "model": args.model or "shipped"}
    return finish("kills", figures, args.json, details)


def judge(rows: list[Row], out: Path, whole: Path, distinct: int, watch: Watch) -> list[Figure]:
    """What came out, against the undisturbed run."""
    expected = [decoded(whole / row.id) for row in rows[:distinct]]
    lines = Counter(record.id for record in read_records(results_file(out, WHOLE)) if record.status == "done")
    merged = [(record.id, record.status) for record in merge(out)]
    differing = sum(
        not (out / row.id).is_dir() or decoded(out / row.id) != expected[place % distinct]
        for place, row in enumerate(rows)
    )
    hidden = [path for path in out.glob(".*") if path.name != LOCK_FILE]
    return [
        Figure(name="rows", value=len(rows)),
        Figure(name="rows not exactly once in the results", value=sum(lines[row.id] != 1 for row in rows), bar=0),
        Figure(name="rows not done after merging", value=sum(each != "done" for _, each in merged), bar=0),
        Figure(name="rows whose decoded pixels differ", value=differing, bar=0),
        Figure(name="rows that differ from their hashes", value=len(verify(out)), bar=0),
        Figure(name="partial files seen", value=len(watch.partial), bar=0),
        Figure(name="hidden files left", value=len(hidden), bar=0),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
