from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.ui.conftest import PlainPipeline, hidden
from ui import cli

ROOT = Path(__file__).parents[2]


def zellige(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ui", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **options)  # pyright: ignore


def test_prints_one_line_per_file(pipeline: PlainPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--size", "9x5", "--seed", "4", "--steps", "3", "--count", "2", "--out"]
    code = cli.main(["material", "oak", *arguments, str(out)])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    files = [Path(line) for line in captured.out.splitlines()]
    assert set(files) == {path for path in out.rglob("*") if path.is_file()}
    assert [call["seed"] for call in pipeline.calls] == [4, 5]
    assert pipeline.calls[0]["steps"] == 3 and pipeline.calls[0]["size"] == (9, 5)


def test_json_is_one_object(pipeline: PlainPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["material", "Öl", "--size", "8x8", "--json", "--lock", "roughness=0.8", "--lock", "basecolor=#102030"]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["request"]["lock"] == {"basecolor": "#102030", "roughness": 0.8}
    assert all(Path(file).is_file() for file in told["samples"][0]["files"])
    assert pipeline.calls[0]["lock"]["roughness"] == 0.8


def test_bar_is_shown_when_asked_for(
    pipeline: PlainPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["material", "oak", "--size", "8x8", "-v", "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "4/4" in captured.err and "4/4" not in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected COMMAND, but got nothing"),
        (["paint"], "expected a command"),
        (["material"], "expected PROMPT, but got nothing"),
        (["material", ""], "expected prompt to say what to make, but got an empty text"),
        (["material", "x" * 10_000], "expected prompt to have at most 2000 characters, but got 10000"),
        (["material", "mossy", "wall"], "one prompt in quotes, but got wall"),
        (["material", "oak", "--sizes", "8x8"], "expected options that --help lists"),
        (["material", "oak", "--siz", "8x8"], "expected options that --help lists"),
        (["material", "oak", "--size", "0x8"], "but got 0x8"),
        (["material", "oak", "--size", "-8x8"], "expected a value after --size"),
        (["material", "oak", "--size=-8x8"], "WIDTHxHEIGHT in pixels, such as 1024x768, but got '-8x8'"),
        (["material", "oak", "--size", "big"], "but got 'big'"),
        (["material", "oak", "--size", "1000000x1000000"], "takes about 1.6 PB"),
        (["material", "oak", "--seed", "1.5"], "expected --seed to be a whole number, but got '1.5'"),
        (["material", "oak", "--seed", "9" * 5000], "expected --seed to be a whole number"),
        (["material", "oak", "--guidance", "much"], "expected --guidance to be a number, but got 'much'"),
        (["material", "oak", "--guidance", "inf"], "guidance to be a number from 0 to 100, but got inf"),
        (["material", "oak", "--seamless", "z"], "seamless to be none or x or y or xy, but got 'z'"),
        (["material", "oak", "--lock", "roughness"], "--lock MAP=VALUE"),
        (["material", "oak", "--lock", "ao=1"], "but got 'ao'"),
        (["material", "oak", "--lock", "height=1", "--lock", "height=0"], "each map once, but got height twice"),
        (["material", "oak", "--height-format", "tiff"], "png16 or exr, but got 'tiff'"),
        (["material", "oak", "--device", "abacus"], "'abacus' fails"),
        (["material", "oak", "--out", "/proc/zellige/out"], "/proc/zellige/out"),
        (["material", "oak", "-q", "-v"], "either -v/--verbose or -q/--quiet, but got both"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    last = captured.err.splitlines()[-1]
    assert last.startswith("zellige: expected ") and len(last) < 400
    assert "-v" in arguments or len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unforeseen_error_has_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = PlainPipeline((0, RuntimeError("two\nlines")))
    monkeypatch.setattr("ui.jobs._load", lambda model, device: broken)
    assert cli.main(["material", "oak", "--size", "8x8", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "zellige: an error inside the program (RuntimeError: two lines); -v shows where\n"
    )
    broken.calls.clear()
    assert cli.main(["material", "oak", "--size", "8x8", "--out", str(tmp_path / "out"), "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stopped = PlainPipeline((1, KeyboardInterrupt()))
    monkeypatch.setattr("ui.jobs._load", lambda model, device: stopped)
    assert cli.main(["material", "oak", "--size", "8x8", "--count", "4"]) == 130
    told = "zellige: stopped: 1 of 4 results are whole, missing: out/0001 to 0003\n"
    assert capsys.readouterr().err == told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0000"]
    assert hidden(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    # to whoever writes, a limit on the size of a file is a full disk
    program = f"""
import resource, signal, sys
import ui.jobs
from tests.ui.conftest import PlainPipeline
from ui.cli import main
ui.jobs._load = lambda model, device: PlainPipeline()
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.exit(main(["material", "oak", "--size", "64x64", "--out", {str(tmp_path / "out")!r}]))
"""
    done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"zellige: expected to write {tmp_path / 'out'}/"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_real_interrupt(tmp_path: Path) -> None:
    program = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and their children do
import ui.jobs
from tests.ui.conftest import PlainPipeline
from ui.cli import main
class Slow(PlainPipeline):
    def __call__(self, *args, **options):
        if self.calls:
            print("second", flush=True)
            time.sleep(60)
        return super().__call__(*args, **options)
slow = Slow()
ui.jobs._load = lambda model, device: slow
sys.exit(main(["material", "oak", "--size", "8x8", "--count", "2", "--out", {str(tmp_path / "out")!r}]))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "second\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert errors == f"zellige: stopped: 1 of 2 results are whole, missing: {tmp_path / 'out'}/0001\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0000"]


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = zellige("material", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "--seamless none|x|y|xy" in done.stdout
    # processor time, so that a busy machine does not fail it
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 0.3
    program = "import sys, ui.cli; ui.cli._parser(); print({'torch', 'numpy', 'PIL', 'tqdm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "set()\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from ui import cli; from ui.commands import material\n"
         "material.run = lambda options: (sys.stdout.write('x' * 10**6), sys.stdout.flush(), 0)[-1]\n"
         "sys.exit(cli.main(['material', 'oak']))"],
        cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_version_is_the_project_s(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"zellige {project['version']}\n"


@pytest.mark.parametrize("damage", ["absent", "empty", "text"])
def test_a_bad_checkpoint_is_one_sentence(damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("materials.pipeline")
    capfd.readouterr()
    model = tmp_path / "model"
    if damage != "absent":
        model.mkdir()
    if damage == "text":
        (model / "model_index.json").write_text("no json")
    wish = ["material", "oak", "--size", "64x64", "--model", str(model), "--out", str(tmp_path / "out")]
    if damage == "text":  # what libraries say as they are loaded is only heard in a new process
        done = zellige(*wish)
        code, output, errors = done.returncode, done.stdout, done.stderr
    else:
        code = cli.main(wish)
        output, errors = capfd.readouterr()
    assert (code, output) == (2, "")
    assert errors.startswith("zellige: expected ") and len(errors.splitlines()) == 1, errors
    assert not (tmp_path / "out").exists()
