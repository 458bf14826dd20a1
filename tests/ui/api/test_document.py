"""The OpenAPI document, and schemathesis over it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from materials.png import write_png
from tests.ui.api.conftest import TOKEN, Live, serving
from ui.request import Request

EXAMPLES = os.environ.get("ZELLIGE_EXAMPLES", "4")
"""Requests per operation; few in CI, more by hand."""
LIMITS_ARE_NO_FAULT = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "409", "413", "429"]
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A server whose jobs take no time."""

    def run_job(request: Request, out: Path, *_: object) -> None:
        import numpy as np

        out.mkdir()
        write_png(out / "basecolor.png", np.zeros((3, 2, 2), np.uint8), colour="srgb")

    monkeypatch.setattr("ui.queue.run_job", run_job)
    with serving(tmp_path / "jobs", token=TOKEN, max_queue=1000, keep=20) as live:
        yield live


def test_every_operation_is_described_with_an_example(other: Live) -> None:
    document = other.ask("GET", "/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json
    operations = [(path, method, op) for path, each in document["paths"].items() for method, op in each.items()]
    assert {path for path, _, _ in operations} == {
        "/v1/score", "/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/events", "/v1/jobs/{id}/cancel", "/v1/jobs/{id}/files",
        "/v1/jobs/{id}/files/{name}", "/v1/jobs/{id}/zip", "/v1/images/generations", "/healthz", "/metrics",
    }  # fmt: skip
    for path, method, operation in operations:
        assert operation["summary"] and operation["description"], (path, method)
        if method != "delete":
            (good,) = (operation["responses"][code] for code in operation["responses"] if code[0] == "2")
            assert "example" in str(good), (path, method)
        for code, told in operation["responses"].items():
            assert code[0] == "2" or told["content"]["application/json"]["example"]["error"]["message"], (path, code)
    for name in ("JobIn", "ImagesIn"):
        assert document["components"]["schemas"][name]["examples"]


def test_schemathesis_finds_nothing(other: Live, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(LIMITS_ARE_NO_FAULT)
    script = Path(sys.executable).with_name("schemathesis")
    patient = ["--request-timeout", "300", "--max-response-time", "300"]
    command = [
        script, "--config-file", tmp_path / "schemathesis.toml", "run", f"{other.url}/openapi.json", "--checks", "all",
        "--header", f"Authorization: Bearer {TOKEN}", "--max-examples", EXAMPLES, "--seed", "7", "--no-color",
        "--warnings", "off", "--continue-on-failure", *patient,
    ]  # fmt: skip
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "12 selected / 12 total" in done.stdout
