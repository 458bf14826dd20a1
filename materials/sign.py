"""Content Credentials: the images of a folder signed with the user's certificate (C2PA 2.x, through c2pa-python)."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from materials.atomic import refused, staged
from materials.errors import ZelligeError
from materials.provenance import SOURCE_TYPES, Source

Algorithm = Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"]

_MANIFEST = "material.json"
# nothing is looked up elsewhere, and no thumbnail of each map is kept in it
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


def sign_material(
    folder: str | Path,
    *,
    certificates: bytes,
    key: bytes,
    algorithm: Algorithm = "es256",
    source: Source = "trainedAlgorithmicMedia",
) -> list[Path]:
    """Sign every PNG that a result folder's `material.json` lists; the folder is replaced whole, or stays as it was.

    Pixels and text stay as they are; each file gets a manifest that says that it was created by this program, and how.
    Signing is the last step: whatever edits a file later breaks its signature. Two signatures of one file differ.

    Args:
        folder: as `save_material` writes it.
        certificates: PEM, the signer's first, then those up to the root.
        key: PEM of the signer's private key, PKCS #8, without a password.
        algorithm: what the key is for.
        source: what made the material, in IPTC's words.

    Returns the signed files.

    Raises:
        ZelligeError: no result in the folder, keys and certificates that do not sign, or without the extra `sign`.
        OutputError: where the folder cannot be written.
    """
    c2pa = _library()
    folder = Path(folder)
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        listed: dict[str, dict[str, Any] | None] = {entry["file"]: entry for entry in manifest["maps"].values()}
        listed |= dict.fromkeys(manifest["previews"].values())
        names = [name for name in listed if name.endswith(".png") and Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ZelligeError(f"Expected the folder of a result, but {folder / _MANIFEST} cannot be read.") from error
    version = manifest.get("versions", {}).get("zellige", "unknown")
    with staged(folder) as stage:
        with refused(folder):
            shutil.copytree(folder, stage, dirs_exist_ok=True, symlinks=True)
        for name in names:
            try:
                data = (stage / name).read_bytes()
            except OSError as error:
                raise ZelligeError(f"Expected the file {folder / name}, but it cannot be read.") from error
            signed = _signed(c2pa, data, _claim(name, version, source), certificates, key, algorithm)
            with refused(folder / name):
                (stage / name).write_bytes(signed)
            if (entry := listed[name]) is not None:
                entry["sha256"] = hashlib.sha256(signed).hexdigest()
        with refused(folder / _MANIFEST):
            (stage / _MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [folder / name for name in names]


def _claim(name: str, version: str, source: Source) -> str:
    program = {"name": "zellige", "version": version}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES + source, "softwareAgent": program}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [created]}}
    return json.dumps({"claim_generator_info": [program], "title": name, "assertions": [actions]})


def _signed(c2pa: Any, data: bytes, claim: str, certificates: bytes, key: bytes, algorithm: str) -> bytes:
    target = io.BytesIO()
    try:
        with (
            c2pa.Settings.from_dict(_SETTINGS) as settings,
            c2pa.Context(settings) as context,
            c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm.encode(), certificates, key, None)) as signer,
            c2pa.Builder(claim, context) as builder,
        ):
            builder.sign(signer, "image/png", io.BytesIO(data), target)
    except (c2pa.C2paError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ZelligeError(f"Expected a certificate and a key that sign with {algorithm}, but: {reason}.") from error
    return target.getvalue()


def _library() -> Any:
    try:
        return import_module("c2pa")
    except ImportError as error:
        raise ZelligeError(
            'Expected the package c2pa-python, but it is not installed: pip install "zellige[sign]".'
        ) from error
