"""The running server, asked for what it must not give."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from materials.png import write_png
from tests.ui.web.conftest import ROOT, Site

SESSION = "forged"


@pytest.fixture
def client(site: Site) -> Any:
    with httpx.Client(base_url=site.address, timeout=30, trust_env=False) as made:
        yield made


def call(client: httpx.Client, name: str, data: list[Any]) -> str:
    """Everything the server says when a handler is called with forged values."""
    config = client.get("/config").json()
    place = next(each["id"] for each in config["dependencies"] if each["api_name"] == name)
    asked = client.post("/gradio_api/queue/join", json={"data": data, "fn_index": place, "session_hash": SESSION})
    told = asked.text
    if asked.status_code == 200 and "event_id" in told:
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": SESSION}) as stream:
            for line in stream.iter_lines():
                told += line
                if "process_completed" in line or "close_stream" in line:
                    break
    return told


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "//etc/passwd", "../../../../etc/passwd", "..%2f..%2f..%2fetc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "file:///etc/passwd", "/proc/self/environ", "C:/Windows/win.ini", "\\\\host\\share\\x", "/dev/zero",
        "http://127.0.0.1:1/", "http:/127.0.0.1:1/", "HTTP://127.0.0.1:1/",
        "https://example.org/a.png", "ftp://example.org/x",
        f"{ROOT}/pyproject.toml", "pyproject.toml", "./README.md", "materials/weights/model_index.json", "%00",
        "~/.ssh/id_rsa",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "route", ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/custom_component/"]
)
def test_no_file_but_the_page_s_own_is_served(client: httpx.Client, route: str, path: str) -> None:
    answer = client.get(f"{route}{path}")
    assert answer.status_code in (400, 403, 404, 405, 422), answer.text[:200]
    assert "root:" not in answer.text and "[project]" not in answer.text and "PATH=" not in answer.text


def test_results_themselves_are_not_served(client: httpx.Client, site: Site) -> None:
    site.out.mkdir(exist_ok=True)
    (site.out / "note.txt").write_text("a secret")
    try:
        assert client.get(f"/gradio_api/file={site.out / 'note.txt'}").status_code == 403
    finally:
        (site.out / "note.txt").unlink()


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "image/png", "application/x-python"])
@pytest.mark.parametrize(
    "name", ["a.html", "a.svg", "../../a.html", "a.png.html", "\u202egnp.html", "CON", "a\x00.html", "x" * 300]
)
def test_uploads_are_never_shown_as_pages(client: httpx.Client, name: str, kind: str) -> None:
    body = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    answer = client.post("/gradio_api/upload", files={"files": (name, body, kind)})
    if answer.status_code != 200:
        return
    (path,) = answer.json()
    assert ".." not in Path(path).parts and Path(path).read_bytes() == body
    shown = client.get(f"/gradio_api/file={path}")
    if shown.status_code == 200:
        safe = shown.headers["content-disposition"].startswith("attachment")
        assert safe or shown.headers["content-type"].startswith(("image/png", "image/jpeg", "image/webp"))
        assert shown.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in shown.headers["content-security-policy"]


def test_an_uploaded_drawing_that_is_handed_in_stays_an_attachment(client: httpx.Client) -> None:
    body = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    (path,) = client.post("/gradio_api/upload", files={"files": ("a.svg", body, "image/svg+xml")}).json()
    file = {"path": path, "orig_name": "a.svg", "meta": {"_type": "gradio.FileData"}}
    for name, data in (("recall", [file]), ("on_score", [[file]]), ("on_check", [file, "", False, [file]])):
        call(client, name, data)
    assert client.get(f"/gradio_api/file={path}").headers["content-disposition"].startswith("attachment")


def test_a_large_upload_is_refused_before_it_fills_the_disk(client: httpx.Client) -> None:
    sent = 0

    def body() -> Any:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            sent += 2**20
            yield bytes(2**20)
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    try:
        status = client.post("/gradio_api/upload", content=body(), headers=headers).status_code
    except httpx.TransportError:
        status = 413  # the server hung up, which is as good
    assert status == 413 and client.get("/").status_code == 200


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", str(ROOT / "pyproject.toml"), "/proc/self/environ"]
)
def test_forged_file_values_read_nothing(client: httpx.Client, path: str) -> None:
    file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    for name, data in (("recall", [file]), ("on_check", [file, "", False, [file]]), ("on_score", [[file]])):
        told = call(client, name, data)
        assert "root:" not in told and "[project]" not in told
        assert "All settings" not in told and "Every row" not in told


def test_images_of_the_server_are_not_read(client: httpx.Client, tmp_path: Path) -> None:
    text = {"zellige": json.dumps({"request": {"prompt": "a secret"}})}
    path = write_png(tmp_path / "a.png", np.zeros((3, 8, 8), np.uint8), colour="srgb", text=text)
    file = {"path": str(path), "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    assert "a secret" not in call(client, "recall", [file])
    assert "scored" not in call(client, "on_score", [[file]])


def test_forged_addresses_are_not_fetched(client: httpx.Client) -> None:
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(4)

        def listen() -> None:
            try:
                trap.accept()
                asked.set()
            except OSError:
                return

        thread = threading.Thread(target=listen)
        thread.start()
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/a.png"
        for path, address in ((url, None), ("a.png", url), (url, url)):
            file = {"path": path, "url": address, "meta": {"_type": "gradio.FileData"}}
            call(client, "recall", [file])
            call(client, "on_score", [[file]])
        thread.join()
    assert not asked.is_set()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("on_check", [None, "../../../x", False, None]), ("on_check", [{}, [], {}, [7]]),
        ("on_check", ["x" * 10_000, None, None, "x"]),
        ("recall", [7]), ("recall", [[]]), ("on_make", []), ("on_make", [None] * 19), ("on_make", ["x"] * 19),
        ("on_make", [{"a": 1}] * 19), ("on_export", [["gltf"]]), ("on_export", [["../../x", "gltf"]]), ("on_more", []),
        ("on_score", ["/etc/passwd"]), ("same_seed", []), ("on_select", []),
        ("on_recall", [7]), ("on_given", ["/etc/passwd"]), ("on_card", [{"path": "/etc/passwd"}]),
        ("on_size", ["/etc/passwd", "2", None, None]), ("on_size", [None, {}, [], "x"]),
    ],
)  # fmt: skip
def test_forged_calls_leave_the_server_well(client: httpx.Client, site: Site, name: str, data: list[Any]) -> None:
    told = call(client, name, data)
    assert "Traceback" not in told and "site-packages" not in told
    assert str(site.out) not in told
    assert client.get("/").status_code == 200 and site.process.poll() is None


def test_the_page_says_nothing_of_where_it_runs(client: httpx.Client, site: Site) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/startup-events", "/manifest.json"):
        text = client.get(path).text
        assert str(ROOT) not in text and str(site.out) not in text and str(Path.home()) + "/" not in text, path


def test_no_doors_beside_the_page(client: httpx.Client) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/monitoring", "/gradio_api/mcp/", "/gradio_api/runs", "/metrics"):
        assert client.get(path).status_code >= 300 or "zellige" in client.get(path).text, path
    named = json.dumps(client.get("/gradio_api/info").json()["named_endpoints"])
    assert named == "{}"


def test_a_request_under_another_name_is_refused(client: httpx.Client) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    join = "/gradio_api/queue/join"
    assert client.post(join, json={}, headers={"origin": "http://evil.example"}).status_code == 403
