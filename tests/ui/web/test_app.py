from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asd.errors import ZelligeError
from ui import cli
from ui.address import is_loopback
from ui.web import app

ROOT = Path(__file__).parents[3]
TOKEN = "a" * 24


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_others_need_a_token(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ui", "--host", host, "--no-browser"]) == 2
    told = capsys.readouterr()
    assert (
        told.out == "" and told.err == f"zellige: expected --token TEXT, since others can reach {host}, but got none\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--token", "short"], "at least 16 letters and digits"),
        (["--token", "a" * 20 + ";"], "letters and digits"),
        (["--port", "70000"], "--port to be 0 to 65535"),
        (["--port", "x"], "--port to be a whole number"),
        (["--host", "no.such.host.invalid", "--token", TOKEN], "a free port and an address of this machine"),
        (["--out", "/dev/null"], "a folder for the results, but got the file"),
    ],
)
def test_bad_options_are_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ui", "--no-browser", "--port", "0", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told and told.startswith("zellige: expected ") and len(told.splitlines()) == 1


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["ui", "--no-browser", "--port", str(port)]) == 2
    assert f"a free port and an address of this machine, but got 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_token_comes_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZELLIGE_TOKEN", "short")
    assert cli.main(["ui", "--no-browser", "--port", "0", "--host", "0.0.0.0"]) == 2
    assert "at least 16 letters and digits, but got 5 characters" in capsys.readouterr().err


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "", "127.0.0.1.nip.io")))


def test_the_page_is_built_without_torch_and_without_a_way_out(tmp_path: Path) -> None:
    program = f"""
import os, sys
os.environ["GRADIO_ANALYTICS_ENABLED"] = "True"
from fastapi import FastAPI
from ui.web import build, mount
blocks = build({str(tmp_path / "out")!r})
mount(FastAPI(), blocks)
assert not {{"torch", "diffusers", "transformers"}} & set(sys.modules), "torch"
assert not blocks.analytics_enabled
assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and os.environ["HF_HUB_OFFLINE"] == "1"
assert not os.path.exists({str(tmp_path / "out")!r})
open_to_all = [fn.api_name for fn in blocks.fns.values() if fn.api_visibility != "private"]
assert open_to_all == [], open_to_all
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_vibe_mode_is_refused() -> None:
    environment = os.environ | {"GRADIO_VIBE_MODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ui", "ui", "--no-browser", "--port", "0"],
        cwd=ROOT, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2 and "GRADIO_VIBE_MODE to be unset" in done.stderr


def test_results_need_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZelligeError, match="a folder for the results, but got the file"):
        app.build(tmp_path / "file")


def test_scripts_and_styles_name_no_other_host() -> None:
    for path in (ROOT / "ui" / "web" / "static").iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "@import" not in text, path.name


def test_the_sources_of_the_package_hold_the_page_s_files() -> None:
    # hatchling takes every file of a package that git does not ignore; tests/test_packaging.py builds the wheel
    done = subprocess.run(["git", "check-ignore", *map(str, (ROOT / "ui" / "web" / "static").iterdir())], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.stdout == ""
