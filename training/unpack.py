"""`python -m training.unpack PACK OUT`: a split of a pack as a folder of images and captions, for `asd.train_arad`.

OUT gets one WebP a material and a metadata.jsonl (file_name, text, class, seamless). Exit status: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from materials.atomic import staged

from .pack import Pack


def unpack(pack: Pack, out: Path, split: str, count: int | None = None, seed: int = 0) -> int:
    """Write `count` materials of a split (all by default), drawn evenly, into a new folder; how many were written.

    Raises ValueError for a folder that is there or cannot be written, or a damaged pack.
    """
    if out.exists():
        raise ValueError(f"Expected a folder that is not there yet, but got {out}")
    chosen = pack.split(split)
    if count is not None:
        chosen = sorted(random.Random(seed).sample(chosen, min(count, len(chosen))))
    lines = []
    with staged(out) as stage:
        for i in chosen:
            row = pack.row(i)
            name = f"{i:05d}.webp"
            (stage / name).write_bytes(pack.blob(i, "basecolor"))
            axes = "".join(axis for axis in "xy" if row[f"tiles_{axis}"]) or "none"
            told = {"file_name": name, "text": row["caption"], "class": row["class"], "seamless": axes}
            lines.append(json.dumps(told, ensure_ascii=False))
        (stage / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(chosen)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.unpack", description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("pack", type=Path, metavar="PACK")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--count", type=int, help="so many, drawn evenly (default: all)")
    args = parser.parse_args(argv)
    try:
        done = unpack(Pack(args.pack), args.out, args.split, args.count)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"training.unpack: {error}\n")
        return 2
    sys.stdout.write(f"{args.out}: {done} images\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
