"""How long a material takes, all files written, and how much memory, with a loaded model on two threads.

    python -m benchmarks.speed [--sizes 512x512 1024x768 --threads 2 --repeats 3 --json FILE]

Every size runs in a fresh process of its own: load the pipeline, one tiny request to warm up, then the median of
`--repeats` runs of `ui.jobs.run_job` with default steps; peak RSS is that process' `ru_maxrss`, loading included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.table import Figure, add_json, finish, size

# Nothing heavy is imported in the process that starts the others: Linux hands its peak RSS on to them.

SECONDS = {(512, 512): 10.0, (1024, 768): 35.0}
PEAK_GB = {(512, 512): 2.5}
PROMPT = "mossy cobblestone wall"


def work(pixels: tuple[int, int], threads: int, repeats: int, steps: int | None) -> dict[str, Any]:
    """Measure one size in this process: seconds of every run, peak_gb (10^9 bytes), files and seconds to load."""
    import resource

    import torch

    from materials.pipeline import MaterialPipeline
    from ui.jobs import run_job
    from ui.request import Request

    torch.set_num_threads(threads)
    began = time.perf_counter()
    pipeline = MaterialPipeline.from_pretrained(device="cpu")
    loaded = time.perf_counter() - began
    seconds, files = [], 0
    with tempfile.TemporaryDirectory() as folder:
        run_job(Request(prompt=PROMPT, size=(64, 64), steps=1), Path(folder, "warm"), pipeline)
        for i in range(repeats):
            began = time.perf_counter()
            request = Request(prompt=PROMPT, size=pixels, seed=i, steps=steps)
            files = len(run_job(request, Path(folder, str(i)), pipeline).files)
            seconds.append(time.perf_counter() - began)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return {"seconds": seconds, "peak_gb": peak, "files": files, "load_seconds": loaded}


def in_fresh_process(pixels: tuple[int, int], threads: int, repeats: int, steps: int | None) -> dict[str, Any]:
    """`work` in a process of its own. Raises RuntimeError with its last lines where it fails."""
    command = [sys.executable, "-m", "benchmarks.speed", "--worker", "--sizes", f"{pixels[0]}x{pixels[1]}"]
    command += ["--threads", str(threads), "--repeats", str(repeats)] + (["--steps", str(steps)] if steps else [])
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected a measurement of {pixels}, but got:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def figures_of(pixels: tuple[int, int], found: dict[str, Any]) -> list[Figure]:
    """Median seconds and peak memory with the bars of that size, if it has any."""
    name = f"{pixels[0]}x{pixels[1]}"
    median = statistics.median(found["seconds"])
    return [
        Figure(name=f"{name}, all {found['files']} files: seconds (median)", value=median, bar=SECONDS.get(pixels)),
        Figure(name=f"{name}: seconds (slowest)", value=max(found["seconds"])),
        Figure(name=f"{name}: peak RSS in GB", value=found["peak_gb"], bar=PEAK_GB.get(pixels)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=list(SECONDS), metavar="WxH")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, help="the model's default if not given")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_json(parser)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.sizes[0], args.threads, args.repeats, args.steps)))
        return 0
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for pixels in args.sizes:
        found = in_fresh_process(pixels, args.threads, args.repeats, args.steps)
        details[f"{pixels[0]}x{pixels[1]}"] = found
        figures += figures_of(pixels, found)
    return finish("speed", figures, args.json, details | {"threads": args.threads})


if __name__ == "__main__":
    raise SystemExit(main())
