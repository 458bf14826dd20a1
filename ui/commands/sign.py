"""`zellige sign`: Content Credentials on the images of results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from asd.errors import ZelligeError
from ui.commands.common import EXIT_DONE, add_loudness, set_loudness, write_line

HELP = "sign the images of results with your certificate (C2PA)"
DESCRIPTION = (
    "Sign every PNG of result folders with your certificate, so that others can tell that you had them made and that "
    "nobody changed them since. Needs the extra zellige[sign]. Prints one line per file."
)
EPILOG = "Exit codes: 0 done, 2 bad input."
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="DIR", nargs="+", help="a folder with material.json")
    add = parser.add_argument
    add("--certificates", metavar="PEM", required=True, help="your certificate, then those up to the root")
    add("--key", metavar="PEM", required=True, help="your private key (PKCS #8, no password)")
    add("--algorithm", metavar="NAME", default="es256", help=f"{', '.join(ALGORITHMS)} (%(default)s)")
    add("--json", action="store_true", help="print one JSON object in place of lines")
    add_loudness(parser)


def run(options: argparse.Namespace) -> int:
    if options.algorithm not in ALGORITHMS:
        raise ZelligeError(f"Expected --algorithm to be {', '.join(ALGORITHMS)}, but got {options.algorithm[:80]!r}")
    certificates, key = (_read(option, getattr(options, option)) for option in ("certificates", "key"))
    set_loudness(options.verbose)
    from materials.sign import sign_material

    signed = [
        str(path)
        for folder in options.folders
        for path in sign_material(folder, certificates=certificates, key=key, algorithm=options.algorithm)
    ]
    for line in [json.dumps({"signed": signed}, ensure_ascii=False)] if options.json else signed:
        write_line(line)
    sys.stdout.flush()
    return EXIT_DONE


def _read(option: str, path: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ZelligeError(f"Expected --{option} to be a PEM file, but {path} cannot be read: {reason}") from error
    if b"-----BEGIN " not in data:
        raise ZelligeError(f"Expected --{option} to be a PEM file, but {path} is none")
    return data
