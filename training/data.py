"""`python -m training.data --out DIR`: fetch the training textures and write them as one compact pack.

The images come from six Debian packages (`packages.csv`, pinned by size and SHA-256); `textures.csv` names the files,
their captions, classes, licences and splits. Instead, any folder of images or of MatSynth-style map folders is taken.
Exit status: 0 done, 2 bad input, 130 interrupted; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import archives, manifest
from .archives import Package
from .manifest import Source
from .pack import Settings, is_finished, write_pack

HERE = Path(__file__).parent


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def unpack_packages(
    rows: Sequence[dict[str, str]], packages: Sequence[Package], work: Path, *, debs: Path | None = None
) -> Path:
    """The folder below `work` that holds every file of the rows, as `PACKAGE/path`.

    Packages are taken from `debs` or fetched into `work`; an unpacked one is marked with its hash and not done again.
    Raises ValueError for packages that are unknown, missing or damaged.
    """
    root = work / "unpacked"
    pinned = {package.package: package for package in packages}
    for name in dict.fromkeys(row["package"] for row in rows):
        if name not in pinned:
            raise ValueError(f"Expected {name} in the list of packages, but got {sorted(pinned)}")
        wanted = {file for row in rows if row["package"] == name for file in manifest.members(row)}
        for file in wanted:
            archives.safe_join(root, file)
        package, marker = pinned[name], root / f"{name}.done"
        if (
            marker.is_file()
            and marker.read_text().strip() == package.sha256
            and all((root / f).is_file() for f in wanted)
        ):
            continue
        _say(f"{name} {package.version}: {package.size / 1e6:.0f} MB, {len(wanted)} files needed")
        if debs is not None:
            deb = debs / package.file
            archives.check(package, deb)
        else:
            deb = archives.fetch(package, work)
        archives.unpack(deb, [file.removeprefix(name + "/") for file in wanted], root / name)
        marker.write_text(package.sha256 + "\n")
    return root


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.data", description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--images", type=Path, metavar="FOLDER", help="pack any folder of images instead")
    what.add_argument("--matsynth", type=Path, metavar="FOLDER", help="pack folders of maps, one per material, instead")
    parser.add_argument(
        "--download-dir", type=Path, metavar="D", help="keep packages and files here (default: not kept)"
    )
    parser.add_argument("--debs", type=Path, metavar="FOLDER", help="take already downloaded packages from here")
    parser.add_argument("--size", type=int, default=512, help="longest short side of the colour images (default 512)")
    parser.add_argument("--map-size", type=int, help="the same for normal and other maps (default: --size)")
    parser.add_argument("--quality", type=int, default=85, help="WebP quality of the colour images (default 85)")
    parser.add_argument("--map-quality", type=int, default=95, help="of the maps; 100 is lossless (default 95)")
    return parser


def _listed(args: argparse.Namespace, settings: Settings, lists: Path) -> tuple[list[Source], Path | None]:
    rows = manifest.read_list(lists / "textures.csv")
    packages = archives.read_packages(lists / "packages.csv")
    work = args.download_dir or args.out / ".download"
    planned = manifest.from_list(rows, work / "unpacked")
    if not is_finished(planned, args.out, settings):
        unpack_packages(rows, packages, work, debs=args.debs)
    return planned, None if args.download_dir else work


def main(argv: Sequence[str] | None = None, *, lists: Path = HERE) -> int:
    """Run the command; `lists` is the folder of textures.csv and packages.csv. Returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        settings = Settings(args.size, args.quality, args.map_size or args.size, args.map_quality)
        work: Path | None = None
        if args.images:
            found = manifest.from_images(args.images)
        elif args.matsynth:
            found = manifest.from_materials(args.matsynth)
        else:
            found, work = _listed(args, settings, lists)
        index = write_pack(found, args.out, settings, progress=lambda done, all_: _say(f"{done} of {all_} packed"))
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    except (ValueError, OSError) as error:
        _say(f"training.data: {error}")
        return 2
    except KeyboardInterrupt:
        _say("training.data: interrupted; finished shards are kept, run the same command again to go on")
        return 130
    size = sum(shard["bytes"] for shard in index["shards"])
    train = sum(row["split"] == "train" for row in index["rows"])
    summary = f"{len(index['rows'])} materials ({train} train), {len(index['shards'])} shards, {size / 2**20:.1f} MiB"
    sys.stdout.write(f"{args.out}: {summary}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
