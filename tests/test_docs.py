"""What the documents show is run, and what they link to exists. Doctests are collected by pytest itself."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ui.cli import _parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/export.md", "docs/pitfalls.md"]
HAS_WEIGHTS = (ROOT / "materials" / "weights" / "model_index.json").is_file()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("document", ["README.md", "docs/export.md"])
def test_python_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if document == "README.md" and not HAS_WEIGHTS:
        pytest.skip("materials/weights is not there")
    monkeypatch.chdir(tmp_path)
    snippets = blocks(document, "python")
    assert snippets
    scope: dict[str, object] = {"__name__": "document"}
    for snippet in snippets:
        exec(compile(snippet, document, "exec"), scope)


@pytest.mark.parametrize("document", ["README.md", "docs/export.md"])
def test_commands_are_accepted(document: str) -> None:
    lines = "".join(blocks(document, "sh")).splitlines()
    commands = [line for line in lines if line.startswith("zellige ")]
    assert commands
    for command in commands:
        _parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{document} links to {target}"


def test_contributing_stays_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 60
