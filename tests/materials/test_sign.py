from __future__ import annotations

import datetime
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from materials.errors import ZelligeError
from materials.files import load_material, save_material
from materials.material import Material
from materials.png import read_png
from materials.sign import sign_material
from ui.cli import main

c2pa = pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")


def certified() -> tuple[bytes, bytes]:
    """A chain of a certificate and its root, and the key of the first, as C2PA asks for them."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(name: str, key: Any, *, is_root: bool) -> bytes:
        def named(text: str) -> Any:
            kinds = (x509.NameOID.COMMON_NAME, x509.NameOID.ORGANIZATION_NAME)
            return x509.Name([x509.NameAttribute(kind, text) for kind in kinds])

        use = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                             "encipher_only", "decipher_only"), False)  # fmt: skip
        use |= {"digital_signature": not is_root, "key_cert_sign": is_root, "crl_sign": is_root}
        made = x509.CertificateBuilder(named("root"), named(name), key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=9))
        made = made.add_extension(x509.BasicConstraints(is_root, None), critical=True)
        made = made.add_extension(x509.KeyUsage(**use), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
        made = made.add_extension(issuer, critical=False)
        if not is_root:
            mail = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            made = made.add_extension(mail, critical=False)
        return made.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    secret = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate("leaf", leaf, is_root=False) + certificate("root", root, is_root=True), secret


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = torch.Generator().manual_seed(1)
    normal = torch.zeros(3, 16, 24)
    normal[2] = 1
    maps = {name: torch.rand(1, 16, 24, generator=random) for name in ("height", "roughness", "metallic")}
    base = torch.rand(3, 16, 24, generator=random)
    material = Material(basecolor=base, normal=normal, **maps, depth_m=0.01, size_m=(0.6, 0.4), seamless="xy")
    save_material(material, tmp_path / "oak", request={"prompt": "oak", "seed": 7})
    return tmp_path / "oak"


def read(path: Path | bytes) -> dict[str, Any]:
    data = path if isinstance(path, bytes) else path.read_bytes()
    with c2pa.Reader("image/png", io.BytesIO(data)) as reader:
        return json.loads(reader.json())


def faults(found: dict[str, Any]) -> set[str]:
    return {status["code"] for status in found.get("validation_status", [])}


def test_every_image_is_signed_and_keeps_pixels_and_text(folder: Path) -> None:
    before = {path.name: read_png(path) for path in folder.glob("*.png")}
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    chain, key = certified()
    signed = sign_material(folder, certificates=chain, key=key)
    assert {path.name for path in signed} == set(before) and {path.name for path in folder.iterdir()} == set(sizes)
    for path in signed:
        found = read(path)
        (manifest,) = found["manifests"].values()
        (assertion,) = [each for each in manifest["assertions"] if each["label"].startswith("c2pa.actions")]
        (action,) = assertion["data"]["actions"]
        assert action["action"] == "c2pa.created" and action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
        assert manifest["claim_generator_info"][0]["name"] == "zellige" and manifest["signature_info"]["alg"] == "Es256"
        assert faults(found) == {"signingCredential.untrusted"}  # nobody knows the test's root
        after = read_png(path)
        assert (after.pixels == before[path.name].pixels).all() and after.text == before[path.name].text
        assert path.stat().st_size - sizes[path.name] < 20_000
    manifest = json.loads((folder / "material.json").read_text(encoding="utf-8"))
    for entry in manifest["maps"].values():
        assert entry["sha256"] == hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
    assert load_material(folder).size == (24, 16)
    assert [path.name for path in folder.parent.iterdir()] == ["oak"]


def test_a_changed_pixel_shows(folder: Path) -> None:
    chain, key = certified()
    sign_material(folder, certificates=chain, key=key)
    data = bytearray((folder / "basecolor.png").read_bytes())
    data[data.index(b"IDAT") + 30] ^= 1
    assert "assertion.dataHash.mismatch" in faults(read(bytes(data)))


def test_what_does_not_sign_changes_nothing(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    chain, key = certified()
    other = certified()[1]
    for values in (
        {"certificates": chain, "key": other},
        {"certificates": b"-----BEGIN x", "key": key},
        {"certificates": chain, "key": b"-----BEGIN x"},
        {"certificates": chain, "key": key, "algorithm": "ed25519"},
    ):
        with pytest.raises(ZelligeError, match="a certificate and a key that sign with"):
            sign_material(folder, **values)  # pyright: ignore[reportArgumentType] - of several types
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ZelligeError, match="the folder of a result"):
        sign_material(folder / "nothing", certificates=chain, key=key)
    assert [path.name for path in folder.parent.iterdir()] == ["oak"]


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain, key = certified()
    (tmp_path / "chain.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    given = ["--certificates", str(tmp_path / "chain.pem"), "--key", str(tmp_path / "key.pem")]
    assert main(["sign", str(folder), *given]) == 0
    assert capsys.readouterr().out.splitlines() == [str(path) for path in map(Path, _listed(folder))]
    assert main(["sign", str(folder), *given, "--algorithm", "md5"]) == 2
    assert main(["sign", str(folder), *given[:2], "--key", str(tmp_path / "absent")]) == 2
    assert main(["sign", str(folder), *given[:2], "--key", str(folder / "basecolor.png")]) == 2
    assert "is none" in capsys.readouterr().err


def _listed(folder: Path) -> list[str]:
    manifest = json.loads((folder / "material.json").read_text(encoding="utf-8"))
    files = [entry["file"] for entry in manifest["maps"].values()] + list(manifest["previews"].values())
    return [str(folder / name) for name in files]
