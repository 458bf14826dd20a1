from __future__ import annotations

import base64
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from asd.errors import ZelligeError
from tests.ui.api.conftest import TOKEN, Live, serving
from ui.address import listen
from ui.api import Settings
from ui.api.access import Access
from ui.api.errors import ApiError
from ui.api.rates import MAX_CLIENTS, RateLimiter
from ui.cli import main


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "", "127.0.0.1.example.org", "0"])
def test_other_machines_are_only_served_with_a_token(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZelligeError, match="Expected a token to serve on"):
        Settings(host=host)
    assert Settings(host=host, token=TOKEN).token == TOKEN
    assert main(["serve", "--host", host]) == 2
    assert "expected a token to serve on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen-letters", "with a space inside", "mit-ümläuten-und-mehr", "a\nb" * 9]
)
def test_tokens_that_can_be_guessed_or_not_sent(token: str) -> None:
    with pytest.raises(ZelligeError, match="a token of at least 16 ASCII characters without spaces"):
        Settings(token=token)


@pytest.mark.parametrize(
    "values",
    [{"max_queue": 0}, {"rate": 0}, {"rate": float("nan")}, {"max_pixels": -1}, {"keep": 1.5}, {"max_body": True},
     {"models": {"../x": "a"}}, {"models": {"zellige": "a"}}, {"models": {"x": ""}}, {"models": {"": "a"}}],
)  # fmt: skip
def test_settings_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(ZelligeError, match="Expected"):
        Settings(**values)  # pyright: ignore[reportArgumentType] - the point


def test_arguments_of_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, told in [
        (["--port", "70000"], "--port to be 0 to 65535"),
        (["--model", "x"], "NAME=PATH_OR_ID"),
        (["--model", "x=a", "--model", "x=b"], "x twice"),
        (["--max-mb", "0"], "--max-mb"),
        (["--keep-gb", "nan"], "--keep-gb"),
    ]:
        assert main(["serve", *arguments]) == 2
        assert told in capsys.readouterr().err
    monkeypatch.setenv("ZELLIGE_TOKEN", "short")
    assert main(["serve"]) == 2
    assert "a token of at least 16" in capsys.readouterr().err


def test_the_command_from_start_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "ui", "serve", "--port", "0", "--out", str(tmp_path / "jobs")]
    server = subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        line = server.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+) \(Ctrl-C stops\)", line)
        assert address, line
        for arguments, told in [
            (["--port", address[1], "--out", str(tmp_path / "other")], "expected a free port and an address of this"),
            (["--port", "0", "--out", str(tmp_path / "jobs")], "expected a folder that no other server uses"),
            (["--port", "0", "--out", str(Path(__file__))], "expected to write"),
        ]:
            assert main(["serve", *arguments]) == 2
            said = capsys.readouterr().err
            assert told in said and said.count("\n") == 1, said
        with urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/healthz", timeout=300) as answer:
            assert answer.status == 200
    finally:
        server.send_signal(signal.SIGINT)
        rest = server.communicate(timeout=300)[1]
    assert server.returncode == 0 and rest == ""


def test_no_packet_of_an_answer_waits_for_the_client() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic(TOKEN)])
def test_ways_to_give_the_token(header: str) -> None:
    Access(Settings(token=TOKEN)).check("GET", "/metrics", "", {"authorization": header, "host": "x"})


@pytest.mark.parametrize(
    "header",
    ["", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}",
    f"Token {TOKEN}",
     basic(""), basic("x" + TOKEN), "Basic !!!", "Basic /w==", "Basic " + "A" * 5000, f"Bearer {TOKEN}\udcff"],
)  # fmt: skip
def test_everything_else_is_not_the_token(header: str) -> None:
    with pytest.raises(ApiError) as caught:
        Access(Settings(token=TOKEN)).check("GET", "/metrics", "", {"authorization": header, "host": "x"})
    assert caught.value.status == 401 and TOKEN not in caught.value.message


def test_signed_links_end(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(Settings(token=TOKEN))
    path, _, query = access.sign("/v1/jobs/x/files/a.png").partition("?")
    access.check("GET", path, query, {"host": "x"})
    other = Access(Settings(token=TOKEN))
    with pytest.raises(ApiError):
        other.check("GET", path, query, {"host": "x"})  # another process has another key
    import time

    now = time.time()
    monkeypatch.setattr("ui.api.access.time.time", lambda: now + 3700)
    with pytest.raises(ApiError):
        access.check("GET", path, query, {"host": "x"})


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::2]", "0.0.0.0"]
)
def test_names_that_others_point_here(live: Live, host: str) -> None:
    answer = live.ask("GET", "/healthz", headers={"Host": host})
    assert answer.status == 403 and "Host header" in answer.error


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:80"])
def test_names_of_this_machine(live: Live, host: str) -> None:
    assert live.ask("GET", "/healthz", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://["},
    {"Origin": "http://localhost:1"},
                {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)  # fmt: skip
def test_pages_of_other_sites_change_nothing(live: Live, headers: dict[str, str]) -> None:
    before = len(live.app.state.service.queue.jobs())
    answer = live.ask("POST", "/v1/jobs", headers=headers, prompt="oak", size="8x8")
    assert answer.status == 403 and "own pages" in answer.error
    assert len(live.app.state.service.queue.jobs()) == before
    own = {"Origin": live.url, "Sec-Fetch-Site": "same-origin"}
    assert live.ask("POST", "/v1/jobs", headers=own, prompt="", size="8x8").status == 422


def test_no_other_site_may_read(live: Live) -> None:
    answer = live.ask("GET", "/healthz", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_client_has_its_rate(tmp_path: Path) -> None:
    with serving(tmp_path, rate=1.0) as live:
        answers = [live.ask("GET", "/metrics") for _ in range(4)]
        assert [answer.status for answer in answers[:2]] == [200, 200]
        refused = [answer for answer in answers if answer.status == 429]
        assert refused and all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert live.ask("GET", "/healthz").status == 200  # a load balancer's


def test_the_limiter_forgets_clients() -> None:
    limiter = RateLimiter(1, 1, clock=lambda: 0.0)
    for number in range(3 * MAX_CLIENTS):
        limiter.wait(str(number))
    assert len(limiter) == MAX_CLIENTS
