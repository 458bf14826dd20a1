"""What the documents show is run, and what they link to exists. Doctests are collected by pytest itself."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest

from asd.torchvision_guard import guard_torchvision
from ui.cli import _parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/any-size.md", "docs/pitfalls.md"]
HAS_WEIGHTS = (ROOT / "materials" / "weights" / "model_index.json").is_file()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.skipif(not HAS_WEIGHTS, reason="materials/weights is not there")
def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = blocks("README.md", "python")
    assert snippets
    scope: dict[str, object] = {"__name__": "readme"}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), scope)


def test_any_size_python_runs() -> None:
    guard_torchvision()
    snippets = blocks("docs/any-size.md", "python")
    assert snippets
    scope: dict[str, object] = {"__name__": "any-size"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        for snippet in snippets:
            exec(compile(snippet, "docs/any-size.md", "exec"), scope)


def test_readme_commands_are_accepted() -> None:
    lines = "".join(blocks("README.md", "sh")).splitlines()
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
