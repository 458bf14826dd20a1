"""An enlargement in tiles that is killed (SIGKILL) again and again: the pixels of an undisturbed run, nothing partial.

    python -m benchmarks.kills_tiled [--size 1024x1024 --kills 50 --steps 6 --model FOLDER --json FILE]

`zellige upscale` paints a picture of a quarter of the side in moving tiles with the shipped texture model. It is killed
at random moments, evenly spread over the time that it takes undisturbed, and started again with the same command; when
a run ends before its moment its picture is compared, and the next starts from nothing. What can be seen in the folder
after a kill is a whole result or nothing. POSIX.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.kills import pixels
from benchmarks.table import Figure, add_json, finish, size

RESULT = {"image.png", "image.json"}


def write_picture(path: Path, side: tuple[int, int]) -> Path:
    """Soft spots of colour, from a seed."""
    import numpy as np
    from PIL import Image

    spots = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(spots).resize(side, Image.Resampling.BICUBIC).save(path)
    return path


def run(command: list[str], limit: float | None = None) -> bool:
    """Whether it came to its end; it is killed after `limit` seconds."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            _, said = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
    if process.returncode:
        raise RuntimeError(f"Expected the run to end well, but got {process.returncode}: {said.decode()[-300:]}")
    return True


def measure(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Kill and compare until so many kills are done."""
    width, height = arguments.size
    picture = write_picture(folder / "small.png", (max(8, width // 4), max(8, height // 4)))
    model = ["--model", arguments.model] if arguments.model else []
    command = [
        sys.executable, "-m", "ui", "upscale", str(picture), "--size", f"{width}x{height}", "--device", "cpu", "-q",
        "--steps", str(arguments.steps), "--strength", "0.35", *model,
    ]  # fmt: skip
    began = time.monotonic()
    run([*command, "--out", str(folder / "whole")])
    whole, takes = pixels(folder / "whole" / "image.png"), time.monotonic() - began
    print(f"undisturbed: {takes:.1f} s", file=sys.stderr, flush=True)
    moments = random.Random(arguments.seed)
    kills = results = differ = partial = 0
    out = folder / "out0"
    ended = True
    while kills < arguments.kills or not ended:
        ended = run([*command, "--out", str(out)], moments.uniform(0, takes) if kills < arguments.kills else None)
        kills += not ended
        seen = {path.name for path in out.glob("*") if not path.name.startswith(".")} if out.exists() else set()
        partial += bool(seen) and seen != RESULT
        if not ended and seen == RESULT:  # killed between the result and the process's end
            ended = True
        if ended:
            results += 1
            differ += pixels(out / "image.png") != whole
            out = folder / f"out{results}"
        print(f"{kills} kills, {results} results, {differ} differ", file=sys.stderr, flush=True)
    return [
        Figure(name="kills", value=kills, bar=arguments.kills, relation=">="),
        Figure(name="results after them", value=results, bar=1, relation=">="),
        Figure(name="results whose decoded pixels differ", value=differ, bar=0),
        Figure(name="partial results seen", value=partial, bar=0),
        Figure(name="seconds of an undisturbed run", value=takes),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size, default=(1024, 1024), metavar="WxH")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--model", help="diffusers folder; the shipped one by default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    add_json(parser)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        return finish("kills_tiled", measure(arguments, Path(folder)), arguments.json, {"size": list(arguments.size)})


if __name__ == "__main__":
    raise SystemExit(main())
