"""Fetching Debian packages and unpacking single members of them, zip archives inside them included."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

_MAX_MEMBER = 2**29
_ZIP_FOLDER = re.compile(r"\.(?:pk3|zip)\.d/", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """A pinned Debian package: size of its .deb in bytes and SHA-256 as hex digits."""

    package: str
    version: str
    file: str
    size: int
    sha256: str


def read_packages(path: Path) -> list[Package]:
    """Packages of a CSV file with the columns of `Package`. Raises ValueError when it is missing or malformed."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return [
                Package(row["package"], row["version"], row["file"], int(row["size"]), row["sha256"])
                for row in csv.DictReader(handle)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Expected a list of packages in {path}, but got: {error}") from error


def check(package: Package, path: Path) -> None:
    """Compare a .deb with its pinned size and hash. Raises ValueError where they differ or the file is missing."""
    if not path.is_file():
        raise ValueError(f"Expected {package.file} at {path}, but got no such file")
    size = path.stat().st_size
    if size != package.size:
        raise ValueError(f"Expected {package.size} bytes in {path}, but got {size}: remove it and fetch it again")
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != package.sha256:
        raise ValueError(f"Expected SHA-256 {package.sha256} of {path}, but got {digest}: remove it and fetch it again")


def fetch(package: Package, folder: Path) -> Path:
    """The checked .deb of a package below folder, downloaded with apt-get unless it is already there.

    Raises ValueError when apt-get is missing or fails, or when the file is not the pinned one.
    """
    target = folder / package.file
    if not target.is_file():
        if shutil.which("apt-get") is None:
            raise ValueError(
                f"Expected apt-get to fetch {package.file}, but got no such program: download the packages of"
                " training/packages.csv elsewhere (Debian bookworm) and pass their folder with --debs"
            )
        folder.mkdir(parents=True, exist_ok=True)
        # A folder of its own, so that a cut-off download never carries the final name.
        part = folder / (package.package + ".part")
        part.mkdir(exist_ok=True)
        command = ["apt-get", "download", f"{package.package}={package.version}"]
        done = subprocess.run(command, cwd=part, capture_output=True, text=True, check=False)
        found = sorted(part.glob("*.deb"))
        if done.returncode or not found:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise ValueError(
                f"Expected `{' '.join(command)}` to work, but got: {lines[-1]} (on another system than Debian bookworm,"
                " download the packages of training/packages.csv and pass their folder with --debs)"
            )
        os.replace(found[0], target)
        shutil.rmtree(part)
    check(package, target)
    return target


def safe_join(root: Path, name: str) -> Path:
    """root / name. Raises ValueError where name is absolute or leaves root."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
        raise ValueError(f"Expected a path inside the archive, but got {name!r}")
    target = root.joinpath(*path.parts)
    if not target.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"Expected a path below {root}, but got {name!r}")
    return target


class _Window(io.RawIOBase):
    """Read-only view of the next `size` bytes of a file."""

    def __init__(self, handle: IO[bytes], size: int) -> None:
        self._handle, self._left = handle, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._handle.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


@contextmanager
def _data_tar(deb: Path) -> Iterator[Any]:
    """The uncompressed data.tar of a .deb (an `ar` archive, deb(5)), as a stream."""
    with deb.open("rb") as handle:
        if handle.read(8) != b"!<arch>\n":
            raise ValueError(f"Expected a Debian package, but got {deb}")
        while len(header := handle.read(60)) == 60:
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
            if not name.startswith("data.tar"):
                handle.seek(size + size % 2, os.SEEK_CUR)
                continue
            window = io.BufferedReader(_Window(handle, size), 2**20)
            if name == "data.tar.xz":
                with lzma.open(window) as unpacked:
                    yield unpacked
            elif name == "data.tar.gz":
                with gzip.GzipFile(fileobj=window) as unpacked:
                    yield unpacked
            elif name == "data.tar":
                yield window
            else:
                raise ValueError(f"Expected data.tar, .gz or .xz in {deb}, but got {name}")
            return
    raise ValueError(f"Expected a data.tar in {deb}, but got none")


def _write(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".tmp")
    with part.open("wb") as out:
        shutil.copyfileobj(source, out, 2**20)
    os.replace(part, target)


def _unzip(archive: IO[bytes], label: str, wanted: Iterable[str], root: Path) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for name in sorted(wanted):
            try:
                info = zipped.getinfo(name)
            except KeyError as error:
                raise ValueError(f"Expected {name} in {label}, but got no such member") from error
            if info.file_size > _MAX_MEMBER:
                raise ValueError(f"Expected members below 512 MiB in {label}, but got {info.file_size} bytes of {name}")
            with zipped.open(info) as member:
                _write(member, safe_join(root, name))


def unpack(deb: Path, wanted: Iterable[str], root: Path) -> None:
    """Unpack the wanted members of a .deb below root, in one pass.

    A path with `ARCHIVE.pk3.d/` or `ARCHIVE.zip.d/` in it names a member of that zip archive inside the package. Other
    members are never written. Raises ValueError for a damaged package and for members that are missing, are no regular
    files or would leave root.
    """
    plain: set[str] = set()
    zipped: dict[str, set[str]] = {}
    for name in wanted:
        safe_join(root, name)
        if match := _ZIP_FOLDER.search(name):
            zipped.setdefault(name[: match.end() - len(".d/")], set()).add(name[match.end() :])
        else:
            plain.add(name)
    missing = plain | set(zipped)
    root.mkdir(parents=True, exist_ok=True)
    try:
        with _data_tar(deb) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if name not in missing:
                    continue
                handle = tar.extractfile(member) if member.isfile() else None
                if handle is None:
                    raise ValueError(f"Expected a regular file {name} in {deb}, but got a link or folder")
                if name in zipped:
                    inner = safe_join(root, name)
                    _write(handle, inner)
                    with inner.open("rb") as archive:
                        _unzip(archive, name, zipped[name], safe_join(root, name + ".d"))
                    inner.unlink()
                else:
                    _write(handle, safe_join(root, name))
                missing.discard(name)
                if not missing:
                    break
    except (tarfile.TarError, lzma.LZMAError, zipfile.BadZipFile, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"Expected an undamaged package, but got {deb}: {error}") from error
    if missing:
        raise ValueError(f"Expected {sorted(missing)[0]} in {deb}, but got no such member ({len(missing)} missing)")
